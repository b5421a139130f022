"""The training data of a DeViSE model: pictures whose labels have vectors, seen and unseen apart.

Pictures of unseen labels are dropped here, before anything else can use them. A model stores one
number for the content of each file that it was trained on, so the same pictures are recognised in
another folder, under other names, and among others. A picture that was resized or saved again
counts as another file.
"""

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqvis.artifacts import ArtifactWriter
from seqvis.devise.labels import WordNet, is_wnid, label_vectors
from seqvis.devise.model import DeviseModel, same_backbone
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.space import LabelSpace, Space
from seqvis.devise.task import Pictures
from seqvis.errors import ArtifactError, ConfigError, DataError
from seqvis.storage import locate
from seqvis.text.lines import read_text
from seqvis.vectors.store import WordVectors
from seqvis.vision.feature_table import FeatureTable
from seqvis.vision.layouts import split_of

DROPPED = "dropped_labels.json"  # in a model
SHOWN = 3  # labels that a message names


@dataclass(frozen=True)
class DroppedLabel:
    """A label without a word vector, whose pictures are left out."""

    label: str
    tried: tuple[str, ...]  # its names and their words, none of which has a vector
    pictures: int


@dataclass(frozen=True)
class TrainingData:
    """Pictures of the seen labels, and the positions of all labels."""

    train: Pictures  # labels number the seen labels, `seen`
    valid: Pictures
    seen: list[str]
    space: Space
    labels: LabelSpace  # seen labels first, then the unseen ones
    vectors: WordVectors
    without_vector: list[DroppedLabel]
    kept_out: int  # pictures in folders for tests, used neither to train nor to validate

    @property
    def targets(self) -> np.ndarray:
        """Points of the seen labels, float32 [seen, dimension]."""
        return self.labels.vectors[: len(self.seen)]


def read_labels(uri: str) -> list[str]:
    """Read labels, one a line; empty lines and lines that begin with # are skipped."""
    lines = read_text(locate(uri)).split("\n")
    labels = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not labels:
        raise DataError(f"{uri}: names no label")
    return labels


def load_data(settings: DeviseSettings) -> TrainingData:
    """Read and check everything. Raises DataError, ArtifactError or ConfigError."""
    table = FeatureTable.open(settings.features)
    vectors = WordVectors.open(settings.vectors)
    unseen = read_labels(settings.unseen) if settings.unseen else []
    if not set(table.labels) - {""}:
        raise DataError(
            f"{settings.features}: its pictures have no labels; embed them from a tree with a "
            f"folder for each label, or with a table labels.csv of files and labels beside them"
        )
    splits = Splits.of(table)
    trained = Counter(table.labels[row] for row in splits.train)
    present = sorted(set(trained) - {""})
    _check_unseen(unseen, sorted(set(table.labels) - {""}), settings)
    space = Space.of(vectors, settings.centred, settings.hierarchy)
    everything = label_vectors(sorted({*present, *unseen}), vectors, WordNet.load())
    dropped = [
        DroppedLabel(label, tried, trained[label])
        for label, tried in zip(everything.labels, everything.failed, strict=True)
        if tried
    ]
    if len(dropped) == len(everything.labels):
        raise DataError(_no_vectors(dropped, settings))
    known = everything.take(np.flatnonzero(everything.has_vector))
    kept_apart = set(unseen)
    seen = [label for label in known.labels if label not in kept_apart]
    if len(seen) < 2:
        raise DataError(
            f"{settings.features}: {len(seen)} labels with a vector are left to train on; two are "
            f"the least"
        )
    order = sorted(range(len(known.labels)), key=lambda row: known.labels[row] in kept_apart)
    ordered = known.take(order)
    labels = LabelSpace.of(ordered, space, np.arange(len(order)) < len(seen), vectors)
    train_rows, valid_table, valid_rows = _split(table, splits, seen, settings)
    return TrainingData(
        _pictures(table, train_rows, seen),
        _pictures(valid_table, valid_rows, seen),
        seen,
        space,
        labels,
        vectors,
        dropped,
        len(splits.test),
    )


def left_out(data: TrainingData) -> list[str]:
    """Return notes, to be shown before training, about pictures that it does not see."""
    notes = []
    dropped = data.without_vector
    if dropped:
        tried = "; ".join(
            f"{label.label} (tried {', '.join(label.tried)})" for label in dropped[:5]
        )
        more = f" and {len(dropped) - 5} more" if len(dropped) > 5 else ""
        pictures = sum(label.pictures for label in dropped)
        notes.append(
            f"{len(dropped)} labels have no word vector and are left out with their {pictures} "
            f"pictures: {tried}{more}; the model's {DROPPED} lists all"
        )
    if data.kept_out:
        notes.append(f"{data.kept_out} pictures below a folder for tests are left out")
    return notes


def _check_unseen(unseen: Sequence[str], present: Sequence[str], settings: DeviseSettings) -> None:
    known, wordnet = set(present), WordNet.load()
    unknown = [label for label in unseen if label not in known and label not in wordnet]
    if unseen and not known & set(unseen):
        raise ConfigError(
            f"--unseen {settings.unseen}: none of its labels ({_some(unseen)}) is a label of "
            f"{settings.features} ({_some(present)})"
        )
    if unknown:
        raise ConfigError(
            f"--unseen {settings.unseen}: no picture in {settings.features} has the label "
            f"{_some(unknown)}"
        )


def _no_vectors(dropped: Sequence[DroppedLabel], settings: DeviseSettings) -> str:
    labels = [label.label for label in dropped]
    tried = "; ".join(f"{label.label}: {', '.join(label.tried)}" for label in dropped[:SHOWN])
    remedy = "give the folders names that are words, or take word vectors of the labels' language"
    if not any(letter.isalpha() for label in labels for letter in label):
        remedy = "numbers are no words: name the folders, or the labels of the table, by words"
    elif all(is_wnid(label) for label in labels):
        remedy = "WordNet's names are English words: take English word vectors"
    return (
        f"{settings.vectors}: has a vector for none of the {len(labels)} labels of "
        f"{settings.features} (tried for {tried}); {remedy}"
    )


@dataclass(frozen=True)
class Splits:
    """Rows of a table, by the folder (train, valid or test) that each picture is in.

    Pictures outside such folders count as `train`. If that leaves none to train on, the pictures of
    `valid` are used for training, or else those of `test`.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    @classmethod
    def of(cls, table: FeatureTable) -> "Splits":
        kinds = np.array([split_of(path) or "train" for path in table.values("path")], dtype=object)
        train, valid, test = (np.flatnonzero(kinds == name) for name in ("train", "valid", "test"))
        none = np.array([], dtype=int)
        if not len(train):
            train, valid = valid, none
        if not len(train):
            train, test = test, none
        return cls(train, valid, test)

    def held_out(self, table: FeatureTable, labels: Sequence[str], share: float) -> np.ndarray:
        """Return the rows with these labels to validate with: those of a folder, else by a hash."""
        rows = _rows_of(table, labels, self.valid)
        if len(rows):
            return rows
        rows = _rows_of(table, labels, self.train)
        return rows[held_out_by_path(table, share)[rows]]


def _rows_of(table: FeatureTable, labels: Sequence[str], among: np.ndarray) -> np.ndarray:
    wanted = set(labels)
    theirs = np.fromiter((label in wanted for label in table.labels), bool, len(table))
    return among[theirs[among]]


def _pictures(table: FeatureTable, rows: np.ndarray, labels: Sequence[str]) -> Pictures:
    number = {label: place for place, label in enumerate(labels)}
    numbers = np.fromiter((number.get(label, -1) for label in table.labels), np.int64, len(table))
    return Pictures(table, rows, numbers[rows])


def _split(
    table: FeatureTable, splits: Splits, seen: Sequence[str], settings: DeviseSettings
) -> tuple[np.ndarray, FeatureTable, np.ndarray]:
    """Return rows to train on, and the rows of a table to validate with."""
    rows = _rows_of(table, seen, splits.train)
    if settings.validation_features is None:
        held_out = splits.held_out(table, seen, settings.validation_share)
        kept = np.setdiff1d(rows, held_out)
        if not len(kept) or not len(held_out):
            raise DataError(
                f"{settings.features}: {len(rows)} pictures are too few to hold some out; give "
                f"--validation-features"
            )
        return kept, table, held_out
    other = FeatureTable.open(settings.validation_features)
    if not same_backbone(other.artifact.config["backbone"], table.artifact.config["backbone"]):
        raise ArtifactError(
            f"{settings.validation_features}: was embedded with another backbone than "
            f"{settings.features}; embed both alike"
        )
    valid_rows = _rows_of(other, seen, np.arange(len(other)))
    if not len(valid_rows):
        raise DataError(f"{settings.validation_features}: none of its labels is trained")
    return rows, other, valid_rows


def held_out_by_path(table: FeatureTable, share: float) -> np.ndarray:
    """Return which pictures to hold out for this share, bool [pictures]."""
    paths = table.values("path")
    return np.fromiter((_hash_share(path) < share for path in paths), bool, len(table))


def _hash_share(path: str) -> float:
    """Return a number from 0 to 1 that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:7], "big") / 2**56


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(labels[:SHOWN]) + more


TRAINED_ON = "trained_on.npy"


def write_trained_on(writer: ArtifactWriter, pictures: Pictures) -> None:
    """Record these pictures in a model's artifact: 8 bytes each."""
    content = io.BytesIO()
    np.save(content, np.unique(_content_numbers(pictures.table)[pictures.rows]))
    writer.path(TRAINED_ON).write_bytes(content.getvalue())


def trained_on(model: DeviseModel, table: FeatureTable) -> np.ndarray | None:
    """Tell whether the model was trained on each picture, bool [pictures]; None if it does not say.

    Older models, which do not record this, know only the very table that they were trained on.
    """
    artifact = model.artifact
    if TRAINED_ON in artifact.files:
        numbers = np.load(io.BytesIO(artifact.file(TRAINED_ON).read_bytes()), allow_pickle=False)
        return np.isin(_content_numbers(table), numbers)
    if model.needs_classes:
        return np.zeros(len(table), dtype=bool)
    if artifact.config["features_fingerprint"] != table.artifact.fingerprint():
        return None
    seen = model.space.seen_labels()
    used = np.array([label in seen for label in table.labels], dtype=bool)
    if artifact.config["validation_features"] is not None:
        return used
    return used & ~held_out_by_path(table, float(artifact.config["validation_share"]))


def _content_numbers(table: FeatureTable) -> np.ndarray:
    numbers = (int.from_bytes(digest[:8], "little") for digest in table.values("content_hash"))
    return np.fromiter(numbers, "<u8", len(table))

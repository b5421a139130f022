"""What a DeViSE model is trained on: pictures with labels that have vectors, seen and unseen apart.

In: settings, a features table, word vectors. Out: `TrainingData`. Unseen labels' pictures are
dropped here, before anything else sees them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqvis.devise.labels import LabelVectors, label_vectors
from seqvis.devise.model import same_backbone
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.space import Space
from seqvis.devise.task import Pictures
from seqvis.devise.wordnet import WordNet
from seqvis.devise.words import LabelSpace
from seqvis.errors import ArtifactError, ConfigError, DataError
from seqvis.storage import locate
from seqvis.text.textfiles import read_text
from seqvis.text.wordvectors import WordVectors
from seqvis.vision.featuretable import FeatureTable

SHOWN = 3  # labels that a message names


@dataclass(frozen=True)
class TrainingData:
    """Pictures of the seen labels and where all labels lie."""

    train: Pictures  # labels number the seen labels, `seen`
    valid: Pictures
    seen: list[str]
    space: Space
    labels: LabelSpace  # seen labels first, then the unseen ones
    vectors: WordVectors
    table: FeatureTable
    train_rows: np.ndarray  # rows of the table that `train` holds
    valid_table: FeatureTable
    valid_rows: np.ndarray
    without_vector: list[str]

    @property
    def targets(self) -> np.ndarray:
        """Points of the seen labels, float32 [seen, dimension]."""
        return self.labels.vectors[: len(self.seen)]


def read_labels(uri: str) -> list[str]:
    """Labels in a text file, one a line; empty lines and lines that begin with # are skipped."""
    lines = read_text(locate(uri)).split("\n")
    labels = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not labels:
        raise DataError(f"{uri}: names no label")
    return labels


def load_data(settings: DeviseSettings) -> TrainingData:
    """Reads and checks everything; raises DataError, ArtifactError or ConfigError."""
    table = FeatureTable.open(settings.features)
    vectors = WordVectors.open(settings.vectors)
    unseen = read_labels(settings.unseen) if settings.unseen else []
    present = sorted(set(table.labels) - {""})
    if not present:
        raise DataError(
            f"{settings.features}: its pictures have no labels; embed them from a tree with a "
            f"folder for each label, or from a table"
        )
    _check_unseen(unseen, present, settings)
    space = Space.of(vectors, settings.centred)
    found = _find_labels(present, unseen, vectors, settings)
    kept_apart = set(unseen)
    seen = [label for label in found.labels if label not in kept_apart]
    if len(seen) < 2:
        raise DataError(
            f"{settings.features}: {len(seen)} labels with a vector are left to train on; two are "
            f"the least"
        )
    order = sorted(range(len(found.labels)), key=lambda row: found.labels[row] in kept_apart)
    ordered = found.take(order)
    labels = LabelSpace.of(ordered, space, np.arange(len(order)) < len(seen))
    rows = _rows_of(table, seen)
    train_rows, valid_table, valid_rows = _split(table, rows, seen, settings)
    return TrainingData(
        _pictures(table, train_rows, seen),
        _pictures(valid_table, valid_rows, seen),
        seen,
        space,
        labels,
        vectors,
        table,
        train_rows,
        valid_table,
        valid_rows,
        sorted(set(present) - set(found.labels)),
    )


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


def _find_labels(
    present: Sequence[str],
    unseen: Sequence[str],
    vectors: WordVectors,
    settings: DeviseSettings,
) -> LabelVectors:
    labels = sorted(set(present) | set(unseen))
    everything = label_vectors(labels, vectors, WordNet.load())
    missing = [label for label, found in zip(labels, everything.found, strict=True) if not found]
    if len(missing) == len(labels):
        raise DataError(
            f"{settings.vectors}: has a vector for none of the {len(labels)} labels of "
            f"{settings.features} ({_some(labels)}); take word vectors of the labels' language"
        )
    return everything.take(np.flatnonzero(everything.found))


def _rows_of(table: FeatureTable, labels: Sequence[str]) -> np.ndarray:
    wanted = set(labels)
    return np.array([row for row, label in enumerate(table.labels) if label in wanted], dtype=int)


def _pictures(table: FeatureTable, rows: np.ndarray, labels: Sequence[str]) -> Pictures:
    number = {label: place for place, label in enumerate(labels)}
    numbers = np.array([number[table.labels[row]] for row in rows], dtype=np.int64)
    return Pictures(table.features, rows, numbers)


def _split(
    table: FeatureTable, rows: np.ndarray, seen: Sequence[str], settings: DeviseSettings
) -> tuple[np.ndarray, FeatureTable, np.ndarray]:
    """Rows to train on, and the rows of a table to validate with."""
    if settings.validation_features is None:
        held_out = np.array(
            [_hash_share(table.paths[row]) < settings.validation_share for row in rows], dtype=bool
        )
        if held_out.all() or not held_out.any():
            raise DataError(
                f"{settings.features}: {len(rows)} pictures are too few to hold some out; give "
                f"--validation-features"
            )
        return rows[~held_out], table, rows[held_out]
    other = FeatureTable.open(settings.validation_features)
    if not same_backbone(other.artifact.config["backbone"], table.artifact.config["backbone"]):
        raise ArtifactError(
            f"{settings.validation_features}: was embedded with another backbone than "
            f"{settings.features}; embed both alike"
        )
    valid_rows = _rows_of(other, seen)
    if not len(valid_rows):
        raise DataError(f"{settings.validation_features}: none of its labels is trained")
    return rows, other, valid_rows


def _hash_share(path: str) -> float:
    """A number from 0 to 1 that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:7], "big") / 2**56


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return ", ".join(labels[:SHOWN]) + more

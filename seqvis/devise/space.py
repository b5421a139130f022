"""The space in which pictures, labels and words are compared: unit vectors around a centre.

Word vectors share a direction that says nothing about their meaning, and because of it everything
is closer to some words than to others. `Space` subtracts the mean of the most frequent words before
vectors are brought to unit length (Mu and Viswanath 2018, arXiv 1702.01417, its first step).

With `hierarchy` the point of a synset also says where the synset is in WordNet: its word vector is
mixed with those of its hypernyms, and `hierarchy` further numbers follow, which are alike for
synsets with many common hypernyms. Words of a query have zeros there.

`WordSpaceModel` is the part of a trained model that knows where words lie; `DeviseModel` adds the
network for pictures. Nothing here imports torch, so a process that only answers text queries starts
in a second and stays small.
"""

import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load as load_arrays

from seqvis import artifacts
from seqvis.artifacts import Artifact
from seqvis.devise.labels import LabelVectors, WordNet, label_vectors
from seqvis.errors import ArtifactError
from seqvis.hub.onhub import OnHub
from seqvis.storage import Place
from seqvis.vectors.store import WordVectors
from seqvis.vision.layouts import wnid_at_start

FREQUENT_WORDS = 20_000
FROM_HYPERNYMS = 0.5  # of their mean, added to a synset's own word vector


@dataclass(frozen=True)
class Space:
    """The transformation that projects word vectors, and labels by them."""

    centre: np.ndarray  # float32 [word dimension]; zeros: vectors are only brought to unit length
    hierarchy: int = 0  # numbers of a synset's place in WordNet, after those of its word vector

    @classmethod
    def of(cls, vectors: WordVectors, centred: bool, hierarchy: int = 0) -> "Space":
        """Make the space of a store: its centre is the mean of the frequent words' unit vectors."""
        centre = np.zeros(vectors.dimension, dtype=np.float32)
        if centred:
            frequent, _ = vectors.find(list(islice(vectors.words(), FREQUENT_WORDS)))
            centre = unit(frequent).mean(axis=0)
        return cls(centre, hierarchy)

    @property
    def dimension(self) -> int:
        return len(self.centre) + self.hierarchy

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Turn word vectors [n, word dimension] into unit rows of the space; zeros stay zeros."""
        return np.pad(self._centred(vectors), ((0, 0), (0, self.hierarchy)))

    def project_labels(self, classes: LabelVectors, vectors: WordVectors) -> np.ndarray:
        """Turn labels with their word vectors into unit rows of the space; zeros stay zeros."""
        points = self.project(classes.vectors)
        if not self.hierarchy:
            return points
        wordnet = WordNet.load()
        synsets = {
            row: str(wnid)
            for row in np.flatnonzero(points.any(axis=1)).tolist()
            if (wnid := wnid_at_start(classes.labels[row])) in wordnet
        }
        if synsets:
            above = sorted(wordnet.with_hypernyms(synsets.values()))
            centred = self._centred(label_vectors(above, vectors, wordnet).vectors)
            words = dict(zip(above, centred, strict=True))
            points[list(synsets)] = _in_hierarchy(synsets.values(), words, wordnet, self.hierarchy)
        return points

    def _centred(self, vectors: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(length > 0, unit(unit(vectors) - self.centre), 0).astype(np.float32)


def _in_hierarchy(
    synsets: Iterable[str], words: Mapping[str, np.ndarray], wordnet: WordNet, size: int
) -> np.ndarray:
    """Return the points of synsets, unit rows [n, word dimension + size].

    The numbers of the hierarchy are a sum over the synset and all that is above it: each adds
    random signs of its own, with a weight that grows with the share of its hypernym's kinds that
    it leaves out (its gain in intrinsic information content, Seco et al. 2004).

    Args:
        words: unit word vectors, or zeros, of the synsets and of all above them.
    """

    @cache
    def kinds(wnid: str) -> float:
        """Count the synsets below and itself; one with several hypernyms counts in part."""
        below = wordnet.hyponyms(wnid)
        return 1 + sum(kinds(kind) / len(wordnet.hypernyms(kind)) for kind in below)

    def information(wnid: str) -> float:
        return 1 - math.log(kinds(wnid)) / math.log(len(wordnet))

    @cache
    def summed(wnid: str) -> tuple[np.ndarray, np.ndarray]:
        hypernyms = wordnet.hypernyms(wnid)
        gain = max(0.0, information(wnid) - max(map(information, hypernyms), default=0.0))
        digest = hashlib.shake_256(wnid.encode()).digest(-(-size // 8))
        signs = 2 * np.unpackbits(np.frombuffer(digest, np.uint8))[:size].astype(np.float32) - 1
        word, place = words[wnid], math.sqrt(gain) * signs
        if hypernyms:
            words_above, places_above = zip(*map(summed, hypernyms), strict=True)
            word = word + FROM_HYPERNYMS * np.mean(words_above, axis=0)
            place = place + np.mean(places_above, axis=0)
        return word, place

    parts = zip(*map(summed, synsets), strict=True)
    return unit(np.concatenate([unit(np.stack(part)) for part in parts], axis=1))


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of unit length; rows of zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)


KIND = "devise"
LABELS, WEIGHTS = "labels.parquet", "model.safetensors"


@dataclass(frozen=True)
class LabelSpace:
    """The labels a model knows, seen in training or not."""

    labels: list[str]  # wnids or names
    names: list[str]  # to be read
    vectors: np.ndarray  # float32 [labels, dimension], points of the space, of unit length
    seen: np.ndarray  # bool [labels]
    how: list[str]  # how the vector was found

    @classmethod
    def of(
        cls, classes: LabelVectors, space: Space, seen: np.ndarray, vectors: WordVectors
    ) -> "LabelSpace":
        points = space.project_labels(classes, vectors)
        return cls(classes.labels, classes.names, points, seen, classes.how)

    @classmethod
    def read(cls, artifact: Artifact) -> "LabelSpace":
        """Return the labels that a model's artifact holds."""
        # `read_table` and `to_numpy` would load pandas, which takes as long as all the rest, and
        # `flatten` would load pyarrow.compute.
        table = pq.ParquetFile(io.BytesIO(artifact.file(LABELS).read_bytes())).read()
        vectors = table["vector"].combine_chunks()
        return cls(
            table["label"].to_pylist(),
            table["name"].to_pylist(),
            np.from_dlpack(vectors.values).reshape(len(table), -1),
            np.array(table["seen"].to_pylist(), dtype=bool),
            table["how"].to_pylist(),
        )

    def seen_labels(self) -> set[str]:
        """Return the labels that training had pictures of."""
        return {label for label, seen in zip(self.labels, self.seen, strict=True) if seen}

    def take(self, rows: np.ndarray) -> "LabelSpace":
        """Return the labels of these rows, in their order."""
        return LabelSpace(
            [self.labels[row] for row in rows],
            [self.names[row] for row in rows],
            self.vectors[rows],
            self.seen[rows],
            [self.how[row] for row in rows],
        )


class WordSpaceModel(OnHub):
    """The space of a trained model with its labels. Read-only; safe to share between threads."""

    def __init__(self, artifact: Artifact, labels: LabelSpace, centre: np.ndarray):
        self.artifact = artifact
        self.space = labels
        self.word_space = Space(centre, int(artifact.config.get("hierarchy", 0)))

    @classmethod
    def open(cls, uri: Place) -> Self:
        """Open what train_devise wrote. Raises ArtifactError if it is missing or altered."""
        artifact = artifacts.load(uri, KIND)
        tensors = load_arrays(artifact.file(WEIGHTS).read_bytes())
        try:
            return cls(artifact, LabelSpace.read(artifact), tensors["centre"])
        except KeyError as error:
            raise mismatch(artifact, error) from error

    @classmethod
    def _open_from_hub(cls, uri: str, **options: Any) -> Self:
        return cls.open(uri, **options)

    def _as_artifact(self, folder: Path) -> Artifact:
        return self.artifact

    @property
    def dimension(self) -> int:
        """Numbers of a point."""
        return self.word_space.dimension

    @property
    def unseen_bonus(self) -> float:
        """What is added to the cosines of unseen labels where all of `space` compete."""
        return float(self.artifact.metrics["unseen_bonus"])

    @property
    def vectors_uri(self) -> str:
        """Where the word vectors were that it was trained with."""
        return str(self.artifact.config["vectors"])

    @property
    def vectors_fingerprint(self) -> str:
        """Hash of these word vectors' files."""
        return str(self.artifact.config["vectors_fingerprint"])

    def project_words(self, vectors: np.ndarray) -> np.ndarray:
        """Turn stored word vectors [n, word dimension] into points of the space."""
        return self.word_space.project(vectors)


def open_vectors(model: WordSpaceModel, vectors: str | None = None) -> WordVectors:
    """Return the word vectors that the model was trained with, at `vectors` if they were moved.

    Raises ArtifactError if they are missing or different.
    """
    uri = vectors or model.vectors_uri
    try:
        store = WordVectors.open(uri)
    except ArtifactError as error:
        raise ArtifactError(f"{error}\n--vectors: say where {model.vectors_uri} is now") from error
    where = model.artifact.location.uri
    expected = len(model.word_space.centre)
    if store.dimension != expected:
        raise ArtifactError(
            f"{uri}: its vectors have {store.dimension} dimensions, those of {where} "
            f"{expected}; give the word vectors that it was trained with"
        )
    if store.fingerprint() != model.vectors_fingerprint:
        raise ArtifactError(
            f"{uri}: holds other word vectors than {where} was trained with; give those"
        )
    return store


def mismatch(artifact: Artifact, error: Exception) -> ArtifactError:
    """Return the error for weights that lack a part or do not have the settings' shape."""
    return ArtifactError(
        f"{artifact.location.uri}: its weights do not fit its settings ({error}); "
        f"train it anew with seqvis train-devise"
    )

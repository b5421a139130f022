"""Candidate names for a picture: a model's labels, ImageNet's classes, or all of WordNet.

`Candidates` holds names with their points in the space of words, and finds those nearest to a
picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, get_args

import numpy as np

from seqvis.devise.labels import WordNet, imagenet_classes, label_vectors
from seqvis.devise.space import WordSpaceModel
from seqvis.errors import DataError
from seqvis.search.requests import NameSet
from seqvis.vectors.store import WordVectors


@dataclass(frozen=True)
class Word:
    """A name near a picture; `score` is the cosine, without any bonus."""

    name: str
    labels: tuple[str, ...]  # wnids, or names of a model without synsets
    score: float
    seen: bool  # whether pictures with this label were in the training


@dataclass(frozen=True)
class Candidates:
    """Names, the labels that share each name, and unit vectors [names, dimension]."""

    names: list[str]
    labels: list[tuple[str, ...]]
    vectors: np.ndarray
    seen: np.ndarray  # bool [names]

    @classmethod
    def of(
        cls, names: Sequence[str], labels: Sequence[str], vectors: np.ndarray, seen: np.ndarray
    ) -> Self:
        """Merge labels of equal name and vector; labels without a vector (zeros) are left out."""
        # WordNet's three synsets called `mink` share one word vector and would always be found
        # together, so they become one candidate with three labels.
        groups: dict[tuple[str, bytes], list[int]] = {}
        for row in np.flatnonzero(vectors.any(axis=1)).tolist():
            groups.setdefault((names[row], vectors[row].tobytes()), []).append(row)
        members = list(groups.values())
        return cls(
            [names[rows[0]] for rows in members],
            [tuple(labels[row] for row in rows) for rows in members],
            vectors[[rows[0] for rows in members]],
            np.array([bool(seen[rows].any()) for rows in members], dtype=bool),
        )

    def nearest(self, point: np.ndarray, k: int, unseen_bonus: float) -> list[Word]:
        """The `k` names nearest to a unit vector, best first.

        Training pulls pictures towards labels that were seen. Where seen and unseen names compete
        the bonus is added to the cosines of the unseen for the ranking (calibrated stacking; Chao
        et al. 2016, arXiv 1605.04253); among only one kind it would change nothing.
        """
        cosines = self.vectors @ point
        order = np.argsort(-(cosines + unseen_bonus * ~self.seen), kind="stable")[:k].tolist()
        return [
            Word(self.names[row], self.labels[row], float(cosines[row]), bool(self.seen[row]))
            for row in order
        ]


def find_candidates(which: NameSet, model: WordSpaceModel, vectors: WordVectors) -> Candidates:
    """The names of a set: the model's own labels, ImageNet's 1,000 classes, or all of WordNet.

    Synsets are looked up in the word vectors as labels are in training; those without a vector
    are left out. WordNet's 82,115 take some seconds: keep the result.
    """
    if which not in get_args(NameSet):
        known = ", ".join(get_args(NameSet))
        raise DataError(f"{which!r}: is no set of candidates; there are {known}")
    space = model.space
    if which == "labels":
        return Candidates.of(space.names, space.labels, space.vectors, space.seen)
    wordnet = WordNet.load()
    wnids = wordnet.wnids if which == "wordnet" else [wnid for wnid, _ in imagenet_classes()]
    found = label_vectors(wnids, vectors, wordnet)
    trained = {label for label, seen in zip(space.labels, space.seen, strict=True) if seen}
    seen = np.array([wnid in trained for wnid in wnids], dtype=bool)
    return Candidates.of(found.names, found.labels, model.place_words(found.vectors), seen)

"""The space in which pictures, labels and words are compared: unit vectors around a centre.

Word vectors share a direction that says nothing of their meaning; everything is nearer to some
words than to others because of it. `Space` takes the mean of the most frequent words away before
vectors are brought to unit length (Mu and Viswanath 2018, arXiv 1702.01417, its first step).
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np

from seqvis.vectors.store import WordVectors

FREQUENT_WORDS = 20_000


@dataclass(frozen=True)
class Space:
    """Where word vectors are placed."""

    centre: np.ndarray  # float32 [dimension]; zeros: vectors are only brought to unit length

    @classmethod
    def of(cls, vectors: WordVectors, centred: bool) -> "Space":
        """The space of a store; its centre is the mean of the frequent words' unit vectors."""
        centre = np.zeros(vectors.dimension, dtype=np.float32)
        if centred:
            frequent, _ = vectors.find(list(islice(vectors.words(), FREQUENT_WORDS)))
            centre = unit(frequent).mean(axis=0)
        return cls(centre)

    @property
    def dimension(self) -> int:
        return len(self.centre)

    def place(self, vectors: np.ndarray) -> np.ndarray:
        """Word vectors [n, dimension] as points of the space, of unit length; zeros stay zeros."""
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.where(length > 0, unit(unit(vectors) - self.centre), 0).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of unit length; rows of zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)

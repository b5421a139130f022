"""Flat hit@k, hierarchical precision@k and their harmonic mean, as zero-shot learning reports them.

Scores are cosines [n, candidates]; truths are columns. A tie counts against the model: a candidate
with the same score as the right one ranks before it.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from seqvis.devise.labels import WordNet

HIT_AT = (1, 2, 5, 10, 20)
PRECISION_AT = (2, 5, 10, 20)


def ranks(scores: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Return rank of each row's true candidate, from 1; ties count against it. int [n]."""
    right = scores[np.arange(len(scores)), truths][:, None]
    return np.asarray((scores >= right).sum(axis=1))


def hits(rank: np.ndarray) -> dict[str, float]:
    """Return the share of rows whose true label is among the first k, by "hit@k"."""
    return {f"hit@{k}": float((rank <= k).mean()) if len(rank) else 0.0 for k in HIT_AT}


def harmonic(seen: Mapping[str, float], unseen: Mapping[str, float]) -> dict[str, float]:
    """Return the harmonic mean of the hits of seen and of unseen classes, by "harmonic@k"."""
    result = {}
    for k in HIT_AT:
        a, b = seen[f"hit@{k}"], unseen[f"hit@{k}"]
        result[f"harmonic@{k}"] = 2 * a * b / (a + b) if a + b > 0 else 0.0
    return result


class HierarchicalPrecision:
    """The share of the k nearest candidates in S_k, the true label's neighbours in WordNet."""

    def __init__(self, wordnet: WordNet, candidates: Sequence[str]):
        self._wordnet = wordnet
        self._candidates = list(candidates)
        self._valid = frozenset(candidates)
        self._near: dict[str, Mapping[int, Collection[str]]] = {}  # by label and k

    def of(self, truth: str, nearest: Sequence[int], k: int) -> float:
        """|first k of `nearest` and S_k| / k, for columns in the order of their scores.

        k: one of PRECISION_AT.
        """
        if truth not in self._near:
            self._near[truth] = self._wordnet.nearest_labels(truth, PRECISION_AT, self._valid)
        near = self._near[truth][k]
        return sum(self._candidates[column] in near for column in nearest[:k]) / k

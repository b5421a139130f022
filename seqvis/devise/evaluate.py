"""Score how well a model finds the labels of pictures: flat hit@k and hierarchical precision@k.

The pictures are those of a features table whose own label is a candidate. The candidates, the
labels that compete, are one of these sets: the seen labels, the unseen ones, both, every noun of
WordNet that has a vector, or the unseen nouns at most two or three steps from a seen one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqvis.devise.labels import WordNet, label_vectors
from seqvis.devise.metrics import (
    HIT_AT,
    PRECISION_AT,
    HierarchicalPrecision,
    harmonic,
    hits,
    ranks,
)
from seqvis.devise.model import DeviseModel
from seqvis.devise.space import LabelSpace
from seqvis.errors import DataError
from seqvis.vectors.store import WordVectors
from seqvis.vision.feature_table import FeatureTable

EvaluationLabels = Literal["seen", "unseen", "all", "wordnet", "2-hop", "3-hop"]

BLOCK = 512  # pictures scored at once: 170 MB of scores against all nouns


@dataclass(frozen=True)
class Evaluation:
    """Scores of a model on labelled pictures."""

    metrics: dict[str, float]  # hit@k, hp@k; where both compete seen_hit@k, unseen_..., harmonic@k
    images: int
    candidates: int
    per_class: list[dict[str, object]]  # label, name, seen, images, hit@k, nearest wrong label


def candidate_labels(
    model: DeviseModel, candidates: EvaluationLabels, vectors: WordVectors | None
) -> LabelSpace:
    """Return the labels that compete. `vectors` is needed for WordNet's nouns only."""
    space = model.space
    if candidates in ("seen", "unseen", "all"):
        chosen = {"seen": space.seen, "unseen": ~space.seen, "all": np.ones_like(space.seen)}
        rows = np.flatnonzero(chosen[candidates])
        if not len(rows):
            raise DataError(
                f"{model.artifact.location.uri}: knows no {candidates} labels; train it with "
                f"--unseen FILE"
            )
        return space.take(rows)
    assert vectors is not None
    wordnet = WordNet.load()
    seen = space.seen_labels()
    seen_nouns = [label for label in sorted(seen) if label in wordnet]
    if candidates == "wordnet":
        wnids: Sequence[str] = wordnet.wnids
    else:
        wnids = sorted(wordnet.within_hops(seen_nouns, int(candidates[0])))
    if not seen_nouns or not wnids:
        raise DataError(
            f"{model.artifact.location.uri}: its labels are no synsets of WordNet, so --candidates "
            f"{candidates} means nothing for it; take seen, unseen or all"
        )
    known = label_vectors(wnids, vectors, wordnet)
    known = known.take(np.flatnonzero(known.has_vector))
    is_seen = np.array([label in seen for label in known.labels], dtype=bool)
    return LabelSpace.of(known, model.word_space, is_seen, vectors)


@dataclass(frozen=True)
class Evaluator:
    """A model and the labels that compete for the pictures of a table."""

    model: DeviseModel
    table: FeatureTable
    candidates: EvaluationLabels
    labels: LabelSpace  # those of `candidates`

    def rows(self) -> np.ndarray:
        """Return the rows of the pictures whose label competes. Raises DataError if none does."""
        known = set(self.labels.labels)
        labels = enumerate(self.table.labels)
        rows = np.array([row for row, label in labels if label in known], dtype=int)
        if not len(rows):
            raise DataError(
                f"{self.table.artifact.location.uri}: no picture's label is among the "
                f"{len(known)} candidates (--candidates {self.candidates})"
            )
        return rows

    def evaluate(self, rows: np.ndarray | None = None) -> Evaluation:
        """Score all pictures whose label competes, or those of `rows`, which must be such."""
        rows = self.rows() if rows is None else rows
        labels = self.labels
        column = {label: place for place, label in enumerate(labels.labels)}
        truths = np.array([column[self.table.labels[row]] for row in rows])
        wordnet = WordNet.load()
        of_wordnet = all(label in wordnet for label in labels.labels)
        precision = HierarchicalPrecision(wordnet, labels.labels) if of_wordnet else None
        rank = np.zeros(len(rows), dtype=int)
        wrong = np.zeros(len(rows), dtype=int)
        precisions: dict[int, list[float]] = {k: [] for k in PRECISION_AT if k <= len(column)}
        for start, scores in self._scores(rows):
            part = truths[start : start + len(scores)]
            rank[start : start + len(scores)] = ranks(scores, part)
            nearest = _nearest(scores, max([2, *precisions]))
            first_right = nearest[:, 0] == part
            wrong[start : start + len(scores)] = np.where(first_right, nearest[:, 1], nearest[:, 0])
            if precision:
                for truth, order in zip(part, nearest, strict=True):
                    for k, values in precisions.items():
                        values.append(precision.of(labels.labels[truth], order.tolist(), k))
        metrics = hits(rank)
        if precision:
            metrics |= {f"hp@{k}": float(np.mean(values)) for k, values in precisions.items()}
        of_seen = labels.seen[truths]
        if labels.seen.any() and not labels.seen.all() and of_seen.any() and not of_seen.all():
            seen, unseen = hits(rank[of_seen]), hits(rank[~of_seen])
            metrics |= {f"seen_{key}": value for key, value in seen.items()}
            metrics |= {f"unseen_{key}": value for key, value in unseen.items()}
            metrics |= harmonic(seen, unseen)
        return Evaluation(metrics, len(rows), len(column), _per_class(labels, truths, rank, wrong))

    def nearest(self, rows: Sequence[int], k: int) -> list[list[tuple[int, float]]]:
        """Return the k labels nearest to each picture, as places in `labels`, with their scores."""
        return [
            [(int(place), float(row[place])) for place in order]
            for _, scores in self._scores(np.asarray(rows, dtype=int))
            for order, row in zip(_nearest(scores, k), scores, strict=True)
        ]

    def _scores(self, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the first row's number and the scores [pictures, candidates] of each block."""
        labels = self.labels
        bonus = np.zeros(len(labels.labels), dtype=np.float32)
        # The bonus was calibrated for all labels of the model; among tens of thousands of nouns it
        # would drown the seen ones.
        if self.candidates == "all" and labels.seen.any():
            bonus[~labels.seen] = self.model.unseen_bonus
        for start in range(0, len(rows), BLOCK):
            projected = self.model.project_table(self.table, rows[start : start + BLOCK])
            yield start, projected @ labels.vectors.T + bonus


def _nearest(scores: np.ndarray, k: int) -> np.ndarray:
    """Return columns of the k highest scores of each row, highest first."""
    k = min(k, scores.shape[1])
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)


def _per_class(
    labels: LabelSpace, truths: np.ndarray, rank: np.ndarray, wrong: np.ndarray
) -> list[dict[str, object]]:
    table: list[dict[str, object]] = []
    for truth in np.unique(truths):
        mine = truths == truth
        often = np.bincount(wrong[mine]).argmax()
        table.append(
            {
                "label": labels.labels[truth],
                "name": labels.names[truth],
                "seen": bool(labels.seen[truth]),
                "images": int(mine.sum()),
                **{f"hit@{k}": round(float((rank[mine] <= k).mean()), 4) for k in HIT_AT},
                "most_often_confused_with": labels.names[often],
            }
        )
    return table

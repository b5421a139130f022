"""The bonus of unseen labels: calibrated stacking (Chao et al. 2016, arXiv 1605.04253).

A model favours the labels it was trained with. Adding a constant to the cosines of the others
trades one error for the other. The constant is chosen here on seen labels alone: in each fold some
of them are held out as if unseen, and a head is trained on the rest. The chosen constant maximises
the harmonic mean of both hits over all folds. No picture of a truly unseen label is ever used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from seqvis.devise.metrics import harmonic, hits, ranks
from seqvis.devise.settings import CalibrationSettings
from seqvis.devise.task import BLOCK, Pictures
from seqvis.errors import DataError
from seqvis.training.workers import Workers

BONUSES = np.round(np.arange(0.0, 0.6001, 0.01), 2)

Project = Callable[[Pictures], np.ndarray]
TrainHead = Callable[[int, Pictures, Pictures, np.ndarray], Project]


@dataclass(frozen=True)
class Calibration:
    """The bonus and its expected effect, measured on held-out seen labels."""

    bonus: float
    harmonic: dict[str, float]  # "harmonic@k" with the bonus, mean over the folds
    without: dict[str, float]  # the same without it
    among_unseen: dict[str, float]  # "hit@k" of labels as if unseen, among these alone


def calibrate(
    train: Pictures,
    valid: Pictures,
    targets: np.ndarray,
    settings: CalibrationSettings,
    seed: int,
    train_head: TrainHead,
    workers: Workers,
) -> Calibration:
    """Find the bonus; each of the workers ranks the labels of a share of the pictures.

    Args:
        train, valid: pictures of seen labels; those of `valid` are never trained on.
        targets: float32 points of the seen labels [labels, dimension].
        train_head: trains a head (fold number, train, valid, kept labels) and returns a function
            that projects pictures to unit rows with it.
    """
    parts = np.array_split(np.random.default_rng(seed).permutation(len(targets)), settings.folds)
    curves: list[list[dict[str, float]]] = []
    among_unseen: list[dict[str, float]] = []
    for number, labels in enumerate(parts):
        as_unseen = np.zeros(len(targets), dtype=bool)
        as_unseen[labels] = True
        kept = np.flatnonzero(~as_unseen)
        part = _renumbered(train, kept, len(targets))
        check = _renumbered(valid, kept, len(targets))
        if not len(part) or not len(check):
            raise DataError(
                "the seen labels have too few pictures to calibrate the bonus of unseen ones; "
                "give --validation-features with more of them, or --calibration.folds 0"
            )
        project = train_head(number, part, check, kept)
        # Held-out labels' pictures were not trained on, whichever part of the data they are from.
        held_out = [pictures.where(as_unseen[pictures.labels]) for pictures in (train, valid)]
        others = valid.where(~as_unseen[valid.labels])
        *unseen, seen = (
            _ranked(project, pictures, targets, as_unseen, workers)
            for pictures in (*held_out, others)
        )
        among_unseen.append(hits(np.concatenate([ranked.alone for ranked in unseen])))
        of_unseen = np.concatenate([ranked.with_bonus for ranked in unseen], axis=1)
        curves.append(
            [
                harmonic(hits(unseen_ranks), hits(seen_ranks))
                for unseen_ranks, seen_ranks in zip(of_unseen, seen.with_bonus, strict=True)
            ]
        )
    means = [_mean([curve[place] for curve in curves]) for place in range(len(BONUSES))]
    best = max(range(len(BONUSES)), key=lambda place: means[place][f"harmonic@{settings.at}"])
    return Calibration(float(BONUSES[best]), means[best], means[0], _mean(among_unseen))


def _mean(folds: list[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([fold[key] for fold in folds])) for key in folds[0]}


@dataclass(frozen=True)
class _Ranked:
    """The ranks of pictures' own labels, in any order."""

    with_bonus: np.ndarray  # int32 [bonuses, pictures], among all labels
    alone: np.ndarray  # int32 [pictures], among those held out; meaningless for others


def _ranked(
    project: Project,
    pictures: Pictures,
    targets: np.ndarray,
    as_unseen: np.ndarray,
    workers: Workers,
) -> _Ranked:
    pictures = pictures.where(slice(workers.rank, None, workers.count))
    with_bonus = np.empty((len(BONUSES), len(pictures)), dtype=np.int32)
    alone = np.empty(len(pictures), dtype=np.int32)
    for begin in range(0, len(pictures), BLOCK):
        block = slice(begin, begin + BLOCK)
        part = pictures.where(block)
        truths = part.labels
        scores = project(part) @ targets.T
        for place, bonus in enumerate(BONUSES):
            extra = (bonus * as_unseen).astype(np.float32)
            with_bonus[place, block] = ranks(scores + extra, truths)
        alone[block] = ranks(np.where(as_unseen, scores, -np.inf), truths)
    shares = workers.gather((with_bonus, alone))
    return _Ranked(*(np.concatenate(parts, axis=-1) for parts in zip(*shares, strict=True)))


def _renumbered(pictures: Pictures, kept: np.ndarray, labels: int) -> Pictures:
    """Return the pictures of the kept labels, labels numbered by their place in `kept`."""
    number = np.full(labels, -1, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    chosen = number[pictures.labels] >= 0
    return Pictures(pictures.table, pictures.rows[chosen], number[pictures.labels[chosen]])

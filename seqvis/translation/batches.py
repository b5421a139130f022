"""Sentence pairs in batches, in the order in which training sees them.

`plan_epoch` divides the rows of a `PairTable` into batches of similar length. A batch is a function
of seed, epoch and number alone, so a cursor of two integers resumes anywhere, and N workers share a
batch without talking to each other.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from seqvis.config import Settings
from seqvis.corpus.pairs import PairTable, Side
from seqvis.decoding.direction import Direction, as_written
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.vocabulary import PAD
from seqvis.training.ahead import in_threads


class BatchSettings(Settings):
    """How sentence pairs are put into batches."""

    size: int = Field(125, ge=1)
    """Sentences, or target words, of all workers together in a batch; see unit."""
    unit: Literal["sentences", "tokens"] = "sentences"
    """What size counts; with tokens, long sentences make small batches."""
    bucket: int = Field(50, ge=1)
    """Batches whose sentences are sorted by length together; more: less padding, less chance."""


@dataclass(frozen=True)
class Batch:
    """Sentence pairs as tensors, padded at their ends."""

    source: SourceBatch
    target: Tensor  # (rows, target_length) int64, as the model writes them
    target_words: int  # real target words in the batch of all workers
    positions: int  # the same with padding
    workers: int = 1  # that share the batch
    own_words: int | None = None  # real target words of this worker; None: it has all
    scale: Tensor | None = None  # of the loss, where a recording reads it; None: `share` says it

    def to(self, device: torch.device) -> "Batch":
        target = self.target.to(device, non_blocking=True)
        return replace(self, source=self.source.to(device), target=target)

    def pinned(self) -> "Batch":
        """Return it in memory from which a GPU copies while the host goes on."""
        source = replace(self.source, ids=self.source.ids.pin_memory())
        return replace(self, source=source, target=self.target.pin_memory())

    def share(self, count_padding: bool) -> float:
        """Return what a worker's sum of losses is multiplied by, so that the mean over workers is
        the mean over all their words, or positions."""
        return self.workers / (self.positions if count_padding else self.target_words)


def plan_epoch(
    table: PairTable, settings: BatchSettings, seed: int, epoch: int
) -> list[NDArray[np.int64]]:
    """Return the row numbers of each batch of an epoch, in training order.

    Rows are shuffled, then sorted by length within `bucket` batches' worth, cut into batches,
    and the batches shuffled: the lesson's SortishSampler. Every row occurs once.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(table))
    target_lengths, source_lengths = table.target.lengths, table.source.lengths
    if settings.unit == "tokens":
        share = max(1, int(settings.size / max(1.0, float(target_lengths.mean()))))
    else:
        share = settings.size
    span = share * settings.bucket
    batches: list[NDArray[np.int64]] = []
    for begin in range(0, len(order), span):
        rows = order[begin : begin + span]
        rows = rows[np.lexsort((source_lengths[rows], target_lengths[rows]))]
        batches += _cut(rows, target_lengths[rows], settings)
    return [batches[number] for number in generator.permutation(len(batches))]


class EpochPlans:
    """The batches of epochs; the last one is kept, as planning a large corpus takes a while."""

    def __init__(self, table: PairTable, settings: BatchSettings, seed: int):
        self._given = table, settings, seed
        self._epoch = -1
        self._plan: list[NDArray[np.int64]] = []

    def of(self, epoch: int) -> list[NDArray[np.int64]]:
        """Return what `plan_epoch` does."""
        if epoch != self._epoch:
            self._plan, self._epoch = plan_epoch(*self._given, epoch), epoch
        return self._plan


def plan_validation(table: PairTable, size: int) -> list[NDArray[np.int64]]:
    """Return the row numbers of each validation batch, longest targets first, as the lesson's
    SortSampler has them."""
    order = np.lexsort((np.arange(len(table)), -table.target.lengths))
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def make_batch(
    table: PairTable,
    rows: NDArray[np.int64],
    worker: int = 0,
    workers: int = 1,
    multiple: int = 1,
    direction: Direction = "left-to-right",
) -> Batch:
    """Return this worker's share of a batch: every `workers`-th row.

    Both sides are padded to a multiple of `multiple`; `positions` does not count what that adds. A
    worker without a row gets one whose target is padding, so that all take part in each step.
    """
    own = rows[worker::workers]
    target_lengths = table.target.lengths_of(rows)
    words, width = int(target_lengths.sum()), int(target_lengths.max())
    if len(own) == 0:
        own = rows[:1]
    source_lengths = table.source.lengths_of(own)
    wide = int(source_lengths.max())
    source = _pad(table.source, own, wide + -wide % multiple)
    target = as_written(_pad(table.target, own, width + -width % multiple), direction)
    own_words = int(target_lengths[worker::workers].sum())
    if worker >= len(rows):
        target = torch.full_like(target, PAD)
    source_batch = SourceBatch(source, torch.from_numpy(source_lengths))
    return Batch(source_batch, target, words, width * len(rows), workers, own_words)


def make_batches(
    plan: Sequence[NDArray[np.int64]],
    make: Callable[[NDArray[np.int64]], Batch],
    device: torch.device,
    ahead: bool | None = None,
) -> Iterator[Batch]:
    """Yield the batch that `make` makes of each of a plan's row numbers, on a device.

    `ahead`: make them in threads, in memory from which a GPU copies while the host goes on. By
    default for a GPU, which would wait for them.
    """
    ahead = device.type == "cuda" if ahead is None else ahead

    def made(rows: NDArray[np.int64]) -> Batch:
        return make(rows).pinned() if ahead else make(rows)

    for batch in in_threads(plan, made) if ahead else map(made, plan):
        yield batch.to(device)


def _cut(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], settings: BatchSettings
) -> list[NDArray[np.int64]]:
    if settings.unit == "sentences":
        return [rows[i : i + settings.size] for i in range(0, len(rows), settings.size)]
    batches = []
    begin = 0
    for end in range(1, len(rows) + 1):
        # Rows are sorted, so the last is the longest and the batch is this wide.
        full = end == len(rows) or int(lengths[end]) * (end + 1 - begin) > settings.size
        if full:
            batches.append(rows[begin:end])
            begin = end
    return batches


def _pad(side: Side, rows: NDArray[np.int64], width: int) -> Tensor:
    padded = np.full((len(rows), width), PAD, dtype=np.int64)
    for line, row in enumerate(rows):
        words = side[row]
        padded[line, : len(words)] = words
    return torch.from_numpy(padded)

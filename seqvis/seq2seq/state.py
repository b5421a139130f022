"""The values that encoding and decoding pass along, in training, search and serving alike.

Modules hold only parameters, so two batches can never mix and threads may share a model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from seqvis.graphs import Graphs
from seqvis.text.vocabulary import BOS, PAD

NEVER_GENERATED = [BOS, PAD]
"""Ids that no translation contains."""


@dataclass(frozen=True)
class SourceBatch:
    """Source sentences as padded word ids."""

    ids: Tensor  # (rows, source), padding last
    lengths: Tensor  # (rows,) real words of each, on the CPU

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Self:
        return cls(*pad_ids(sentences))

    def to(self, device: torch.device) -> "SourceBatch":
        return SourceBatch(self.ids.to(device, non_blocking=True), self.lengths)

    @property
    def counted(self) -> Tensor:
        """(rows,) the lengths, where the ids are: to send them there would take longer."""
        return (self.ids != PAD).sum(1)

    @property
    def mask(self) -> Tensor:
        """(rows, source): 0 where there is a word, -inf where there is padding."""
        zeros = torch.zeros(self.ids.shape, device=self.ids.device)
        return zeros.masked_fill_(self.ids == PAD, -math.inf)


@dataclass(frozen=True)
class Memory:
    """What attention reads."""

    keys: Tensor  # (rows, source, attention)
    values: Tensor  # (rows, source, width)
    mask: Tensor  # (rows, source): 0, or -inf where attention must not look


@dataclass(frozen=True)
class DecoderState:
    """All that is carried from one word to the next."""

    hidden: Tensor  # (layers, rows, state_size), float32; an LSTM's cells are in it
    memory: Memory | None  # None without attention


@dataclass(frozen=True)
class DecoderOutput:
    """The results of feeding the decoder known words."""

    features: Tensor  # (steps, rows, embedding): what the projection to words reads
    hidden: Tensor  # (steps, rows, size) of the last layer
    attention: Tensor | None  # (steps, rows, source)


@dataclass(frozen=True)
class StepOutput:
    """The result of feeding each row one word."""

    scores: Tensor  # (rows, vocabulary), not normalised; -inf for NEVER_GENERATED
    attention: Tensor | None  # (rows, source)
    state: DecoderState


class StepModel(Protocol):
    """A model that can be searched: `Seq2Seq` is the reference, `PackedSeq2Seq` is faster."""

    @property
    def graphs(self) -> Graphs | None:
        """Recordings of its steps, if they may be recorded."""

    def encode(self, source: SourceBatch) -> DecoderState:
        """Return the state before the first word."""

    def step(self, words: Tensor, state: DecoderState) -> StepOutput:
        """Feed each row its last word (rows,); `state` stays as it is."""


def pad_ids(sentences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return sentences of any lengths as padded ids (rows, longest), and their lengths (rows,)."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    padded = torch.full((len(sentences), int(lengths.max())), PAD)
    for row, sentence in enumerate(sentences):
        padded[row, : len(sentence)] = torch.tensor(sentence)
    return padded, lengths

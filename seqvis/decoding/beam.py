"""A sentence while it is being translated: its hypotheses so far, greedily or in a beam.

At each step a `Sentence` takes the candidates for the next word and says which of them continue. At
the end it holds the hypotheses, best first, with scores and attention. Nothing here knows the
model.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from seqvis.config import Settings
from seqvis.decoding.cost import longest_target
from seqvis.text.vocabulary import EOS


class SearchSettings(Settings):
    """How a translation is searched for."""

    beam: int = Field(1, ge=1)
    """Hypotheses kept at each step; 1 is greedy search."""
    length_penalty: float = Field(1.0, ge=0)
    """Exponent of the length in ((5 + length) / 6), by which a beam's scores are divided (GNMT);
    0 favours short translations."""
    n_best: int = Field(1, ge=1)
    """Translations returned for a sentence; at most beam."""
    max_length_factor: float = Field(2.0, gt=0)
    """Longest translation in words, as a multiple of the source's length, plus 10."""


@dataclass(frozen=True)
class Hypothesis:
    """One translation of one sentence."""

    ids: list[int]  # without _eos_
    score: float  # sum of log probabilities in nats, divided by the length penalty
    attention: Tensor | None  # (words, source_length): weights of each word; None without attention
    finished: bool  # False if it was cut at the longest length


Candidates = list[tuple[float, int, int]]  # (score, row of the sentence it grows from, word)


class Sentence(ABC):
    """A sentence in a running batch, with the hypotheses found for it."""

    def __init__(self, length: int, settings: SearchSettings):
        self.length = length  # of the source, with _eos_
        self.settings = settings
        self.width = settings.beam
        self.hypotheses: list[Hypothesis] = []  # n_best at the most, best first, once it ended
        self.scores = [0.0] + [-torch.inf] * (self.width - 1)
        self.limit = longest_target(length, settings.max_length_factor)

    @property
    @abstractmethod
    def ids(self) -> Sequence[int]:
        """The best translation so far."""

    @abstractmethod
    def grow(
        self, candidates: Candidates, attention: np.ndarray | None
    ) -> list[tuple[int, int]] | None:
        """Takes the step's candidates; returns the (row, word) that go on, none if it ended.

        `attention` (width, source_length) has the weights of each row's step.
        """

    def _hypothesis(
        self, ids: Sequence[int], score: float, attention: Sequence[np.ndarray], finished: bool
    ) -> Hypothesis:
        """`score` is that of the whole hypothesis, the length penalty in it."""
        weights = torch.from_numpy(np.stack(attention)) if attention else None
        return Hypothesis(list(ids), score, weights, finished)

    def _penalised(self, score: float, words: int) -> float:
        return score / _penalty(words, self.settings.length_penalty)


def sentence_of(length: int, settings: SearchSettings) -> Sentence:
    """A sentence of `length` words, `_eos_` among them, before its first step."""
    return _Greedy(length, settings) if settings.beam == 1 else _Beam(length, settings)


class _Greedy(Sentence):
    """Takes the likeliest word at each step."""

    def __init__(self, length: int, settings: SearchSettings):
        super().__init__(length, settings)
        self._ids: list[int] = []
        self._score = 0.0
        self._attention: list[np.ndarray] = []

    @property
    def ids(self) -> Sequence[int]:
        return self._ids

    def grow(
        self, candidates: Candidates, attention: np.ndarray | None
    ) -> list[tuple[int, int]] | None:
        score, _, word = candidates[0]
        self._score += score
        if word == EOS:
            self._end(finished=True)
            return None
        self._ids.append(word)
        if attention is not None:
            self._attention.append(attention[0, : self.length])
        if len(self._ids) >= self.limit:
            self._end(finished=False)
            return None
        return [(0, word)]

    def _end(self, finished: bool) -> None:
        score = self._penalised(self._score, len(self._ids) + finished)
        self.hypotheses = [self._hypothesis(self._ids, score, self._attention, finished)]


@dataclass(frozen=True)
class _Partial:
    """An unfinished hypothesis of a beam."""

    ids: tuple[int, ...]
    attention: tuple[np.ndarray, ...]


class _Beam(Sentence):
    """Keeps `beam` hypotheses; ends when no unfinished one can beat the finished ones."""

    def __init__(self, length: int, settings: SearchSettings):
        super().__init__(length, settings)
        # At first all hypotheses are the same: `scores` lets only one be extended.
        self._partial = [_Partial((), ())] * self.width
        self._finished: list[tuple[float, _Partial]] = []

    @property
    def ids(self) -> Sequence[int]:
        return self._partial[0].ids

    def grow(
        self, candidates: Candidates, attention: np.ndarray | None
    ) -> list[tuple[int, int]] | None:
        grown: list[tuple[float, int, int, _Partial]] = []
        for rank, (score, origin, word) in enumerate(candidates):
            if score == -torch.inf:
                continue
            one = self._partial[origin]
            if word == EOS:
                if rank < self.width:
                    self._finished.append((self._penalised(score, len(one.ids) + 1), one))
                continue
            if len(grown) == self.width:
                continue
            seen = one.attention
            if attention is not None:
                seen = (*seen, attention[origin, : self.length])
            grown.append((score, origin, word, _Partial((*one.ids, word), seen)))
        if self._is_done(grown):
            finished = bool(self._finished)
            ended = self._finished or [
                (self._penalised(score, len(one.ids)), one) for score, _, _, one in grown
            ]
            ended.sort(key=lambda scored: -scored[0])
            self.hypotheses = [
                self._hypothesis(one.ids, score, one.attention, finished)
                for score, one in ended[: self.settings.n_best]
            ]
            return None
        grown += [(-torch.inf, *grown[0][1:])] * (self.width - len(grown))
        self._partial = [one for _, _, _, one in grown]
        self.scores = [score for score, _, _, _ in grown]
        return [(origin, word) for _, origin, word, _ in grown]

    def _is_done(self, grown: list[tuple[float, int, int, _Partial]]) -> bool:
        if not grown or len(grown[0][3].ids) >= self.limit:
            return True
        if len(self._finished) < max(self.settings.n_best, 1):
            return False
        # A longer hypothesis can only lose probability, but a length penalty may make up for it.
        exponent = self.settings.length_penalty
        bound = grown[0][0] / _penalty(self.limit if exponent else 1, exponent)
        worst = sorted(score for score, _ in self._finished)[-self.settings.n_best]
        return bound <= worst


def _penalty(length: int, exponent: float) -> float:
    """The length penalty of GNMT (Wu et al. 2016, equation 14)."""
    return float(((5 + length) / 6) ** exponent)

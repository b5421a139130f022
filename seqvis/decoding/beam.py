"""The decoding of one sentence: its hypotheses so far, greedily or in a beam.

At each step a `SentenceDecoding` takes the best extensions of its hypotheses by one word and says
which of them continue. Nothing here knows the model.
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


class DecodingSettings(Settings):
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
    log_probability: float = 0.0  # mean of the words, `_eos_` among them, in nats


Extensions = list[tuple[float, int, int]]
"""Score, row of the hypothesis within its sentence, and next word, best first."""


class SentenceDecoding(ABC):
    """A sentence in a running batch, with the hypotheses found for it."""

    def __init__(self, length: int, settings: DecodingSettings):
        self.length = length  # of the source, with _eos_
        self.settings = settings
        self.width = settings.beam
        self.hypotheses: list[Hypothesis] = []  # n_best at most, best first, once it has ended
        self.ids: Sequence[int] = []  # the best translation so far
        self.scores = [0.0] + [-torch.inf] * (self.width - 1)
        self.limit = longest_target(length, settings.max_length_factor)

    @abstractmethod
    def extend(
        self, extensions: Extensions, attention: np.ndarray | None
    ) -> list[tuple[int, int]] | None:
        """Take the step's extensions; return the (row, word) that continue, or None at the end.

        `attention` (width, source_length) has the weights of each row's step.
        """

    def hypothesis(
        self, ids: Sequence[int], score: float, attention: Tensor | None, finished: bool
    ) -> Hypothesis:
        """Return a translation with this score, from which its mean log probability follows."""
        words = len(ids) + finished
        mean = score * length_penalty(words, self.settings.length_penalty) / max(1, words)
        return Hypothesis(list(ids), score, attention, finished, mean)

    def _penalised(self, score: float, words: int) -> float:
        return score / length_penalty(words, self.settings.length_penalty)


def start_decoding(length: int, settings: DecodingSettings) -> SentenceDecoding:
    """Return the decoding of a sentence of `length` words, `_eos_` included."""
    kind = GreedyDecoding if settings.beam == 1 else BeamDecoding
    return kind(length, settings)


class GreedyDecoding(SentenceDecoding):
    """Takes the word with the highest score at each step."""

    def __init__(self, length: int, settings: DecodingSettings):
        super().__init__(length, settings)
        self.ids: list[int] = []
        self._score = 0.0
        self._attention: list[np.ndarray] = []

    def extend(
        self, extensions: Extensions, attention: np.ndarray | None
    ) -> list[tuple[int, int]] | None:
        score, _, word = extensions[0]
        self._score += score
        finished = word == EOS
        if not finished:
            self.ids.append(word)
            if attention is not None:
                self._attention.append(attention[0, : self.length])
            if len(self.ids) < self.limit:
                return [(0, word)]
        score = self._penalised(self._score, len(self.ids) + finished)
        self.hypotheses = [self.hypothesis(self.ids, score, _stacked(self._attention), finished)]
        return None


@dataclass(frozen=True)
class _Partial:
    """An unfinished hypothesis of a beam."""

    ids: tuple[int, ...]
    attention: tuple[np.ndarray, ...]


class BeamDecoding(SentenceDecoding):
    """Keeps `beam` hypotheses; ends when no unfinished one can beat the finished ones."""

    def __init__(self, length: int, settings: DecodingSettings):
        super().__init__(length, settings)
        # At first all hypotheses are the same: `scores` lets only one be extended.
        self._partial = [_Partial((), ())] * self.width
        self._finished: list[tuple[float, _Partial]] = []

    def extend(
        self, extensions: Extensions, attention: np.ndarray | None
    ) -> list[tuple[int, int]] | None:
        extended: list[tuple[float, int, int, _Partial]] = []
        for rank, (score, row, word) in enumerate(extensions):
            if score == -torch.inf:
                continue
            partial = self._partial[row]
            if word == EOS:
                if rank < self.width:
                    penalised = self._penalised(score, len(partial.ids) + 1)
                    self._finished.append((penalised, partial))
                continue
            if len(extended) == self.width:
                continue
            weights = partial.attention
            if attention is not None:
                weights = (*weights, attention[row, : self.length])
            extended.append((score, row, word, _Partial((*partial.ids, word), weights)))
        if self._is_done(extended):
            finished = bool(self._finished)
            ended = self._finished or [
                (self._penalised(score, len(partial.ids)), partial)
                for score, _, _, partial in extended
            ]
            ended.sort(key=lambda scored: -scored[0])
            self.hypotheses = [
                self.hypothesis(partial.ids, score, _stacked(partial.attention), finished)
                for score, partial in ended[: self.settings.n_best]
            ]
            return None
        extended += [(-torch.inf, *extended[0][1:])] * (self.width - len(extended))
        self._partial = [partial for _, _, _, partial in extended]
        self.ids = self._partial[0].ids
        self.scores = [score for score, _, _, _ in extended]
        return [(row, word) for _, row, word, _ in extended]

    def _is_done(self, extended: list[tuple[float, int, int, _Partial]]) -> bool:
        if not extended or len(extended[0][3].ids) >= self.limit:
            return True
        if len(self._finished) < self.settings.n_best:
            return False
        # A longer hypothesis can only lose probability, but a length penalty may make up for it.
        exponent = self.settings.length_penalty
        bound = extended[0][0] / length_penalty(self.limit if exponent else 1, exponent)
        worst = sorted(score for score, _ in self._finished)[-self.settings.n_best]
        return bound <= worst


def _stacked(attention: Sequence[np.ndarray]) -> Tensor | None:
    return torch.from_numpy(np.stack(attention)) if attention else None


def length_penalty(words: int, exponent: float) -> float:
    """Return the length penalty of GNMT (Wu et al. 2016, equation 14), by which the log probability
    of so many words, `_eos_` included, is divided."""
    return float(((5 + words) / 6) ** exponent)

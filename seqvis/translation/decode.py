"""Searching for translations: greedy and beam search in a batch that sentences join and leave.

In: a model and padded source ids. Out: for each sentence its hypotheses, best first, with scores
and attention. A `RunningBatch` takes in new sentences before any step and lets each go at the step
it ends at (cellular batching, Gao et al., EuroSys 2018), so a batch costs what its sentences cost
and not the length of the longest times their number. `search` is the same with all sentences there
from the start: what is served and what is translated offline come from one piece of code.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from seqvis.config import Settings
from seqvis.text.vocab import BOS, EOS, PAD
from seqvis.translation.decoder import DecoderState
from seqvis.translation.model import Seq2Seq

_NEVER = (BOS, PAD)  # ids that no translation contains


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


@torch.no_grad()
def search(
    model: Seq2Seq, source: Tensor, lengths: Tensor, settings: SearchSettings
) -> list[list[Hypothesis]]:
    """Translates a batch.

    Args:
        source: (batch, source_length) word ids with `_eos_`, on the model's device.
        lengths: (batch,) their real lengths, on the CPU.

    Returns:
        For each sentence `n_best` hypotheses at the most, best first.
    """
    batch = RunningBatch(model)
    sentences = batch.join(source, lengths, [settings] * len(lengths))
    while batch.rows:
        batch.step()
    return [sentence.hypotheses for sentence in sentences]


class RunningBatch:
    """Sentences that are being translated together; not to be shared between threads."""

    def __init__(self, model: Seq2Seq):
        self._model = model
        self._running: list[Sentence] = []  # in the order of their rows
        self._state: DecoderState | None = None
        self._words = torch.empty(0, dtype=torch.long)  # (rows,) the last word of each

    @property
    def rows(self) -> int:
        """Rows that the next step computes: a sentence has as many as its beam is wide."""
        return sum(sentence.width for sentence in self._running)

    @torch.no_grad()
    def join(
        self, source: Tensor, lengths: Tensor, settings: Sequence[SearchSettings]
    ) -> list["Sentence"]:
        """Encodes sentences and adds them to the batch; `source` and `lengths` as for `search`."""
        state = self._model.encode(source, lengths)
        new = [_sentence(int(n), chosen) for n, chosen in zip(lengths, settings, strict=True)]
        if any(sentence.width > 1 for sentence in new):
            widths = torch.tensor([sentence.width for sentence in new], device=source.device)
            rows = torch.arange(len(new), device=source.device)
            state = state.select(rows.repeat_interleave(widths))
        words = torch.full((state.hidden.shape[1],), BOS, device=source.device)
        if self._state is not None and self._running:
            state = self._state.extended(state)
            words = torch.cat([self._words, words])
        self._running += new
        self._state, self._words = state, words
        return new

    def drop(self, given_up: Sequence["Sentence"]) -> None:
        """Takes sentences out of the batch that nobody waits for any more."""
        going = {id(sentence) for sentence in given_up}
        rows: list[int] = []
        kept: list[Sentence] = []
        begin = 0
        for sentence in self._running:
            if id(sentence) not in going:
                rows += range(begin, begin + sentence.width)
                kept.append(sentence)
            begin += sentence.width
        if len(kept) < len(self._running):
            self._keep(kept, rows, self._words[torch.tensor(rows, dtype=torch.long)].tolist())

    @torch.no_grad()
    def step(self) -> list["Sentence"]:
        """Gives each sentence one word more; returns those that ended and so left the batch."""
        assert self._state is not None
        assert self._running
        probabilities, attention, self._state = self._advance(self._state)
        rows: list[int] = []
        words: list[int] = []
        kept: list[Sentence] = []
        ended: list[Sentence] = []
        begin = 0
        for sentence, candidates in zip(
            self._running, self._candidates(probabilities), strict=True
        ):
            seen = None if attention is None else attention[begin : begin + sentence.width]
            chosen = sentence.grow(candidates, seen)
            if chosen:
                kept.append(sentence)
                rows += [begin + origin for origin, _ in chosen]
                words += [word for _, word in chosen]
            else:
                ended.append(sentence)
            begin += sentence.width
        self._keep(kept, rows, words)
        return ended

    def _keep(self, sentences: list["Sentence"], rows: list[int], words: list[int]) -> None:
        device = self._words.device
        left = len(sentences) < len(self._running)
        self._running = sentences
        self._words = torch.tensor(words, device=device)
        if not sentences:
            self._state = None
            return
        assert self._state is not None
        if rows != list(range(self._state.hidden.shape[1])):
            self._state = self._state.select(torch.tensor(rows, device=device))
        if left:
            self._state = self._state.shortened(max(sentence.length for sentence in sentences))

    def _advance(self, state: DecoderState) -> tuple[Tensor, Tensor | None, DecoderState]:
        """Feeds each row's last word: log probabilities (rows, words), attention, state after."""
        output, state = self._model.decoder.run(self._words.unsqueeze(0), state)
        scores = self._model.decoder.logits(output.outputs[0]).float()
        scores[:, list(_NEVER)] = -torch.inf
        attention = None if output.attention is None else output.attention[0]
        return torch.log_softmax(scores, -1), attention, state

    def _candidates(self, probabilities: Tensor) -> list["_Candidates"]:
        """What each sentence may go on with, found for all sentences of a width at once."""
        found: dict[int, _Candidates] = {}
        begins: list[int] = []
        total = 0
        for sentence in self._running:
            begins.append(total)
            total += sentence.width
        for width in {sentence.width for sentence in self._running}:
            alike = [n for n, sentence in enumerate(self._running) if sentence.width == width]
            own = probabilities
            if len(alike) < len(self._running):
                rows = [begins[n] + place for n in alike for place in range(width)]
                own = probabilities[torch.tensor(rows, device=probabilities.device)]
            if width == 1:
                best = own.max(-1)
                values, places = best.values.unsqueeze(1), best.indices.unsqueeze(1)
            else:
                scores = [self._running[n].scores for n in alike]
                totals = torch.tensor(scores, device=own.device).view(-1, 1) + own
                totals = totals.view(len(alike), -1)
                # Of 2 * width candidates at most width end here, so width go on.
                values, places = totals.topk(min(2 * width, totals.shape[1]), dim=-1)
            origins, following = places // own.shape[1], places % own.shape[1]
            lists = zip(values.tolist(), origins.tolist(), following.tolist(), strict=True)
            for n, (value, origin, word) in zip(alike, lists, strict=True):
                found[n] = list(zip(value, origin, word, strict=True))
        return [found[n] for n in range(len(self._running))]


_Candidates = list[tuple[float, int, int]]  # (score, row of the sentence it grows from, word)


class Sentence(ABC):
    """A sentence in a running batch, and what was found for it."""

    def __init__(self, length: int, settings: SearchSettings):
        self.length = length  # of the source, with _eos_
        self.settings = settings
        self.width = settings.beam
        self.hypotheses: list[Hypothesis] = []  # n_best at the most, best first, once it ended
        self.scores = [0.0] + [-torch.inf] * (self.width - 1)
        self.limit = int(length * settings.max_length_factor) + 10

    @property
    @abstractmethod
    def ids(self) -> Sequence[int]:
        """The best translation so far."""

    @abstractmethod
    def grow(
        self, candidates: _Candidates, attention: Tensor | None
    ) -> list[tuple[int, int]] | None:
        """Takes the step's candidates; returns the (row, word) that go on, none if it ended.

        `attention` (width, source_length) has the weights of each row's step.
        """

    def _hypothesis(
        self, ids: Sequence[int], score: float, attention: Sequence[Tensor], finished: bool
    ) -> Hypothesis:
        weights = None
        if attention:
            weights = torch.stack([row[: self.length] for row in attention]).float().cpu()
        penalty = _penalty(len(ids) + finished, self.settings.length_penalty)
        return Hypothesis(list(ids), score / penalty, weights, finished)


def _sentence(length: int, settings: SearchSettings) -> Sentence:
    return _Greedy(length, settings) if settings.beam == 1 else _Beam(length, settings)


class _Greedy(Sentence):
    """Takes the likeliest word at each step."""

    def __init__(self, length: int, settings: SearchSettings):
        super().__init__(length, settings)
        self._ids: list[int] = []
        self._score = 0.0
        self._attention: list[Tensor] = []

    @property
    def ids(self) -> Sequence[int]:
        return self._ids

    def grow(
        self, candidates: _Candidates, attention: Tensor | None
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
        self.hypotheses = [self._hypothesis(self._ids, self._score, self._attention, finished)]


@dataclass(frozen=True)
class _Partial:
    """A hypothesis of a beam that is not finished."""

    ids: tuple[int, ...]
    attention: tuple[Tensor, ...]


class _Beam(Sentence):
    """Keeps `beam` hypotheses; ends when no longer one can be better than those that ended."""

    def __init__(self, length: int, settings: SearchSettings):
        super().__init__(length, settings)
        # At first all hypotheses are the same: `scores` lets only one be extended.
        self._partial = [_Partial((), ())] * self.width
        self._finished: list[Hypothesis] = []

    @property
    def ids(self) -> Sequence[int]:
        return self._partial[0].ids

    def grow(
        self, candidates: _Candidates, attention: Tensor | None
    ) -> list[tuple[int, int]] | None:
        grown: list[tuple[float, int, int, _Partial]] = []
        for rank, (score, origin, word) in enumerate(candidates):
            if score == -torch.inf:
                continue
            one = self._partial[origin]
            if word == EOS:
                if rank < self.width:
                    self._finished.append(self._hypothesis(one.ids, score, one.attention, True))
                continue
            if len(grown) == self.width:
                continue
            seen = one.attention
            if attention is not None:
                seen = (*seen, attention[origin, : self.length])
            grown.append((score, origin, word, _Partial((*one.ids, word), seen)))
        if self._is_done(grown):
            if not self._finished:
                self._finished = [
                    self._hypothesis(one.ids, score, one.attention, False)
                    for score, _, _, one in grown
                ]
            ordered = sorted(self._finished, key=lambda hypothesis: -hypothesis.score)
            self.hypotheses = ordered[: self.settings.n_best]
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
        worst = sorted(one.score for one in self._finished)[-self.settings.n_best]
        return bound <= worst


def _penalty(length: int, exponent: float) -> float:
    """The length penalty of GNMT (Wu et al. 2016, equation 14)."""
    return float(((5 + length) / 6) ** exponent)

"""Searching for translations: greedy and beam search in a batch that sentences join and leave.

In: a model and padded source ids. Out: for each sentence its hypotheses, best first. A
`RunningBatch` takes in new sentences before any step and lets each go at the step it ends at
(cellular batching, Gao et al., EuroSys 2018), so a batch costs what its sentences cost and not the
length of the longest times their number. `search` is the same with all sentences there from the
start: what is served and what is translated offline come from one piece of code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqvis.text.vocab import BOS, PAD
from seqvis.translation.decoder import DecoderState
from seqvis.translation.model import Seq2Seq
from seqvis.translation.sentences import (
    Candidates,
    Hypothesis,
    SearchSettings,
    Sentence,
    sentence_of,
)

_NEVER = (BOS, PAD)  # ids that no translation contains


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
    encoded = encode(model, source, lengths, [settings] * len(lengths))
    batch.join(encoded)
    while batch.rows:
        batch.step()
    return [sentence.hypotheses for sentence in encoded.sentences]


@dataclass(frozen=True)
class Encoded:
    """Sentences that are read and can join a batch."""

    sentences: list[Sentence]
    state: DecoderState  # a row for each hypothesis of each sentence


@torch.no_grad()
def encode(
    model: Seq2Seq, source: Tensor, lengths: Tensor, settings: Sequence[SearchSettings]
) -> Encoded:
    """Reads sentences; `source` and `lengths` as for `search`.

    Another thread may do so while a batch makes a step.
    """
    state = model.encode(source, lengths)
    new = [sentence_of(int(n), chosen) for n, chosen in zip(lengths, settings, strict=True)]
    if any(sentence.width > 1 for sentence in new):
        widths = torch.tensor([sentence.width for sentence in new], device=source.device)
        rows = torch.arange(len(new), device=source.device)
        state = state.select(rows.repeat_interleave(widths))
    return Encoded(new, state)


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
    def join(self, encoded: Encoded) -> None:
        """Adds sentences to the batch."""
        state = encoded.state
        words = torch.full((state.hidden.shape[1],), BOS, device=state.hidden.device)
        if self._state is not None and self._running:
            state = self._state.extended(state)
            words = torch.cat([self._words, words])
        self._running += encoded.sentences
        self._state, self._words = state, words

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
    def step(self) -> list[Sentence]:
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

    def _keep(self, sentences: list[Sentence], rows: list[int], words: list[int]) -> None:
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

    def _candidates(self, probabilities: Tensor) -> list[Candidates]:
        """What each sentence may go on with, found for all sentences of a width at once."""
        found: dict[int, Candidates] = {}
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

"""A running batch: sentences join it before any step, and each leaves at the step where it ends.

So a batch costs what its sentences cost, and not their number times the length of the longest
(cellular batching, Gao et al., EuroSys 2018).
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seqvis.decoding.beam import Extensions, SentenceDecoding
from seqvis.decoding.linear import padded_rows
from seqvis.seq2seq.model import argmax_words
from seqvis.seq2seq.state import DecoderState, Memory, StepModel
from seqvis.text.vocabulary import BOS

_SPARE = 1.5  # how much more memory is allocated than is needed at the moment
_BLOCK = 128  # words whose maximum is compared before the words themselves


class RunningBatch:
    """Sentences that are decoded together. Do not share it between threads."""

    def __init__(self, model: StepModel):
        self._model = model
        self._running: list[SentenceDecoding] = []  # in the order of their rows
        self._buffer: StateBuffer | None = None
        self._words: list[int] = []  # the last word of each row

    @property
    def rows(self) -> int:
        """Rows that the next step computes: a sentence has as many as its beam is wide."""
        return len(self._words)

    def join(self, decodings: Sequence[SentenceDecoding], state: DecoderState) -> None:
        """Add sentences, with the state in which the model encoded them."""
        if self._buffer is None:
            self._buffer = StateBuffer(state)
        widths = [decoding.width for decoding in decodings]
        self._buffer.append(state, widths)
        self._running += decodings
        self._words += [BOS] * sum(widths)

    def drop(self, decodings: Collection[SentenceDecoding]) -> None:
        """Take sentences out of the batch that nobody waits for any more."""
        if self._buffer is None:
            return
        places = []
        for decoding, begin in self._begins():
            rows = range(begin, begin + decoding.width)
            staying = None if decoding in decodings else [(row, self._words[row]) for row in rows]
            places.append(_Place(decoding, begin, staying))
        self._advance(places, self._buffer.state.hidden)

    def step(self) -> list[SentenceDecoding]:
        """Extend each sentence by one word; return those that ended and so left the batch."""
        assert self._buffer is not None
        state = self._buffer.state
        unused = [BOS] * (state.hidden.shape[1] - self.rows)
        words = torch.tensor(self._words + unused, device=state.hidden.device)
        output = self._model.step(words, state)
        # Cutting each sentence's rows out of it takes NumPy a tenth of the time.
        attention = None if output.attention is None else output.attention.float().cpu().numpy()
        extensions = self._extensions(output.scores[: self.rows])
        places = []
        for decoding, begin in self._begins():
            weights = None if attention is None else attention[begin : begin + decoding.width]
            extended = decoding.extend(extensions[decoding], weights)
            staying = None if extended is None else [(begin + row, word) for row, word in extended]
            places.append(_Place(decoding, begin, staying))
        self._advance(places, output.state.hidden)
        return [place.decoding for place in places if place.staying is None]

    def _begins(self) -> Iterator[tuple[SentenceDecoding, int]]:
        """Yield each sentence with its first row."""
        begin = 0
        for decoding in self._running:
            yield decoding, begin
            begin += decoding.width

    def _advance(self, places: list["_Place"], hidden: Tensor) -> None:
        """Continue the rows that stay from their rows of `hidden`; the others are overwritten."""
        assert self._buffer is not None
        kept = _close_gaps(places)
        staying = [row_and_word for place in kept for row_and_word in place.staying or ()]
        self._running = [place.decoding for place in kept]
        self._words = [word for _, word in staying]
        if not kept:
            self._buffer = None
            return
        self._buffer.advance(hidden, [row for row, _ in staying])
        if len(kept) < len(places):
            targets: list[int] = []
            origins: list[int] = []
            begin = 0
            for place in kept:
                width = place.decoding.width
                if place.begin != begin:
                    targets += range(begin, begin + width)
                    origins += range(place.begin, place.begin + width)
                begin += width
            self._buffer.move(origins, targets, max(place.decoding.length for place in kept))

    def _extensions(self, scores: Tensor) -> dict[SentenceDecoding, Extensions]:
        """Return each sentence's best extensions, computed for all sentences of a width at once."""
        probabilities = torch.log_softmax(scores, -1)
        by_width: dict[int, list[tuple[SentenceDecoding, int]]] = {}
        for decoding, begin in self._begins():
            by_width.setdefault(decoding.width, []).append((decoding, begin))
        extensions: dict[SentenceDecoding, Extensions] = {}
        for width, alike in by_width.items():
            own = probabilities
            if len(by_width) > 1:
                rows = [begin + place for _, begin in alike for place in range(width)]
                own = probabilities[torch.tensor(rows, device=own.device)]
            if width == 1:
                places = argmax_words(own).unsqueeze(1)
                values = own.gather(1, places)
            else:
                before = torch.tensor([decoding.scores for decoding, _ in alike], device=own.device)
                # Of 2 * width extensions at most width end here, so width continue.
                values, places = highest(own.unflatten(0, before.shape), before, 2 * width)
            origins, words = places // own.shape[1], places % own.shape[1]
            for (decoding, _), *columns in zip(
                alike, values.tolist(), origins.tolist(), words.tolist(), strict=True
            ):
                extensions[decoding] = list(zip(*columns, strict=True))
        return extensions


@dataclass(frozen=True)
class _Place:
    """A sentence's place in the batch after a step."""

    decoding: SentenceDecoding
    begin: int  # its first row during the step
    staying: list[tuple[int, int]] | None  # (row, word) from which each of its rows continues


def _close_gaps(places: list[_Place]) -> list[_Place]:
    """Return the sentences that stay, in an order that moves few: if all are equally wide, the
    last ones take the places of those that leave."""
    kept = [place for place in places if place.staying is not None]
    if len(kept) == len(places) or len({place.decoding.width for place in places}) > 1:
        return kept
    stayed = [place for place in places[: len(kept)] if place.staying is not None]
    movers = iter(kept[len(stayed) :])
    return [place if place.staying is not None else next(movers) for place in places[: len(kept)]]


class StateBuffer:
    """Preallocated decoder state for a batch whose sentences join and leave.

    Updates happen in place: new sentences are appended, and when one leaves, only the sentence that
    takes its place is copied. On a CPU `state` has as many rows as the products compute anyway
    (linear.py); rows beyond those in use contain stale data.
    """

    def __init__(self, like: DecoderState):
        """Allocate nothing yet, for sentences whose state has the sizes of `like`."""
        self._rows = 0  # in use
        self._length = 0  # of the longest source in use
        self._hidden = like.hidden[:, :0]
        self._memory: Memory | None = None
        if like.memory is not None:
            self._memory = Memory(*(part[:0, :0] for part in _parts(like.memory)))

    @property
    def state(self) -> DecoderState:
        """The state of all rows; its memory is as wide as the longest source in use."""
        rows, memory = self._computed(self._rows), None
        if self._memory is not None:
            memory = Memory(*(part[:rows, : self._length] for part in _parts(self._memory)))
        return DecoderState(self._hidden[:, :rows], memory)

    def append(self, state: DecoderState, widths: list[int]) -> None:
        """Add sentences, each with as many equal rows as its width."""
        begin, end = self._rows, self._rows + sum(widths)
        length = 0 if state.memory is None else state.memory.mask.shape[1]
        self._reserve(self._computed(end), max(length, self._length))
        self._rows, self._length = end, max(length, self._length)
        repeats = torch.tensor(widths, device=state.hidden.device)

        def repeated(part: Tensor, dimension: int) -> Tensor:
            if end - begin == len(widths):
                return part
            return part.repeat_interleave(repeats, dimension)

        self._hidden[:, begin:end] = repeated(state.hidden, 1)
        if self._memory is not None and state.memory is not None:
            for own, new in zip(_parts(self._memory), _parts(state.memory), strict=True):
                own[begin:end, :length] = repeated(new, 0)
            self._memory.mask[begin:end, length:] = -math.inf

    def advance(self, hidden: Tensor, origins: list[int]) -> None:
        """Continue after a step: row n from row `origins[n]` of `hidden`."""
        self._rows = len(origins)
        if origins == list(range(self._rows)):
            hidden = hidden[:, : self._rows]
        else:
            hidden = hidden[:, torch.tensor(origins, device=hidden.device)]
        self._hidden[:, : self._rows] = hidden

    def move(self, origins: list[int], targets: list[int], length: int) -> None:
        """Copy the memory of the rows `origins` to the rows `targets`; from now on no source in use
        is longer than `length`."""
        if self._memory is None:
            return
        if targets:
            device = self._hidden.device
            into, out_of = (torch.tensor(rows, device=device) for rows in (targets, origins))
            for part in _parts(self._memory):
                part[into, : self._length] = part[out_of, : self._length]
        self._length = length
        if 2 * length < self._memory.mask.shape[1]:  # a very long sentence has left
            self._allocate(self._hidden.shape[1], length)

    def _computed(self, rows: int) -> int:
        return rows if self._hidden.is_cuda else padded_rows(rows)

    def _reserve(self, rows: int, length: int) -> None:
        allocated = self._hidden.shape[1]
        wide = 0 if self._memory is None else self._memory.mask.shape[1]
        if rows > allocated or length > wide:
            self._allocate(
                int(rows * _SPARE) if rows > allocated else allocated,
                int(length * _SPARE) if length > wide else wide,
            )

    def _allocate(self, rows: int, length: int) -> None:
        """Move what is in use to new memory, with zeros elsewhere, so that nothing is NaN."""
        old = self._hidden[:, : self._rows]
        self._hidden = old.new_zeros(old.shape[0], rows, old.shape[2])
        self._hidden[:, : self._rows] = old
        if self._memory is not None:
            copies = []
            for part in _parts(self._memory):
                copy = part.new_zeros(rows, length, *part.shape[2:])
                kept = part[: self._rows, : min(length, self._length)]
                copy[: self._rows, : kept.shape[1]] = kept
                copies.append(copy)
            self._memory = Memory(*copies)
            self._memory.mask[: self._rows, self._length :] = -math.inf


def _parts(memory: Memory) -> tuple[Tensor, Tensor, Tensor]:
    return memory.keys, memory.values, memory.mask


def highest(probabilities: Tensor, before: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest of each sentence's `before + probabilities`, and where they are.

    On a CPU only the blocks of words with the highest maxima are sorted, which takes a quarter of
    the time of PyTorch's `topk` of everything (docs/results/speed.md).

    Args:
        probabilities: (sentences, width, vocabulary). before: (sentences, width).
        count: how many; fewer if there are fewer.

    Returns:
        Values and places in (width, vocabulary), flattened: (sentences, count) each, highest first.
    """
    _, width, words = probabilities.shape
    blocks = words // _BLOCK
    if probabilities.is_cuda or blocks < count:
        totals = (before.unsqueeze(2) + probabilities).flatten(1)
        values, places = totals.topk(min(count, totals.shape[1]))
        return values, places
    whole = blocks * _BLOCK
    maxima = probabilities[..., :whole].unflatten(2, (blocks, _BLOCK)).amax(3)
    chosen = (before.unsqueeze(2) + maxima).flatten(1).topk(count).indices
    begins = chosen // blocks * words + chosen % blocks * _BLOCK
    inside = (begins.unsqueeze(2) + torch.arange(_BLOCK)).flatten(1)
    outside = (torch.arange(width).unsqueeze(1) * words + torch.arange(whole, words)).flatten()
    places = torch.cat([inside, outside.expand(len(inside), -1)], 1)
    totals = before.gather(1, places // words) + probabilities.flatten(1).gather(1, places)
    values, order = totals.topk(count)
    return values, places.gather(1, order)

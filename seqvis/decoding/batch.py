"""A running batch: sentences join it before any step, and each leaves at the step where it ends.

So a batch costs what its sentences cost, and not their number times the length of the longest
(cellular batching, Gao et al., EuroSys 2018).
"""

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from seqvis.decoding.ahead import Ahead, Group, decode_ahead, replay_ahead
from seqvis.decoding.beam import Extensions, SentenceDecoding
from seqvis.decoding.linear import padded_rows
from seqvis.seq2seq.state import DecoderState, Memory, StepModel
from seqvis.text.vocabulary import BOS

_SPARE = 1.5  # how much more memory is allocated than is needed at the moment
_AHEAD = 8  # steps that a GPU makes between looks at what it found
_LENGTHS = 8  # sources are padded to multiples of this where steps are made ahead: few shapes

_ByWidth = dict[int, list[tuple[SentenceDecoding, int]]]  # sentences with their first rows


class Batch(Protocol):
    """Sentences that are decoded together.

    One thread uses it. Others may look at the numbers, and call `interrupt`.
    """

    steps: int  # of the model, so far
    extended: int  # rows in these steps

    @property
    def rows(self) -> int:
        """Rows that the next step computes: a sentence has as many as its beam is wide."""

    def join(self, decodings: Sequence[SentenceDecoding], state: Any) -> None:
        """Add sentences, with the state in which the model encoded them."""

    def drop(self, decodings: Collection[SentenceDecoding]) -> None:
        """Take sentences out of the batch that nobody waits for any more."""

    def step(self, most: int = 1) -> list[SentenceDecoding]:
        """Extend each sentence by a word, or by several; return those that ended and so left.

        `NativeBatch` goes on until a sentence ends, `interrupt` is called, or there are `most`
        words. Only where `most` is one are the `ids` of the sentences that stay up to date.
        """

    def interrupt(self) -> None:
        """Let the step that another thread runs, or the next one, end after a word."""


class RunningBatch:
    """A `Batch` for any model."""

    def __init__(self, model: StepModel, ahead: int | None = None):
        """`ahead`: most words by which `step` extends a sentence; by default 8 on a GPU, which one
        word at a time would keep waiting for the host, and 1 elsewhere."""
        self._model = model
        self._ahead = ahead
        self._running: list[SentenceDecoding] = []  # in the order of their rows
        self._buffer: StateBuffer | None = None
        self._words: list[int] = []  # the last word of each row
        self.steps = self.extended = 0

    @property
    def rows(self) -> int:
        return len(self._words)

    def join(self, decodings: Sequence[SentenceDecoding], state: DecoderState) -> None:
        if self._buffer is None:
            self._ahead = self._ahead or (_AHEAD if state.hidden.is_cuda else 1)
            self._buffer = StateBuffer(state, 1 if self._ahead == 1 else _LENGTHS)
        widths = [decoding.width for decoding in decodings]
        self._buffer.append(state, widths)
        self._running += decodings
        self._words += [BOS] * sum(widths)

    def drop(self, decodings: Collection[SentenceDecoding]) -> None:
        if self._buffer is None:
            return
        places = []
        for decoding, begin in self._begins():
            rows = range(begin, begin + decoding.width)
            staying = None if decoding in decodings else [(row, self._words[row]) for row in rows]
            places.append(_Place(decoding, begin, staying))
        self._advance(places, self._buffer.state.hidden)

    def step(self, most: int = 1) -> list[SentenceDecoding]:
        assert self._buffer is not None
        assert self._ahead is not None
        steps, state = min(self._ahead, most), self._buffer.state
        device, rows = state.hidden.device, state.hidden.shape[1]
        words = torch.tensor(self._words + [BOS] * (rows - self.rows), device=device)
        by_width: _ByWidth = {}
        for decoding, begin in self._begins():
            by_width.setdefault(decoding.width, []).append((decoding, begin))
        ahead = self._decode(words, state, by_width, steps)
        # Cutting each sentence's rows out of it takes NumPy a tenth of the time.
        attention = None if ahead.attention is None else ahead.attention.cpu().numpy()
        extensions = self._extensions(ahead, by_width)
        self.steps += steps
        self.extended += steps * self.rows
        places = []
        for decoding, begin in self._begins():
            extended = None
            for step, best in enumerate(extensions[decoding]):
                weights = None if attention is None else attention[step]
                rows_of = slice(begin, begin + decoding.width)
                extended = decoding.extend(best, None if weights is None else weights[rows_of])
                if extended is None:
                    break
            staying = None if extended is None else [(begin + row, word) for row, word in extended]
            places.append(_Place(decoding, begin, staying))
        self._advance(places, ahead.hidden)
        return [place.decoding for place in places if place.staying is None]

    def interrupt(self) -> None:
        pass  # a step is short

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

    def _decode(self, words: Tensor, state: DecoderState, by_width: _ByWidth, steps: int) -> Ahead:
        """Run `steps` steps of all sentences, as a CUDA graph if their rows are equally many."""
        groups = []
        for width, alike in by_width.items():
            rows: Tensor | slice = slice(self.rows)
            if len(by_width) > 1:
                numbers = [begin + place for _, begin in alike for place in range(width)]
                rows = torch.tensor(numbers, device=words.device)
            scores = [decoding.scores for decoding, _ in alike]
            groups.append(Group(rows, torch.tensor(scores, device=words.device)))
        if self._model.graphs is None or len(groups) > 1:
            return decode_ahead(self._model, words, state, groups, steps)
        return replay_ahead(self._model, self._model.graphs, words, state, groups[0].before, steps)

    def _extensions(
        self, ahead: Ahead, by_width: _ByWidth
    ) -> dict[SentenceDecoding, list[Extensions]]:
        """Return the best extensions of each sentence in each step."""
        extensions: dict[SentenceDecoding, list[Extensions]] = {}
        for alike, best in zip(by_width.values(), ahead.best, strict=True):
            columns = [part.tolist() for part in best]
            by_step = [
                [list(zip(*row, strict=True)) for row in zip(*step, strict=True)]
                for step in zip(*columns, strict=True)
            ]
            for number, (decoding, _) in enumerate(alike):
                extensions[decoding] = [step[number] for step in by_step]
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
    takes its place is copied. `state` has as many rows as a CPU's products compute anyway
    (linear.py); rows beyond those in use contain stale data.
    """

    def __init__(self, like: DecoderState, multiple: int = 1):
        """Allocate nothing yet, for sentences whose state has the sizes of `like`. The memory of
        `state` is as wide as a multiple of `multiple`."""
        self._multiple = multiple
        self._rows = 0  # in use
        self._length = 0  # of the longest source in use
        self._hidden = like.hidden[:, :0]
        self._memory: Memory | None = None
        if like.memory is not None:
            self._memory = Memory(*(part[:0, :0] for part in _parts(like.memory)))

    @property
    def state(self) -> DecoderState:
        """The state of all rows; its memory is as wide as the longest source in use."""
        rows, memory = padded_rows(self._rows), None
        if self._memory is not None:
            width = self._padded(self._length)
            memory = Memory(*(part[:rows, :width] for part in _parts(self._memory)))
        return DecoderState(self._hidden[:, :rows], memory)

    def append(self, state: DecoderState, widths: list[int]) -> None:
        """Add sentences, each with as many equal rows as its width."""
        begin, end = self._rows, self._rows + sum(widths)
        length = 0 if state.memory is None else state.memory.mask.shape[1]
        self._reserve(padded_rows(end), self._padded(max(length, self._length)))
        self._rows, self._length = end, max(length, self._length)
        repeats = torch.tensor(widths, device=state.hidden.device)

        def repeated(part: Tensor, dimension: int) -> Tensor:
            if end - begin == len(widths):
                return part
            return part.repeat_interleave(repeats, dimension, output_size=end - begin)

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
        if 2 * self._padded(length) < self._memory.mask.shape[1]:  # a very long sentence has left
            self._allocate(self._hidden.shape[1], self._padded(length))

    def _padded(self, length: int) -> int:
        return -(-length // self._multiple) * self._multiple

    def _reserve(self, rows: int, length: int) -> None:
        allocated = self._hidden.shape[1]
        wide = 0 if self._memory is None else self._memory.mask.shape[1]
        if rows > allocated or length > wide:
            self._allocate(
                int(rows * _SPARE) if rows > allocated else allocated,
                self._padded(int(length * _SPARE)) if length > wide else wide,
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

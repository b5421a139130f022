"""Preallocated decoder state for a batch whose sentences join and leave.

Updates happen in place: new sentences are appended, and when one leaves, only the sentence that
takes its place is copied.
"""

import math

import torch
from torch import Tensor

from seqvis.decoding.linear import rows_computed
from seqvis.decoding.packed import Encoded, Source

_ROOM = 1.5  # how much more is made than is needed at the moment


class Rows:
    """Hidden states and attention inputs of `count` rows; the views have `shown` rows.

    On a CPU the views have as many rows as the products compute anyway (linear.py). Rows beyond
    `count` contain stale data.
    """

    def __init__(self, encoded: Encoded):
        """Empty, for sentences like these."""
        layers, _, size = encoded.hidden.shape
        self.count = self.shown = 0
        self._hidden = encoded.hidden.new_empty(layers, 0, size)
        self._length = 0  # the longest source in use
        self._source: Source | None = None
        if encoded.source is not None:
            self._source = Source(
                encoded.source.keys.new_empty(0, 0, encoded.source.keys.shape[2]),
                encoded.source.values.new_empty(0, 0, encoded.source.values.shape[2]),
                encoded.source.blocked.new_empty(0, 0),
            )

    @property
    def hidden(self) -> Tensor:
        """(decoder_layers, shown, decoder_size)."""
        return self._hidden[:, : self.shown]

    @property
    def source(self) -> Source | None:
        """What attention reads, as wide as the longest source in use."""
        if self._source is None:
            return None
        rows, length = self.shown, self._length
        one = self._source
        return Source(
            one.keys[:rows, :length], one.values[:rows, :length], one.blocked[:rows, :length]
        )

    def append(self, encoded: Encoded, widths: list[int]) -> None:
        """Adds sentences, each with as many equal rows as its width."""
        hidden, source = encoded.hidden, encoded.source
        if any(width > 1 for width in widths):
            repeats = torch.tensor(widths, device=hidden.device)
            hidden = hidden.repeat_interleave(repeats, 1)
            if source is not None:
                parts = (source.keys, source.values, source.blocked)
                source = Source(*(part.repeat_interleave(repeats, 0) for part in parts))
        begin, end = self.count, self.count + hidden.shape[1]
        length = 0 if source is None else source.blocked.shape[1]
        self._make_room(self._computed(end), max(length, self._length))
        self._length = max(length, self._length)
        self._set_count(end)
        self._hidden[:, begin:end] = hidden
        if self._source is not None and source is not None:
            self._source.keys[begin:end, :length] = source.keys
            self._source.values[begin:end, :length] = source.values
            self._source.blocked[begin:end, :length] = source.blocked
            self._source.blocked[begin:end, length:] = -math.inf

    def go_on(self, hidden: Tensor, origins: list[int]) -> None:
        """The states after a step: row n goes on from `hidden`'s row `origins[n]`."""
        self._set_count(len(origins))
        if origins == list(range(self.count)):
            hidden = hidden[:, : self.count]
        else:
            hidden = hidden[:, torch.tensor(origins, device=hidden.device)]
        self._hidden[:, : self.count] = hidden

    def move(self, to: list[int], origins: list[int], length: int) -> None:
        """Copies what attention reads of the rows `origins` to the rows `to`; from now on no source
        in use is longer than `length`."""
        if self._source is not None:
            if to:
                device = self._hidden.device
                into, out_of = (torch.tensor(rows, device=device) for rows in (to, origins))
                for part in (self._source.keys, self._source.values, self._source.blocked):
                    part[into, : self._length] = part[out_of, : self._length]
            self._length = length
            if 2 * length < self._source.blocked.shape[1]:  # a very long sentence has left
                self._make(self._hidden.shape[1], length)

    def _computed(self, rows: int) -> int:
        return rows if self._hidden.is_cuda else rows_computed(rows)

    def _set_count(self, rows: int) -> None:
        self.count, self.shown = rows, self._computed(rows)

    def _make_room(self, rows: int, length: int) -> None:
        there = self._hidden.shape[1]
        wide = 0 if self._source is None else self._source.blocked.shape[1]
        if rows > there or length > wide:
            self._make(
                int(rows * _ROOM) if rows > there else there,
                int(length * _ROOM) if length > wide else wide,
            )

    def _make(self, rows: int, length: int) -> None:
        """Memory of this size, with what is in use; zeros elsewhere, so that nothing is NaN."""
        old = self._hidden[:, : self.count]
        self._hidden = old.new_zeros(old.shape[0], rows, old.shape[2])
        self._hidden[:, : self.count] = old
        if self._source is not None:
            made = []
            for part in (self._source.keys, self._source.values, self._source.blocked):
                new = part.new_zeros(rows, length, *part.shape[2:])
                kept = part[: self.count, : min(length, self._length)]
                new[: self.count, : kept.shape[1]] = kept
                made.append(new)
            made[2][: self.count, self._length :] = -math.inf
            self._source = Source(*made)

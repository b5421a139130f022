"""The tail: items added since the last compaction, in memory, searched exactly.

It grows and never changes what it holds: a replaced or deleted row stays and is marked dead by
the view (view.py), so that a search that began before goes on undisturbed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqvis.search.filters import Columns
from seqvis.search.items import Batch, decode_metadata


class Tail:
    """Rows in memory, with the same methods as a segment. One thread adds, any may read."""

    index = on_device = None  # searched exactly, on the CPU: it changes too often and is small

    def __init__(self, dimension: int):
        self.vectors = np.empty((0, dimension), dtype=np.float32)  # with room behind `rows`
        self.rows = 0
        self._ids: list[str] = []
        self._metadata: list[bytes] = []
        self._thumbnails: list[bytes] = []
        self._places: dict[str, int] = {}
        self.columns = Columns(self.metadata)

    def add(self, batch: Batch) -> None:
        end = self.rows + len(batch)
        if end > len(self.vectors):
            room = np.empty((max(64, 2 * end), self.vectors.shape[1]), dtype=np.float32)
            room[: self.rows] = self.vectors[: self.rows]
            self.vectors = room
        self.vectors[self.rows : end] = batch.vectors
        self._ids += batch.ids
        self._metadata += batch.metadata
        self._thumbnails += batch.thumbnails
        self._places.update(zip(batch.ids, range(self.rows, end), strict=True))
        self.rows = end

    def __len__(self) -> int:
        return self.rows

    def id(self, row: int) -> str:
        return self._ids[row]

    def metadata(self, row: int) -> dict[str, Any]:
        return decode_metadata(self._metadata[row])

    def thumbnail(self, row: int) -> bytes | None:
        return self._thumbnails[row] or None

    def find(self, ids: Sequence[str]) -> list[int]:
        """The latest row of each id, -1 where there is none, whether dead or alive."""
        return [self._places.get(name, -1) for name in ids]

    def batch(self, rows: Sequence[int]) -> Batch:
        return Batch(
            [self._ids[row] for row in rows],
            self.vectors[np.asarray(rows, dtype=np.int64)],
            [self._metadata[row] for row in rows],
            [self._thumbnails[row] for row in rows],
        )

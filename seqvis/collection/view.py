"""An immutable view of a collection: its parts, and which of their rows are dead.

Each operation of the journal makes a new `View`, so a search that holds the old one is not
disturbed. Items added since the last compaction are in the `Tail`, in memory, to which rows are
only ever appended.

Dead and filtered rows are excluded exactly: a graph is asked for more rows until enough are left,
and where that would be too many, the admitted rows are searched one by one. So a filtered search
returns what an exact one would, up to the recall of the graph.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from seqvis.collection.filters.columns import Columns
from seqvis.collection.filters.conditions import Condition, fields_of
from seqvis.collection.filters.where import Predicate, Where
from seqvis.collection.graphs import GraphIndex
from seqvis.collection.index import DeviceRows, best_of, exact_candidates
from seqvis.collection.items import Batch, Match, best_first, decode_metadata, hashes_of
from seqvis.collection.journal import Added, Operation
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.errors import UnknownFieldError

if TYPE_CHECKING:
    from seqvis.collection import matches as native
else:
    native = None
    if os.environ.get("SEQVIS_NATIVE") != "0":
        with suppress(ImportError):  # it was not built: docs/extend/native.md
            from seqvis.collection import matches as native


class Strings(Protocol):
    """Byte strings by number: a list of them, or a segment's `Blobs`."""

    def __getitem__(self, number: int, /) -> bytes: ...


class Rows:
    """Items by row: what a segment and the tail have in common.

    `columns` reads metadata for filters; `index` and `on_device` find neighbours faster than a
    comparison with all rows; None where there is none.
    """

    vectors: np.ndarray  # float32 (rows or more, dimension), unit rows
    rows: int
    index: GraphIndex | None = None
    on_device: DeviceRows | None = None
    _ids: Strings
    _metadata: Strings
    _thumbnails: Strings

    def __init__(self) -> None:
        self.columns = Columns(self.metadata)

    def __len__(self) -> int:
        return self.rows

    def id(self, row: int) -> str:
        return self._ids[row].decode()

    def metadata(self, row: int) -> dict[str, Any]:
        return decode_metadata(self._metadata[row])

    def thumbnail(self, row: int) -> bytes | None:
        return self._thumbnails[row] or None

    def find(self, ids: Sequence[str]) -> list[int]:
        """Return the latest row of each id, dead or alive; -1 where there is none."""
        raise NotImplementedError

    def by_hash(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the hashes of the ids of the first `rows` rows, sorted, and the row of each."""
        raise NotImplementedError

    def best_matches(
        self, rows: list[np.ndarray], queries: np.ndarray, count: int
    ) -> list[list[Match]]:
        """Return for each query the `count` of its rows with the greatest cosines.

        By score, then id; queries are unit rows (q, dimension). The extension, where it was built,
        returns the same to the last bit.
        """
        if native is not None:
            ids, metadata = _mapped(self._ids), _mapped(self._metadata)
            return native.best_matches(Match, self.vectors, ids, metadata, rows, queries, count)
        sorted_matches = []
        for some, query in zip(rows, queries, strict=True):
            best, scores = best_of(self.vectors, some, query, count)
            matches = [
                Match(self.id(row), score, self._metadata[row])
                for row, score in zip(best.tolist(), scores.tolist(), strict=True)
            ]
            sorted_matches.append(sorted(matches, key=best_first)[:count])
        return sorted_matches

    def batch(self, rows: Sequence[int]) -> Batch:
        """Return some rows as they were stored."""
        return Batch(
            [self.id(row) for row in rows],
            self.vectors[np.asarray(rows, dtype=np.int64)],
            [self._metadata[row] for row in rows],
            [self._thumbnails[row] for row in rows],
        )


def _mapped(strings: Strings) -> Any:
    """Return them as the extension takes them: a list, or the mapped bytes and their ends."""
    return getattr(strings, "mapped", strings)


class Tail(Rows):
    """Rows in memory. One thread may add while others read.

    It is searched exactly, on the CPU: it changes too often for a graph, and is small.
    """

    def __init__(self, dimension: int):
        self.vectors = np.empty((0, dimension), dtype=np.float32)  # with room behind `rows`
        self.rows = 0
        self._ids: list[bytes] = []
        self._metadata: list[bytes] = []
        self._thumbnails: list[bytes] = []
        self._places: dict[str, int] = {}
        self._hashes: list[int] = []
        super().__init__()

    def add(self, batch: Batch) -> None:
        end = self.rows + len(batch)
        if end > len(self.vectors):
            room = np.empty((max(64, 2 * end), self.vectors.shape[1]), dtype=np.float32)
            room[: self.rows] = self.vectors[: self.rows]
            self.vectors = room
        self.vectors[self.rows : end] = batch.vectors
        encoded = [name.encode() for name in batch.ids]
        self._ids += encoded
        self._hashes += hashes_of(encoded).tolist()
        self._metadata += batch.metadata
        self._thumbnails += batch.thumbnails
        self._places.update(zip(batch.ids, range(self.rows, end), strict=True))
        self.rows = end

    def find(self, ids: Sequence[str]) -> list[int]:
        return [self._places.get(name, -1) for name in ids]

    def by_hash(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        hashes = np.array(self._hashes[:rows], dtype=np.uint64)
        order = np.argsort(hashes)
        return hashes[order], order


_MOST_CANDIDATES = 5000  # to ask a graph for; beyond, looking at all rows is faster


@dataclass(frozen=True)
class Part:
    """A segment or the tail, and which of its first `rows` rows are dead."""

    store: Rows
    vectors: np.ndarray  # (rows, dimension)
    dead: np.ndarray  # bool (rows)
    dead_count: int

    @property
    def rows(self) -> int:
        return len(self.dead)

    @property
    def alive(self) -> int:
        return len(self.dead) - self.dead_count

    def living_rows(self) -> np.ndarray:
        return np.flatnonzero(~self.dead)


def part_of(store: Rows, dead: np.ndarray) -> Part:
    return Part(store, store.vectors[: store.rows], dead, int(dead.sum()))


@dataclass(frozen=True)
class View:
    """All parts of a collection, the tail last. It never changes."""

    parts: tuple[Part, ...]

    @property
    def dimension(self) -> int:
        return int(self.parts[-1].vectors.shape[1])

    def __len__(self) -> int:
        return sum(part.alive for part in self.parts)

    def find(self, ids: Sequence[str]) -> list[tuple[int, int] | None]:
        """Return part and row of each living id. Call it only while no other thread applies."""
        located: list[tuple[int, int] | None] = [None] * len(ids)
        for number, part in enumerate(self.parts):
            if not part.alive:
                continue
            for place, row in enumerate(part.store.find(ids)):
                if 0 <= row < part.rows and not part.dead[row]:
                    located[place] = number, row
        return located

    def applied(self, operation: Operation) -> "View":
        """Return the view after an add or a delete; the tail's store grows."""
        ids = operation.batch.ids if isinstance(operation, Added) else operation.ids
        killed: dict[int, list[int]] = {}
        for place in self.find(ids):
            if place is not None:
                killed.setdefault(place[0], []).append(place[1])
        parts = list(self.parts)
        for number, rows in killed.items():
            dead = parts[number].dead.copy()
            dead[rows] = True
            old = parts[number]
            parts[number] = replace(old, dead=dead, dead_count=old.dead_count + len(rows))
        if isinstance(operation, Added):
            tail = parts[-1].store
            assert isinstance(tail, Tail)
            tail.add(operation.batch)
            dead = np.zeros(tail.rows, dtype=bool)
            dead[: parts[-1].rows] = parts[-1].dead
            parts[-1] = part_of(tail, dead)
        return View(tuple(parts))

    def search(
        self,
        queries: np.ndarray,
        k: int,
        where: Condition | Predicate | None,
        min_score: float | None,
        deadline: Deadline = UNBOUNDED,
        exact: bool = False,
        missing_ok: bool = False,
    ) -> list[list[Match]]:
        """Return the `k` best living rows for each unit query (q, dimension): by score, then id.

        An exact search (`exact`, or of a collection without graphs) also decides by the ids which
        of several rows with equal scores are the last of the `k`. Of such rows a graph may find
        any. Raises SearchTimeoutError, and UnknownFieldError for a filter by a field that no item
        has, such as a misspelt one, unless `missing_ok`.
        """
        parts = [part for part in self.parts if part.alive]
        admitted = self.admitted(parts, where, deadline, missing_ok)
        by_part = [
            part.store.best_matches(_nearest(part, queries, k, rows, deadline, exact), queries, k)
            for part, rows in zip(parts, admitted, strict=True)
        ]
        if len(by_part) == 1:
            answers = by_part[0]
        else:
            answers = [
                sorted(chain(*(matches[number] for matches in by_part)), key=best_first)[:k]
                for number in range(len(queries))
            ]
        if min_score is None:
            return answers
        return [[match for match in answer if match.score >= min_score] for answer in answers]

    def unread(self, where: Where) -> int:
        """Return how many rows' metadata must be parsed for a filter."""
        return sum(part.store.columns.unread(where, part.rows) for part in self.parts if part.alive)

    def admitted(
        self,
        parts: Sequence[Part],
        where: Condition | Predicate | None,
        deadline: Deadline,
        missing_ok: bool = False,
    ) -> list[np.ndarray | None]:
        """Return which rows of each part count, bool (rows); None: all.

        Raises UnknownFieldError before anything is read, if it is already known that it must.
        """
        if where is None:
            return [~part.dead if part.dead_count else None for part in parts]
        fields = [] if missing_ok or callable(where) else fields_of(where)
        _check_fields(parts, fields)
        masks = [part.store.columns.mask(where, part.rows, deadline) for part in parts]
        _check_fields(parts, fields)
        return [mask & ~part.dead for mask, part in zip(masks, parts, strict=True)]


def _check_fields(parts: Sequence[Part], fields: Sequence[str]) -> None:
    missing = tuple(field for field in fields if all(_lacks(part, field) for part in parts))
    if missing:
        existing = set[str]().union(*(part.store.columns.names() for part in parts))
        raise UnknownFieldError(missing, tuple(sorted(existing.difference(missing))))


def _lacks(part: Part, field: str) -> bool:
    dead = part.dead if part.dead_count else None
    return part.store.columns.lacks(field, part.rows, dead)


def _nearest(
    part: Part,
    queries: np.ndarray,
    k: int,
    admitted: np.ndarray | None,
    deadline: Deadline,
    exact: bool,
) -> list[np.ndarray]:
    """Return admitted rows of the part for each query, its `k` best among them."""
    nearest: list[np.ndarray | None] = [None] * len(queries)
    if not exact and part.store.index is not None:
        nearest = _by_graph(part.store.index, part, queries, k, admitted)
    rest = [place for place, rows in enumerate(nearest) if rows is None]
    if rest:
        device = part.store.on_device
        if device is not None and not exact:
            rows_of_rest = device.candidates(queries[rest], k, admitted)
        else:
            rows_of_rest = exact_candidates(part.vectors, queries[rest], k, admitted, deadline)
        for place, rows in zip(rest, rows_of_rest, strict=True):
            nearest[place] = rows
    return cast(list[np.ndarray], nearest)


def _by_graph(
    index: GraphIndex, part: Part, queries: np.ndarray, k: int, admitted: np.ndarray | None
) -> list[np.ndarray | None]:
    """Return at least `k` admitted rows near each query; None where the graph is no help."""
    nearest: list[np.ndarray | None] = [None] * len(queries)
    count = part.rows if admitted is None else int(admitted.sum())
    if not count:
        return nearest
    wanted = k if count == part.rows else int(1.5 * k * part.rows / count) + 8
    while wanted <= min(part.rows // 8, _MOST_CANDIDATES):
        still = [place for place, rows in enumerate(nearest) if rows is None]
        if not still:
            break
        for place, rows in zip(still, index.candidates(queries[still], wanted), strict=True):
            if rows is not None:
                kept = rows if admitted is None else rows[admitted[rows]]
                nearest[place] = kept if len(kept) >= k else None
        wanted *= 4
    return nearest

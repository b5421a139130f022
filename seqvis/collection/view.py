"""An immutable view of a collection: its parts, and which of their rows are dead.

Each operation of the journal makes a new `View`, so a search that holds the old one is not
disturbed. Items added since the last compaction are in the `Tail`, in memory, to which rows are
only ever appended.

Dead and filtered rows are excluded exactly: a graph is asked for more rows until enough are left,
and where that would be too many, the admitted rows are searched one by one. So a filtered search
returns what an exact one would, up to the recall of the graph. `measure_recall` measures that, with
vectors of stored items, each rotated slightly at random, because a real query is seldom a stored
vector. An answer counts as correct if its cosine reaches that of the exact k-th.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, cast

import numpy as np

from seqvis.collection.filters import Where
from seqvis.collection.graphs import GraphIndex
from seqvis.collection.index import exact_candidates
from seqvis.collection.items import Batch, Match, best_first
from seqvis.collection.journal import Added, Operation
from seqvis.collection.segments import Rows
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.errors import UnknownFieldError


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
        super().__init__()

    def add(self, batch: Batch) -> None:
        end = self.rows + len(batch)
        if end > len(self.vectors):
            room = np.empty((max(64, 2 * end), self.vectors.shape[1]), dtype=np.float32)
            room[: self.rows] = self.vectors[: self.rows]
            self.vectors = room
        self.vectors[self.rows : end] = batch.vectors
        self._ids += [name.encode() for name in batch.ids]
        self._metadata += batch.metadata
        self._thumbnails += batch.thumbnails
        self._places.update(zip(batch.ids, range(self.rows, end), strict=True))
        self.rows = end

    def find(self, ids: Sequence[str]) -> list[int]:
        return [self._places.get(name, -1) for name in ids]


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
        found: list[tuple[int, int] | None] = [None] * len(ids)
        for number, part in enumerate(self.parts):
            if not part.alive:
                continue
            for place, row in enumerate(part.store.find(ids)):
                if 0 <= row < part.rows and not part.dead[row]:
                    found[place] = number, row
        return found

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
        where: Where | None,
        min_score: float | None,
        deadline: Deadline = UNBOUNDED,
        exact: bool = False,
    ) -> list[list[Match]]:
        """Return the `k` best living rows for each unit query (q, dimension): by score, then id.

        An exact search (`exact`, or of a collection without graphs) also decides by the ids which
        of several rows with equal scores are the last of the `k`. Of such rows a graph may find
        any. Raises SearchTimeoutError.
        """
        parts = [part for part in self.parts if part.alive]
        admitted = self._admitted(parts, where, deadline)
        found = [
            part.store.best_matches(_nearest(part, queries, k, rows, deadline, exact), queries, k)
            for part, rows in zip(parts, admitted, strict=True)
        ]
        if len(found) == 1:
            answers = found[0]
        else:
            answers = [
                sorted(chain(*(matches[number] for matches in found)), key=best_first)[:k]
                for number in range(len(queries))
            ]
        if min_score is None:
            return answers
        return [[match for match in answer if match.score >= min_score] for answer in answers]

    def unread(self, where: Mapping[str, Any]) -> int:
        """Return how many rows' metadata must be parsed for a filter."""
        return sum(part.store.columns.unread(where, part.rows) for part in self.parts if part.alive)

    def _admitted(
        self, parts: Sequence[Part], where: Where | None, deadline: Deadline
    ) -> list[np.ndarray | None]:
        """Return which rows of each part count, bool (rows); None: all.

        Raises UnknownFieldError if a filter names a field of no item, as misspelt ones do: where
        it is known by now, before anything is read.
        """
        if where is None:
            return [~part.dead if part.dead_count else None for part in parts]
        _check_fields(parts, where)
        masks = [part.store.columns.mask(where, part.rows, deadline) for part in parts]
        _check_fields(parts, where)
        return [mask & ~part.dead for mask, part in zip(masks, parts, strict=True)]


def _check_fields(parts: Sequence[Part], where: Where) -> None:
    if callable(where):
        return
    missing = tuple(
        name for name in where if all(part.store.columns.lacks(name, part.rows) for part in parts)
    )
    if missing:
        fields = set[str]().union(*(part.store.columns.names() for part in parts))
        raise UnknownFieldError(missing, tuple(sorted(fields)))


def _nearest(
    part: Part,
    queries: np.ndarray,
    k: int,
    admitted: np.ndarray | None,
    deadline: Deadline,
    exact: bool,
) -> list[np.ndarray]:
    """Return admitted rows of the part for each query, its `k` best among them."""
    found: list[np.ndarray | None] = [None] * len(queries)
    if not exact and part.store.index is not None:
        found = _by_graph(part.store.index, part, queries, k, admitted)
    rest = [place for place, rows in enumerate(found) if rows is None]
    if rest:
        device = part.store.on_device
        if device is not None and not exact:
            rows_of_rest = device.candidates(queries[rest], k, admitted)
        else:
            rows_of_rest = exact_candidates(part.vectors, queries[rest], k, admitted, deadline)
        for place, rows in zip(rest, rows_of_rest, strict=True):
            found[place] = rows
    return cast(list[np.ndarray], found)


def _by_graph(
    index: GraphIndex, part: Part, queries: np.ndarray, k: int, admitted: np.ndarray | None
) -> list[np.ndarray | None]:
    """Return at least `k` admitted rows near each query; None where the graph is no help."""
    found: list[np.ndarray | None] = [None] * len(queries)
    count = part.rows if admitted is None else int(admitted.sum())
    if not count:
        return found
    wanted = k if count == part.rows else int(1.5 * k * part.rows / count) + 8
    while wanted <= min(part.rows // 8, _MOST_CANDIDATES):
        still = [place for place, rows in enumerate(found) if rows is None]
        if not still:
            break
        for place, rows in zip(still, index.candidates(queries[still], wanted), strict=True):
            if rows is not None:
                kept = rows if admitted is None else rows[admitted[rows]]
                found[place] = kept if len(kept) >= k else None
        wanted *= 4
    return found


TURN = 0.1  # length of the random step, where vectors have length 1
_TOLERANCE = 1e-6


def measure_recall(
    view: View, search: Callable[[np.ndarray, int], list[Match]], k: int, queries: int
) -> dict[str, Any]:
    """Measure recall@k and latencies (ms) of `search`, called with one vector at a time.

    Returns `recall` (None for an empty collection), `median_ms`, `p99_ms`, `exact_median_ms`,
    `queries`, `k` and `items`.
    """
    sampled = sample_queries(view, queries)
    report: dict[str, Any] = {"k": k, "queries": len(sampled), "items": len(view), "recall": None}
    if not len(sampled):
        return report
    found = wanted = 0
    times, exact_times = [], []
    for query in sampled:
        begin = time.perf_counter()
        answers = search(query, k)
        times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        truth = view.search(query[None], k, None, None, exact=True)[0]
        exact_times.append(time.perf_counter() - begin)
        wanted += len(truth)
        found += count_found(answers, truth)
    report["recall"] = found / wanted
    report["median_ms"] = round(1e3 * float(np.median(times)), 4)
    report["p99_ms"] = round(1e3 * float(np.quantile(times, 0.99)), 4)
    report["exact_median_ms"] = round(1e3 * float(np.median(exact_times)), 4)
    return report


def count_found(answers: list[Match], truth: list[Match]) -> int:
    """Return how many of the true matches, best first, were found; an equal score is as good."""
    if not truth:
        return 0
    return sum(match.score >= truth[-1].score - _TOLERANCE for match in answers)


def sample_queries(view: View, queries: int) -> np.ndarray:
    """Draw up to `queries` unit vectors, each near a living item, float32 (n, dimension)."""
    generator = np.random.default_rng(0)
    living = [part.living_rows() for part in view.parts]
    ends = np.cumsum([len(rows) for rows in living])
    chosen = generator.choice(len(view), min(queries, len(view)), replace=False)
    sampled = []
    for number in np.sort(chosen):
        place = int(np.searchsorted(ends, number, side="right"))
        row = living[place][number - (ends[place - 1] if place else 0)]
        vector = view.parts[place].vectors[row]
        step = generator.standard_normal(len(vector))
        turned = vector + TURN * step / np.linalg.norm(step)
        sampled.append((turned / np.linalg.norm(turned)).astype(np.float32))
    return np.array(sampled, dtype=np.float32)

"""A collection at one moment: its parts, and which of their rows are dead.

In: operations of the journal; each makes a new `View`, so a search that holds the old one is not
disturbed. Out: the nearest living rows over all parts.

Rows that are dead or that a filter excludes are left out exactly: a graph is asked for more rows
until enough are left, and where that would be many, the admitted rows are searched one by one.
So a filtered search returns what an exact one would, up to the recall of the graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqvis.search.filters import Where
from seqvis.search.index import cosines, exact_rows
from seqvis.search.items import Match
from seqvis.search.journal import Added, Operation
from seqvis.search.segments import Segment
from seqvis.search.tail import Tail

_MOST_CANDIDATES = 5000  # to ask a graph for; beyond, looking at all rows is faster


@dataclass(frozen=True)
class Part:
    """A segment or the tail, and which of its first `rows` rows are dead."""

    store: Segment | Tail
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


def part_of(store: Segment | Tail, dead: np.ndarray) -> Part:
    return Part(store, store.vectors[: store.rows], dead, int(dead.sum()))


@dataclass(frozen=True)
class View:
    """All parts; the tail is the last. Nothing in it changes."""

    parts: tuple[Part, ...]

    @property
    def dimension(self) -> int:
        return int(self.parts[-1].vectors.shape[1])

    def __len__(self) -> int:
        return sum(part.alive for part in self.parts)

    def find(self, ids: Sequence[str]) -> list[tuple[int, int] | None]:
        """Part and row of each living id. Call it only while no other thread applies."""
        found: list[tuple[int, int] | None] = [None] * len(ids)
        for number, part in enumerate(self.parts):
            if not part.alive:
                continue
            for place, row in enumerate(part.store.find(ids)):
                if 0 <= row < part.rows and not part.dead[row]:
                    found[place] = number, row
        return found

    def applied(self, operation: Operation) -> "View":
        """The view after an add or a delete; the tail's store grows."""
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
            parts[number] = Part(old.store, old.vectors, dead, old.dead_count + len(rows))
        if isinstance(operation, Added):
            tail = parts[-1].store
            assert isinstance(tail, Tail)
            tail.add(operation.batch)
            dead = np.zeros(tail.rows, dtype=bool)
            dead[: parts[-1].rows] = parts[-1].dead
            parts[-1] = part_of(tail, dead)
        return View(tuple(parts))

    def search(
        self, queries: np.ndarray, k: int, where: Where | None, min_score: float | None
    ) -> list[list[Match]]:
        """The `k` best living rows for each unit query (q, dimension), best first."""
        found = [(part, _nearest(part, queries, k, where)) for part in self.parts if part.alive]
        answers = []
        for number in range(len(queries)):
            scored: list[tuple[float, int, Part]] = []
            for part, nearest in found:
                rows, scores = nearest[number]
                triples = zip(scores.tolist(), rows.tolist(), strict=True)
                scored += [(score, row, part) for score, row in triples]
            if len(found) > 1:
                scored.sort(key=lambda triple: -triple[0])
            answers.append(
                [
                    Match(part.store.id(row), score, part.store.metadata(row))
                    for score, row, part in scored[:k]
                    if min_score is None or score >= min_score
                ]
            )
        return answers

    def exact(self) -> "View":
        """The same rows without graphs: the reference that recall is measured against."""
        return View(
            tuple(
                Part(_Ungraphed(part.store), part.vectors, part.dead, part.dead_count)  # type: ignore[arg-type]
                for part in self.parts
            )
        )


class _Ungraphed:
    """A segment that hides its graph."""

    index = None

    def __init__(self, store: Segment | Tail):
        self.id, self.metadata, self.columns = store.id, store.metadata, store.columns


Nearest = tuple[np.ndarray, np.ndarray]  # rows and their cosines, best first


def _nearest(part: Part, queries: np.ndarray, k: int, where: Where | None) -> list[Nearest]:
    admitted = None
    count = part.alive
    if where is not None:
        admitted = part.store.columns.mask(where, part.rows) & ~part.dead
        count = int(admitted.sum())
    elif part.dead_count:
        admitted = ~part.dead
    index = part.store.index
    found: list[np.ndarray | None] = [None] * len(queries)
    if index is not None and count:
        wanted = _enough(k, part.rows, count)
        most = min(part.rows // 8, _MOST_CANDIDATES)
        while wanted <= most and any(rows is None for rows in found):
            open_places = [place for place, rows in enumerate(found) if rows is None]
            candidates = index.candidates(queries[open_places], wanted)
            for place, rows in zip(open_places, candidates, strict=True):
                if rows is None:
                    continue
                kept = rows if admitted is None else rows[admitted[rows]]
                if len(kept) >= k:
                    found[place] = kept[:k]
            wanted *= 4
    rest = [place for place, rows in enumerate(found) if rows is None]
    if rest:
        for place, rows in zip(
            rest, exact_rows(part.vectors, queries[rest], k, admitted), strict=True
        ):
            found[place] = rows
    return [
        _scored(part.vectors, rows, queries[place])
        for place, rows in enumerate(found)
        if rows is not None
    ]


def _enough(k: int, rows: int, admitted: int) -> int:
    """Rows to ask the graph for, so that usually `k` admitted ones are among them."""
    return k if admitted == rows else int(1.5 * k * rows / admitted) + 8


def _scored(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray) -> Nearest:
    scores = cosines(vectors, rows, query)
    order = np.argsort(-scores, kind="stable")
    return rows[order], scores[order]

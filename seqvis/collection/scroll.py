"""Scroll through a collection: pages of items in an order that adding and deleting do not change.

The order is that of the 64-bit hashes of the ids, which segments keep sorted on the disk, so a page
costs the same wherever it begins. The cursor is the last hash of a page. An item that is there all
the while is on exactly one page, whatever is added, replaced, deleted or compacted between two.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Any, NamedTuple

import numpy as np

from seqvis.collection.filters.conditions import Condition
from seqvis.collection.filters.where import Predicate
from seqvis.collection.items import hashes_of
from seqvis.collection.view import Part, View
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.errors import DataError

_CURSOR = re.compile("[0-9a-f]{16}")


class Entry(NamedTuple):
    """An item as a page lists it."""

    id: str
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """Items in the collection's order, and the cursor to give for the next page; None: no more."""

    entries: list[Entry]
    next: str | None


def page_of(
    view: View,
    limit: int,
    after: str | None = None,
    where: Condition | Predicate | None = None,
    deadline: Deadline = UNBOUNDED,
    missing_ok: bool = False,
) -> Page:
    """Return the page of `limit` items after a cursor, or the first.

    A page has more items than `limit` only if ids have equal hashes. With a filter, columns of
    metadata are read as for a search. Raises DataError, SearchTimeoutError, and, unless
    `missing_ok`, UnknownFieldError.
    """
    if limit < 1:
        raise DataError(f"limit is {limit}; ask for at least 1 item")
    if after is not None and not _CURSOR.fullmatch(after):
        raise DataError(f"after is {after[:40]!r}, which is no cursor; give `next` of a page")
    last = -1 if after is None else int(after, 16)
    parts = [part for part in view.parts if part.alive]
    admitted: list[np.ndarray | None] = [None] * len(parts)
    if where is not None:
        admitted = view.admitted(parts, where, deadline, missing_ok)
    following, more = [], False
    for place, (part, mask) in enumerate(zip(parts, admitted, strict=True)):
        found, ended = _following(part, mask, last, limit + 1, deadline)
        following += [(number, part.store.id(row), place, row) for number, row in found]
        more |= not ended
    following.sort()
    entries = [Entry(name, parts[place].store.metadata(row)) for _, name, place, row in following]
    return _cut([number for number, *_ in following], entries, limit, more)


def merge_pages(pages: Sequence[Page], limit: int) -> Page:
    """Return the page of a split collection, given those of its shards for the same cursor."""
    numbered = [zip(_hashes(page.entries), page.entries, strict=True) for page in pages]
    merged = list(merge(*numbered, key=lambda pair: (pair[0], pair[1].id)))
    numbers = [number for number, _ in merged]
    more = any(page.next for page in pages)
    return _cut(numbers, [entry for _, entry in merged], limit, more)


def _cut(numbers: list[int], entries: list[Entry], limit: int, more: bool) -> Page:
    """Return the first `limit` entries, and all that have the hash of the last of these."""
    end = min(limit, len(entries))
    while end < len(entries) and numbers[end] == numbers[end - 1]:
        end += 1
    more |= end < len(entries)
    return Page(entries[:end], f"{numbers[end - 1]:016x}" if more and end else None)


def _hashes(entries: Sequence[Entry]) -> list[int]:
    hashes: list[int] = hashes_of(entry.id.encode() for entry in entries).tolist()
    return hashes


def _following(
    part: Part, admitted: np.ndarray | None, after: int, count: int, deadline: Deadline
) -> tuple[list[tuple[int, int]], bool]:
    """Return hash and row of the part's next `count` rows or more, and whether these are all.

    Next are those of the least hashes above `after`; of rows with equal hashes all are returned or
    none. `admitted` says which rows count, bool (rows); None: those alive.
    """
    hashes, rows = part.store.by_hash(part.rows)
    found: list[tuple[int, int]] = []
    place = 0 if after < 0 else int(np.searchsorted(hashes, np.uint64(after), side="right"))
    size = count
    while place < len(hashes) and len(found) < count:
        deadline.check()
        last = hashes[min(place + size, len(hashes)) - 1]
        end = int(np.searchsorted(hashes, last, side="right"))
        some = rows[place:end]
        kept = ~part.dead[some] if admitted is None else admitted[some]
        found += zip(hashes[place:end][kept].tolist(), some[kept].tolist(), strict=True)
        place, size = end, 2 * size
    return found, place == len(hashes)

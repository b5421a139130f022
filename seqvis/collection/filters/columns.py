"""Filters that restrict a search to items with given metadata.

A filter is either a function of the metadata or a mapping from metadata keys to a value or a list
of values. All keys must match; for a list, any of its values will do. An item whose own value is a
list matches each value in the list, and the list itself. Numbers are equal however they are written
(1 and 1.0), and so are texts whether accents are composed or not, but a number does not match its
text and true does not match 1. An item without the key never matches, not even a filter for None.
Dates and similar values are compared as they are stored (`items.json_value`).
"""

import json
import os
import reprlib
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any
from unicodedata import normalize

import numpy as np

from seqvis.collection.items import json_value
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.errors import DataError

Where = Mapping[str, Any] | Callable[[dict[str, Any]], bool]

_CHUNK = 256  # rows between looks at the clock
_PATIENCE = 0.1  # seconds between looks at whether anybody still waits
_LEAST_KEPT, _KEPT_PER_ROW = 1 << 20, 256  # bytes of columns
_KEY = os.urandom(16)


class Columns:
    """The values of metadata fields by row, read when a filter first needs them.

    All fields of a filter are read together, so that metadata is parsed only once (about 3 µs a
    row, plus 5 µs for each value). Columns are cached for later filters, up to 256 bytes a row in
    all, or 1 MiB if that is more; the least recently used are dropped first. A filter that runs out
    of time keeps what it has read, and the next one continues from there. A field that no row has
    takes no memory, and no time once all field names are known.
    """

    def __init__(self, metadata: Callable[[int], dict[str, Any]]):
        self._metadata = metadata
        self._parsing = threading.Lock()  # held while metadata is parsed: by one thread at a time
        self._lock = threading.Lock()  # held for microseconds
        self._columns: OrderedDict[str, _Column] = OrderedDict()  # the last used at the end
        self._names: set[str] = set()  # of the fields in the rows before `_seen`
        self._seen = 0

    def mask(self, where: Where, rows: int, deadline: Deadline = UNBOUNDED) -> np.ndarray:
        """Return which of the first `rows` rows agree with `where`, bool (rows).

        Raises SearchTimeoutError.
        """
        mask = np.zeros(rows, dtype=bool)
        if callable(where):
            for row in range(rows):
                if row % _CHUNK == 0:
                    deadline.check()
                mask[row] = where(self._metadata(row))
            return mask
        columns = self._read(where, rows, deadline)
        if len(columns) < len(where):
            return mask
        mask[:] = True
        for name, wanted in where.items():
            mask &= columns[name].mask(_any_of(wanted), rows)
        return mask

    def lacks(self, name: str, rows: int) -> bool:
        """Tell whether it is known that none of the first `rows` rows has the field."""
        return rows <= self._seen and name not in self._names

    def unread(self, where: Mapping[str, Any], rows: int) -> int:
        """Return how many of the first `rows` rows must be parsed for a filter."""
        with self._lock:
            columns = self._unread(where, rows)
        return rows - min((column.rows for column in columns.values()), default=rows)

    def names(self) -> set[str]:
        """Return the fields of all rows that were read."""
        return set(self._names)

    def _read(
        self, where: Mapping[str, Any], rows: int, deadline: Deadline
    ) -> "dict[str, _Column]":
        """Return the columns of a filter's fields that any row has, read up to `rows`."""
        with self._lock:
            if not self._unread(where, rows):
                return self._used(where)
        while not self._parsing.acquire(timeout=min(deadline.left(), _PATIENCE)):
            deadline.check()
        try:
            with self._lock:
                unread = self._unread(where, rows)
                columns = self._used(where)
            return columns | self._parse(unread, rows, deadline)
        finally:
            self._parsing.release()

    def _unread(self, where: Mapping[str, Any], rows: int) -> "dict[str, _Column]":
        """Return the columns that lack some of the rows, as they are."""
        columns = {}
        for name in where:
            if self.lacks(name, rows):
                continue
            # If no row had this name so far, its column is known up to there: it is empty.
            start = 0 if name in self._names else self._seen
            column = self._columns.get(name) or _Column.without_values(start)
            if column.rows < rows:
                columns[name] = column
        return columns

    def _used(self, where: Mapping[str, Any]) -> "dict[str, _Column]":
        columns = {name: self._columns[name] for name in where if name in self._columns}
        for name in columns:
            self._columns.move_to_end(name)
        return columns

    def _parse(
        self, columns: "dict[str, _Column]", rows: int, deadline: Deadline
    ) -> "dict[str, _Column]":
        """Return the columns with their missing rows added; keep these even if time runs out."""
        more = {name: _Entries(column.rows) for name, column in columns.items()}
        row = min((column.rows for column in columns.values()), default=rows)
        try:
            while row < rows:
                if row % _CHUNK == 0:
                    deadline.check()
                metadata = self._metadata(row)
                if row >= self._seen:
                    self._names.update(metadata)
                    self._seen = row + 1
                for name, entries in more.items():
                    if name in metadata and row >= entries.begin:
                        entries.add(row, metadata[name])
                row += 1
        finally:
            grown = {
                name: column.extended(more[name], row)
                for name, column in columns.items()
                if name in self._names
            }
            self._keep(grown)
        return grown

    def _keep(self, columns: "dict[str, _Column]") -> None:
        with self._lock:
            self._columns |= columns
            for name in columns:
                self._columns.move_to_end(name)
            left = max(_LEAST_KEPT, _KEPT_PER_ROW * self._seen)
            for name in reversed(list(self._columns)):
                size = self._columns[name].size
                if size > left:
                    del self._columns[name]
                else:
                    left -= size


@dataclass(frozen=True)
class _Column:
    """One field's values in the first `rows` rows, as hashes with their row numbers, in row order.

    A list is stored both as itself and as each of its values. The hashes are keyed per process, so
    that nobody can construct two values that collide.
    """

    rows: int
    places: np.ndarray  # int32 (n): rows
    hashes: np.ndarray  # uint64 (n)

    @classmethod
    def without_values(cls, rows: int) -> "_Column":
        return cls(rows, np.empty(0, np.int32), np.empty(0, np.uint64))

    @property
    def size(self) -> int:
        return self.places.nbytes + self.hashes.nbytes

    def extended(self, more: "_Entries", rows: int) -> "_Column":
        places = np.concatenate([self.places, np.frombuffer(more.places, np.int32)])
        hashes = np.concatenate([self.hashes, np.frombuffer(more.hashes, np.uint64)])
        return _Column(max(rows, self.rows), places, hashes)

    def mask(self, wanted: list[Any], rows: int) -> np.ndarray:
        """Return which of the first `rows` rows have one of the values."""
        count = int(np.searchsorted(self.places, rows))
        hashes = np.array([_hash(json_value(value)) for value in wanted], dtype=np.uint64)
        mask = np.zeros(rows, dtype=bool)
        mask[self.places[:count][np.isin(self.hashes[:count], hashes)]] = True
        return mask


class _Entries:
    """The entries to add to a column, from row `begin` on."""

    def __init__(self, begin: int):
        self.begin = begin
        self.places, self.hashes = array("i"), array("Q")

    def add(self, row: int, value: Any) -> None:
        values = {_hash(value)}
        if isinstance(value, list):
            values.update(_hash(inner) for inner in value)
        self.hashes.extend(values)
        self.places.extend([row] * len(values))


def check_where(where: Any) -> Where | None:
    """Return `where`, or None if it admits everything. Raises DataError if it is no filter."""
    if where is None or callable(where):
        return where
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise DataError(f"{where!r}: is no filter; give a mapping of metadata keys to values")
    for key, wanted in where.items():
        for value in _any_of(wanted):
            try:
                _canonical(json_value(value))
            except (TypeError, ValueError, RecursionError) as error:
                shown = reprlib.repr(value)
                raise DataError(f"the filter {key}={shown} cannot match: {error}") from error
    return where or None


def _any_of(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]


def _hash(value: Any) -> int:
    digest = blake2b(_canonical(value).encode("utf-8", "surrogatepass"), digest_size=8, key=_KEY)
    return int.from_bytes(digest.digest(), "little")


def _canonical(value: Any) -> str:
    """Return one text for all ways to write the same value of JSON."""
    text = json.dumps(_without_points(value), sort_keys=True, allow_nan=False, ensure_ascii=False)
    return normalize("NFC", text)


def _without_points(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_without_points(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _without_points(inner) for key, inner in value.items()}
    return value

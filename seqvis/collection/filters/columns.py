"""Columns of metadata, by which conditions are evaluated for many rows at once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import numpy as np

from seqvis.collection.filters.conditions import (
    And,
    AnyElement,
    Condition,
    Leaf,
    Not,
    Or,
    Within,
    fields_of,
    leaves,
    requires,
)
from seqvis.collection.filters.entries import Column, Entries, Key, objects_in
from seqvis.collection.filters.where import Where, check_where
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.errors import SearchTimeoutError

_CHUNK = 256  # rows between looks at the clock
_PATIENCE = 0.1  # seconds between looks at whether anybody still waits
_LEAST_KEPT, _KEPT_PER_ROW = 1 << 20, 256  # bytes of columns
_NESTED = (dict, list)


class Columns:
    """The values of metadata fields by row, read when a filter first needs them.

    All fields of a filter are read together, so that metadata is parsed only once (about 3 µs a
    row, plus 3 µs for each value). Columns are cached for later filters, up to 256 bytes a row in
    all, or 1 MiB if that is more; the least recently used are dropped first. A filter that runs out
    of time keeps what it has read, and the next one continues from there. A field that no row has
    takes no memory, and no time once all field names are known.
    """

    def __init__(self, metadata: Callable[[int], dict[str, Any]]):
        self._metadata = metadata
        self._parsing = threading.Lock()  # held while metadata is parsed: by one thread at a time
        self._lock = threading.Lock()  # held for microseconds
        self._columns: OrderedDict[Key, Column] = OrderedDict()  # the last used at the end
        self._names: set[str] = set()  # of the fields in the rows before `_seen`, inner ones too
        self._seen = 0

    def mask(self, where: Where, rows: int, deadline: Deadline = UNBOUNDED) -> np.ndarray:
        """Return which of the first `rows` rows agree with `where`, bool (rows).

        Raises SearchTimeoutError.
        """
        condition = check_where(where)
        if condition is None:
            return np.ones(rows, dtype=bool)
        mask = np.zeros(rows, dtype=bool)
        if not callable(condition):
            lacking = [name for name in fields_of(condition) if self.lacks(name, rows)]
            if lacking and requires(condition, lacking):
                return mask
            columns = self._read(_keys_of(condition), rows, deadline)
            return _mask(condition, columns, rows, deadline)
        for row in range(rows):
            if row % _CHUNK == 0:
                deadline.check()
            mask[row] = condition(self._metadata(row))
        return mask

    def lacks(self, name: str, rows: int, dead: np.ndarray | None = None) -> bool:
        """Tell whether it is known that none of the first `rows` rows has the field.

        `dead`, bool (rows): rows that do not count.
        """
        if rows <= self._seen and name not in self._names:
            return True
        if dead is None:
            return False
        column = self._columns.get(Key("", name, "values"))
        if column is None or column.rows < rows:
            return False
        places = column.places[: np.searchsorted(column.places, rows)]
        return not len(places) or bool(dead[places[0]] and dead[places].all())

    def unread(self, where: Where, rows: int) -> int:
        """Return how many of the first `rows` rows must be parsed for a filter."""
        condition = check_where(where)
        if condition is None or callable(condition):
            return 0
        with self._lock:
            columns = self._unread(_keys_of(condition), rows)
        return rows - min((column.rows for column in columns.values()), default=rows)

    def names(self) -> set[str]:
        """Return the fields of all rows that were read, with those of inner objects."""
        return set(self._names)

    def _read(self, keys: Iterable[Key], rows: int, deadline: Deadline) -> dict[Key, Column]:
        """Return the columns of a filter's fields that any row has, read up to `rows`."""
        with self._lock:
            if not self._unread(keys, rows):
                return self._used(keys)
        while not self._parsing.acquire(timeout=min(deadline.left(), _PATIENCE)):
            deadline.check()
        try:
            with self._lock:
                unread = self._unread(keys, rows)
                columns = self._used(keys)
            return columns | self._parse(unread, rows, deadline)
        finally:
            self._parsing.release()

    def _unread(self, keys: Iterable[Key], rows: int) -> dict[Key, Column]:
        """Return the columns that lack some of the rows, as they are."""
        columns = {}
        for key in keys:
            if self.lacks(key.name, rows):
                continue
            # If no row had this name so far, its column is known up to there: it is empty.
            start = 0 if key.inside or key.name in self._names else self._seen
            column = self._columns.get(key) or Column.without_entries(key, start)
            if column.rows < rows:
                columns[key] = column
        return columns

    def _used(self, keys: Iterable[Key]) -> dict[Key, Column]:
        columns = {key: self._columns[key] for key in keys if key in self._columns}
        for key in columns:
            self._columns.move_to_end(key)
        return columns

    def _parse(
        self, columns: dict[Key, Column], rows: int, deadline: Deadline
    ) -> dict[Key, Column]:
        """Return the columns with their missing rows added; keep these even if time runs out."""
        more = [Entries(key, column) for key, column in columns.items()]
        row = min((column.rows for column in columns.values()), default=rows)
        late: SearchTimeoutError | None = None
        try:
            while row < rows:
                if row % _CHUNK == 0:
                    deadline.check()
                metadata = self._metadata(row)
                if row >= self._seen:
                    self._add_names(metadata)
                    self._seen = row + 1
                for entries in more:
                    if row >= entries.begin:
                        entries.read(row, metadata)
                row += 1
        except SearchTimeoutError as error:
            late = error
        grown = {
            entries.key: columns[entries.key].extended(entries, row)
            for entries in more
            if entries.key.name in self._names
        }
        self._keep(grown)
        if late is not None:
            raise late
        return grown

    def _add_names(self, metadata: dict[str, Any], before: str = "") -> None:
        self._names.update(map(before.__add__, metadata) if before else metadata)
        for name, value in metadata.items():
            if type(value) in _NESTED:
                for inner in objects_in(value):
                    self._add_names(inner, f"{before}{name}.")

    def _keep(self, columns: dict[Key, Column]) -> None:
        with self._lock:
            self._columns |= columns
            for key in columns:
                self._columns.move_to_end(key)
            left = max(_LEAST_KEPT, _KEPT_PER_ROW * self._seen)
            for key in reversed(list(self._columns)):
                size = self._columns[key].size
                if size > left:
                    del self._columns[key]
                else:
                    left -= size


def _keys_of(condition: Condition) -> list[Key]:
    """Return the columns that a condition needs, each once."""
    keys = [_key_of(inside, leaf) for inside, leaf in leaves(condition)]
    lists = [Key(key.inside, "", "rows") for key in keys if key.inside]
    return list(dict.fromkeys([*keys, *lists]))


def _key_of(inside: str, leaf: Leaf) -> Key:
    if not isinstance(leaf, Within):
        return Key(inside, leaf.field, "values")
    end = leaf.low or leaf.high
    is_text = end is not None and isinstance(end.value, str)
    return Key(inside, leaf.field, "texts" if is_text else "numbers")


def _mask(
    condition: Condition,
    columns: dict[Key, Column],
    count: int,
    deadline: Deadline,
    inside: str = "",
) -> np.ndarray:
    """Return which of `count` rows, or of the first objects `inside` a list, agree."""
    match condition:
        case And(conditions):
            masks = (_mask(inner, columns, count, deadline, inside) for inner in conditions)
            return reduce(np.logical_and, masks)
        case Or(conditions):
            masks = (_mask(inner, columns, count, deadline, inside) for inner in conditions)
            return reduce(np.logical_or, masks)
        case Not(inner):
            return ~_mask(inner, columns, count, deadline, inside)
        case AnyElement(field, inner):
            mask = np.zeros(count, dtype=bool)
            if (lists := columns.get(Key(field, "", "rows"))) is not None:
                rows = lists.values[: np.searchsorted(lists.values, count)]
                mask[rows[_mask(inner, columns, len(rows), deadline, field)]] = True
            return mask
    deadline.check()
    column = columns.get(_key_of(inside, condition))
    return np.zeros(count, dtype=bool) if column is None else column.mask(condition, count)

"""Filters: which items a search may return, by values of their metadata.

A filter is a mapping of metadata keys to a value, or to a list of values of which any will do (all
keys must agree), or a function of the metadata. An item whose value is a list agrees with each
value in the list, and with the list itself. Numbers are equal however they are written (1 and
1.0), and texts whether accents are composed or not, but a number is not its text and true is not 1.
An item without the key never agrees, not even with None. Dates and the like are compared as they
are stored (`items.json_value`).
"""

import json
import reprlib
import threading
from collections.abc import Callable, Mapping
from typing import Any
from unicodedata import normalize

import numpy as np

from seqvis.errors import DataError
from seqvis.search.items import json_value

Where = Mapping[str, Any] | Callable[[dict[str, Any]], bool]


class Columns:
    """The values of metadata keys by row, numbered; read when a filter first asks for a key.

    The first filter by a key parses all metadata (about 3 µs a row), later ones do not. Which keys
    there are is noted meanwhile, so a key that no row has costs nothing again.
    """

    def __init__(self, metadata: Callable[[int], dict[str, Any]]):
        self._metadata = metadata
        self._lock = threading.Lock()
        self._columns: dict[str, _Column] = {}
        self._keys: set[str] = set()  # of the rows before `_seen`
        self._seen = 0

    def mask(self, where: Where, rows: int) -> np.ndarray:
        """Which of the first `rows` rows agree with `where`, bool (rows)."""
        if callable(where):
            found = (bool(where(self._metadata(row))) for row in range(rows))
            return np.fromiter(found, bool, rows)
        mask = np.ones(rows, dtype=bool)
        for key, wanted in where.items():
            with self._lock:
                column = self._column(key, rows)
                if column is None:
                    return np.zeros(rows, dtype=bool)
                codes, accepted = column.codes[:rows], column.accepted(_any_of(wanted))
            mask &= accepted[codes]
        return mask

    def has(self, key: str, rows: int) -> bool:
        """Whether one of the first `rows` rows has the key."""
        with self._lock:
            return self._column(key, rows) is not None

    def keys(self) -> set[str]:
        """The keys of all rows that were read."""
        with self._lock:
            return set(self._keys)

    def _column(self, key: str, rows: int) -> "_Column | None":
        """The column of a key as far as `rows`, at least; None if no row has the key."""
        if key not in self._keys and rows <= self._seen:
            return None
        column = self._columns.get(key)
        if column is None:
            column = _Column(rows=0 if key in self._keys else self._seen)
        codes = []
        for row in range(len(column.codes), rows):
            metadata = self._metadata(row)
            if row >= self._seen:
                self._keys.update(metadata)
            codes.append(column.code(metadata[key]) if key in metadata else -1)
        self._seen = max(self._seen, rows)
        if key not in self._keys:
            return None
        column.extend(codes)
        self._columns[key] = column
        return column


class _Column:
    """One key's values: each row's value as a code, -1 where the row has not got the key."""

    def __init__(self, rows: int):
        """`rows`: how many rows are known not to have the key."""
        self.codes = np.full(rows, -1, dtype=np.int32)
        self._numbers: dict[str, int] = {}  # each distinct value's code
        self._holding: dict[str, list[int]] = {}  # the codes of the lists that hold a value

    def extend(self, codes: list[int]) -> None:
        if codes:
            self.codes = np.concatenate([self.codes, np.array(codes, dtype=np.int32)])

    def code(self, value: Any) -> int:
        text = _canonical(value)
        if text in self._numbers:
            return self._numbers[text]
        code = self._numbers[text] = len(self._numbers)
        if isinstance(value, list):
            for member in {_canonical(one) for one in value}:
                self._holding.setdefault(member, []).append(code)
        return code

    def accepted(self, wanted: list[Any]) -> np.ndarray:
        """For each code, the last being that of -1, whether it is or holds a wanted value."""
        mask = np.zeros(len(self._numbers) + 1, dtype=bool)
        for value in [_canonical(json_value(one)) for one in wanted]:
            if value in self._numbers:
                mask[self._numbers[value]] = True
            mask[self._holding.get(value, [])] = True
        return mask


def check_where(where: Any) -> Where | None:
    """`where`, or None if it admits everything. Raises DataError if it is no filter."""
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


def _canonical(value: Any) -> str:
    """One text for all ways to write the same value of JSON."""
    text = json.dumps(_without_points(value), sort_keys=True, allow_nan=False, ensure_ascii=False)
    return normalize("NFC", text)


def _without_points(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_without_points(one) for one in value]
    if isinstance(value, dict):
        return {key: _without_points(one) for key, one in value.items()}
    return value

"""Which items a search may return: by values of their metadata.

In: `where`, a mapping of a metadata key to a value, or to a list of values of which any will do
(all keys must agree), or a function of the metadata. Out: a mask of rows. A number equals the
same number written otherwise (1 and 1.0), true is no number, and an item without the key never
agrees, not even with None.
"""

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seqvis.errors import DataError

Where = Mapping[str, Any] | Callable[[dict[str, Any]], bool]


class Columns:
    """The values of metadata keys by row, numbered; read when a filter first asks for a key.

    The first filter by a key parses all metadata (about 3 µs a row), later ones do not.
    """

    def __init__(self, metadata: Callable[[int], dict[str, Any]]):
        self._metadata = metadata
        self._lock = threading.Lock()
        self._columns: dict[str, tuple[np.ndarray, dict[str, int]]] = {}

    def mask(self, where: Where, rows: int) -> np.ndarray:
        """Which of the first `rows` rows agree with `where`, bool (rows)."""
        if callable(where):
            found = (bool(where(self._metadata(row))) for row in range(rows))
            return np.fromiter(found, bool, rows)
        mask = np.ones(rows, dtype=bool)
        for key, wanted in where.items():
            codes, numbers = self._column(key, rows)
            accepted = np.zeros(len(numbers) + 1, dtype=bool)  # the last is for code -1
            for value in _any_of(wanted):
                accepted[numbers.get(_canonical(value), -1)] = True
            accepted[-1] = False
            mask &= accepted[codes]
        return mask

    def _column(self, key: str, rows: int) -> tuple[np.ndarray, dict[str, int]]:
        with self._lock:
            codes, numbers = self._columns.get(key, (np.empty(0, dtype=np.int32), {}))
            if len(codes) < rows:
                numbers = dict(numbers)  # a search that has the old one goes on undisturbed
                new = [self._code(key, row, numbers) for row in range(len(codes), rows)]
                codes = np.concatenate([codes, np.array(new, dtype=np.int32)])
                self._columns[key] = codes, numbers
            return codes[:rows], numbers

    def _code(self, key: str, row: int, numbers: dict[str, int]) -> int:
        metadata = self._metadata(row)
        if key not in metadata:
            return -1
        return numbers.setdefault(_canonical(metadata[key]), len(numbers))


def check_where(where: Any) -> Where | None:
    """`where`, or None if it admits everything. Raises DataError if it is no filter."""
    if where is None or callable(where):
        return where
    if not isinstance(where, Mapping) or not all(isinstance(key, str) for key in where):
        raise DataError(f"{where!r}: is no filter; give a mapping of metadata keys to values")
    for key, wanted in where.items():
        for value in _any_of(wanted):
            try:
                _canonical(value)
            except (TypeError, ValueError) as error:
                raise DataError(f"the filter {key}={value!r} cannot match: {error}") from error
    return where or None


def _any_of(wanted: Any) -> list[Any]:
    return list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]


def _canonical(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, allow_nan=False)

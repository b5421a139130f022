"""What a column of metadata holds: a field's values in some rows, in a form to compare fast."""

import os
from array import array
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, NamedTuple
from unicodedata import normalize

import numpy as np

from seqvis.collection.filters.conditions import (
    Exists,
    Leaf,
    Limit,
    OneOf,
    Within,
    canonical,
    full_name,
)

_KEY = os.urandom(16)
_EXACT = 2.0**53  # below this, float64 has every integer
_ARRAYS = {"values": "Q", "numbers": "d", "rows": "i"}  # types of the module array
_INLINE = 15  # bytes of a text that NumPy keeps in the array itself

Kind = Literal["values", "numbers", "texts", "rows"]


class Key(NamedTuple):
    """Which column: of a field of the rows, or of the objects that `inside`, a field, lists.

    The kind says what its entries are: `values` hashes of all values, `numbers` and `texts` those
    values that are one, `rows` the rows in which the objects are.
    """

    inside: str
    field: str
    kind: Kind

    @property
    def name(self) -> str:
        return full_name(self.inside, self.field) if self.field else self.inside


@dataclass(frozen=True)
class Column:
    """The entries of one key in the first `rows` rows, in row order.

    A list is stored both as itself and as each of its values. The hashes are keyed per process, so
    that nobody can construct two values that collide. A number is a float64, and what this lacks of
    a large integer.
    """

    rows: int
    objects: int  # in the lists of these rows
    places: np.ndarray  # int32 (n): rows, or numbers of objects
    values: np.ndarray  # (n): uint64 hashes, StringDType or int32 rows; numbers float64 (n, 2)
    apart: int = 0  # bytes of long texts, which NumPy keeps apart from the array

    @property
    def size(self) -> int:
        return self.places.nbytes + self.values.nbytes + self.apart

    @classmethod
    def without_entries(cls, key: Key, rows: int) -> "Column":
        empty: dict[Kind, np.ndarray] = {
            "values": np.empty(0, np.uint64),
            "numbers": np.empty((0, 2)),
            "texts": np.empty(0, np.dtypes.StringDType()),
            "rows": np.empty(0, np.int32),
        }
        return cls(rows, 0, np.empty(0, np.int32), empty[key.kind])

    def extended(self, more: "Entries", rows: int) -> "Column":
        places = np.concatenate([self.places, np.array(more.places, np.int32)])
        added = np.array(more.values, self.values.dtype).reshape(-1, *self.values.shape[1:])
        values = np.concatenate([self.values, added])
        apart = self.apart + more.bytes_apart()
        return Column(max(rows, self.rows), more.objects, places, values, apart)

    def mask(self, leaf: Leaf, count: int) -> np.ndarray:
        """Return which of the first `count` places agree, bool (count)."""
        end = int(np.searchsorted(self.places, count))
        mask = np.zeros(count, dtype=bool)
        mask[self.places[:end][_agree(leaf, self.values[:end])]] = True
        return mask


class Entries:
    """The entries to add to a column, from row `begin` on."""

    def __init__(self, key: Key, column: Column):
        self.key = key
        self.begin = column.rows
        self.objects = column.objects
        self.places = array("i")
        self.values: Any = [] if key.kind == "texts" else array(_ARRAYS[key.kind])

    def read(self, row: int, metadata: dict[str, Any]) -> None:
        """Add what the next row has."""
        inside, field, kind = self.key
        if not inside:
            for value in _select(metadata, field):
                self._add(row, value)
            return
        for listed in _select(metadata, inside):
            for inner in objects_in(listed):
                if kind == "rows":
                    self.places.append(self.objects)
                    self.values.append(row)
                for value in _select(inner, field):
                    self._add(self.objects, value)
                self.objects += 1

    def bytes_apart(self) -> int:
        sizes = (len(text.encode()) for text in self.values if self.key.kind == "texts")
        return sum(size for size in sizes if size > _INLINE)

    def _add(self, place: int, value: Any) -> None:
        if self.key.kind == "values":
            hashes = (
                {_hash(value), *map(_hash, value)} if isinstance(value, list) else [_hash(value)]
            )
            self.values.extend(hashes)
            self.places.extend([place] * len(hashes))
            return
        for some in value if isinstance(value, list) else [value]:
            if self.key.kind == "texts":
                if isinstance(some, str):
                    self.values.append(normalize("NFC", some))
                    self.places.append(place)
            elif isinstance(some, int | float) and not isinstance(some, bool):
                self.values.extend(_split(some))
                self.places.append(place)


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return the object that a value is, or the objects that a list has."""
    values = value if isinstance(value, list) else [value]
    return [inner for inner in values if isinstance(inner, dict)]


def _select(metadata: dict[str, Any], field: str) -> list[Any]:
    """Return the values of a field, also of one of an inner object, such as `people.name`."""
    values = [metadata[field]] if field in metadata else []
    if "." in field:
        for name, value in metadata.items():
            if field.startswith(f"{name}."):
                for inner in objects_in(value):
                    values += _select(inner, field[len(name) + 1 :])
    return values


def _agree(leaf: Leaf, values: np.ndarray) -> np.ndarray:
    match leaf:
        case OneOf(_, wanted):
            return _among(values, wanted)
        case Exists():
            return ~_among(values, (None, []))
        case Within(_, low, high):
            mask = np.ones(len(values), dtype=bool)
            if low is not None:
                mask &= _beyond(values, low, above=True)
            if high is not None:
                mask &= _beyond(values, high, above=False)
            return mask


def _among(hashes: np.ndarray, values: tuple[Any, ...]) -> np.ndarray:
    if len(values) == 1:
        return hashes == np.uint64(_hash(values[0]))
    return np.isin(hashes, np.array([_hash(value) for value in values], dtype=np.uint64))


def _beyond(values: np.ndarray, limit: Limit, above: bool) -> np.ndarray:
    """Return which texts, or which numbers (n, 2), are on the right side of a limit."""
    strictly, otherwise = (np.greater, np.greater_equal) if above else (np.less, np.less_equal)
    compare = otherwise if limit.included else strictly
    if isinstance(limit.value, str):
        return compare(values, normalize("NFC", limit.value))
    first, rest = _split(limit.value)
    if abs(first) < _EXACT:
        return compare(values[:, 0], first)
    return strictly(values[:, 0], first) | (values[:, 0] == first) & compare(values[:, 1], rest)


def _split(number: int | float) -> tuple[float, float]:
    """Return a number as float64, and what this lacks of a large integer."""
    try:
        first = float(number)
    except OverflowError:
        return float("inf") if number > 0 else float("-inf"), 0.0
    rest = float(number - int(first)) if isinstance(number, int) and abs(first) >= _EXACT else 0.0
    return first, rest


def _hash(value: Any) -> int:
    text = canonical(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8, key=_KEY).digest(), "little")

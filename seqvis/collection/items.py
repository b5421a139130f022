"""Items that a collection stores and finds, and the checks they pass before they are stored.

`check_items` turns a caller's items into a `Batch`: the same data as columns, with unit vectors and
metadata as JSON text. The checks are made here because nmslib makes none: it reads a vector of
another length out of bounds, and a NaN makes every later search wrong.

In a split collection a hash of an item's id says which shard it belongs to, and `merge` makes one
answer out of those of the shards.
"""

import hashlib
import heapq
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import numpy as np

from seqvis.checks import check_several, has_control_characters
from seqvis.errors import DataError, UnknownFieldError

LONGEST_ID = 4096  # bytes
SHARD = "shard"  # the key of a shard's config that says which it is
_JSON = json.JSONDecoder()

Answer = TypeVar("Answer")  # of a shard


@dataclass(frozen=True)
class Item:
    """An item to store.

    `vector` (dimension) may have any length but 0; it is stored at length 1.
    """

    id: str
    vector: np.ndarray
    metadata: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: bytes | None = None


class Match(NamedTuple):
    """An item that a search found. `score` is the cosine of its vector and the query, -1 to 1."""

    id: str
    score: float
    metadata_json: bytes

    @property
    def metadata(self) -> dict[str, Any]:
        """The item's metadata, parsed at each access: about 1.5 µs for three fields."""
        return decode_metadata(self.metadata_json)


def best_first(match: Match) -> tuple[float, str]:
    """Return the key by which matches are sorted everywhere: greatest score, then least id.

    Neither depends on where an item is stored, so that shards and segments merge to one answer.
    """
    return -match.score, match.id


def merge(answers: Sequence[Sequence[Match] | UnknownFieldError], k: int) -> list[Match]:
    """Merge the answers of the shards, each best first, as `Collection.search` returns them.

    If each shard was asked for `k` matches and is searched exactly, it is the answer of the
    unsharded collection: the same ids and scores in the same order, ties included, since these are
    ordered by id everywhere. Shards searched by graphs find at least as much of the truth as one
    large graph (each looks at as many candidates), but not always the same.

    A shard whose items all lack a field of the filter raises UnknownFieldError; give the error,
    which holds the shard's matches, as its answer. So does an empty shard. It is raised here if no
    shard has the field.
    """
    return list(islice(heapq.merge(*known(answers), key=best_first), k))


def known(answers: Sequence[Answer | UnknownFieldError]) -> list[Answer]:
    """Return the shards' answers, also those in errors; raise UnknownFieldError as `merge` does."""
    unknown = [answer for answer in answers if isinstance(answer, UnknownFieldError)]
    if unknown and len(unknown) == len(answers):
        nowhere = set.intersection(*(set(error.missing) for error in unknown))
        missing = tuple(field for field in unknown[0].missing if field in nowhere)
        fields = set[str]().union(*(error.fields for error in unknown))
        if missing and fields:  # without any, all shards are empty, and so is the answer
            raise UnknownFieldError(missing, tuple(sorted(fields)))
    found = [
        answer.answer if isinstance(answer, UnknownFieldError) else answer for answer in answers
    ]
    return [answer for answer in found if answer is not None]


@dataclass(frozen=True)
class Batch:
    """Checked items as columns, in the order in which they were given."""

    ids: list[str]
    vectors: np.ndarray  # (n, dimension) float32, unit rows
    metadata: list[bytes]  # JSON
    thumbnails: list[bytes]  # empty: none

    def __len__(self) -> int:
        return len(self.ids)


def check_items(items: Iterable[Item], dimension: int) -> Batch:
    """Return the items as columns. Raises DataError naming the first that cannot be stored.

    An id twice in `items` is an error as well: which of the two is meant cannot be known.
    """
    items = list(items)
    ids = check_new_ids([item.id for item in items])
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise DataError(f"{name}: is given twice in one batch; give each id once")
        seen.add(name)
    vectors = np.empty((len(items), dimension), dtype=np.float32)
    for row, item in enumerate(items):
        vectors[row] = _check_vector(item, dimension)
    return Batch(
        ids,
        unit_rows(vectors, ids),
        [encode_metadata(item.id, item.metadata) for item in items],
        [_check_thumbnail(item) for item in items],
    )


def batches(items: Iterable[Item], dimension: int, size: int = 2048) -> Iterable[Batch]:
    """Check a stream of items piece by piece."""
    stream = iter(items)
    while piece := list(islice(stream, size)):
        yield check_items(piece, dimension)


def check_ids(ids: Sequence[str]) -> list[str]:
    """Raise DataError if one is empty, too long, no string, or no valid Unicode."""
    check_several(ids, "ids")
    for name in ids:
        if not isinstance(name, str) or not name:
            raise DataError(f"{name!r}: is no id; an id is a string of at least one character")
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise DataError(f"{name!r}: is no id: it is not valid Unicode") from error
        if size > LONGEST_ID:
            raise DataError(f"{name[:40]}…: this id has {size} bytes; {LONGEST_ID} are allowed")
    return list(ids)


def check_new_ids(ids: Sequence[str]) -> list[str]:
    """Check ids as `check_ids` does, and refuse those that do not arrive as they were sent.

    Clients and proxies resolve `.` and `..` in a path, so that a request for a/../b.jpg reaches
    b.jpg, and cut or refuse control characters. Older collections may hold such ids; these can
    still be found and deleted.
    """
    for name in check_ids(ids):
        problem = unsafe_name(name)
        if problem:
            raise DataError(f"{name!r}: cannot be an id: {problem}")
    return list(ids)


def unsafe_name(name: str) -> str | None:
    """Return what is wrong with a name as part of an address, and the remedy, or None."""
    if has_control_characters(name):
        return "it has a line feed or another control character; leave it out"
    if {".", ".."} & set(re.split(r"[/\\]", name)):
        return "it has a segment . or ..; give the path without"
    return None


def unit_rows(vectors: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return rows at length 1, float32, contiguous. DataError names a row of NaN or zeros."""
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        name = names[int(np.argmin(finite))]
        raise DataError(f"{name}: its vector has a value that is not finite; leave it out")
    # In float64, and by the largest value first: squares of 1e-30 or 1e30 are no float32.
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    if not lengths.all():
        name = names[int(np.argmin(lengths))]
        raise DataError(f"{name}: its vector is zero, so it has no direction; leave it out")
    already = np.abs(lengths - 1.0) < 1e-6  # stored rows stay what they were, bit by bit
    lengths[already] = 1.0
    unit: np.ndarray = (wide / lengths[:, None]).astype(np.float32)
    return unit


def check_queries(vectors: np.ndarray, dimension: int) -> np.ndarray:
    """Return queries as unit rows (q, dimension). Raises DataError for what has no direction."""
    try:
        rows = np.asarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"the query is not a vector of numbers ({error})") from error
    if rows.ndim == 1:
        rows = rows[None]
    if rows.ndim != 2 or rows.shape[1] != dimension:
        shape = tuple(np.shape(vectors))
        raise DataError(
            f"the query has shape {shape} where the collection's vectors have {dimension} numbers; "
            f"embed it with the model that the collection was built with"
        )
    if len(rows) == 1:  # the usual case, without the cost of the general one
        row = rows[0].astype(np.float64)
        length = float(np.sqrt(row @ row))
        if 0.0 < length < float("inf"):
            return (row / length).astype(np.float32)[None]
    return unit_rows(rows, [f"query {number + 1}" for number in range(len(rows))])


def encode_metadata(name: str, metadata: Mapping[str, Any]) -> bytes:
    """Return the metadata as JSON. Raises DataError naming the item if that is not possible."""
    remedy = "use text, numbers, true, false, null, dates, lists and objects only"
    if not isinstance(metadata, Mapping):
        raise DataError(f"{name}: its metadata is no mapping of names to values; {remedy}")
    try:
        return json.dumps(json_value(metadata), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{name}: its metadata cannot be stored ({error}); {remedy}") from error


def json_value(value: Any) -> Any:
    """Return a value of metadata as JSON has it, so that storing and filtering agree.

    Dates and times become ISO 8601, durations seconds, bytes hexadecimal digits, and decimals
    numbers where these are exact, else text. Raises TypeError for a key that is no text, which
    json.dumps would turn into text without a word.
    """
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is no string")
        return {key: json_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(inner) for inner in value]
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        number = float(value)
        return number if Decimal(repr(number)) == value else str(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, UUID) else value


def decode_metadata(content: bytes) -> dict[str, Any]:
    """Return what `encode_metadata` wrote; `json.loads` would first guess the encoding of each."""
    metadata: dict[str, Any] = _JSON.raw_decode(content.decode())[0]
    return metadata


def _check_vector(item: Item, dimension: int) -> np.ndarray:
    try:
        vector = np.asarray(item.vector, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"{item.id}: its vector does not consist of numbers ({error})") from error
    if vector.shape != (dimension,):
        raise DataError(
            f"{item.id}: its vector has shape {vector.shape}, the collection's have "
            f"({dimension},); embed it with the model that the collection was built with"
        )
    return vector


def _check_thumbnail(item: Item) -> bytes:
    if item.thumbnail is None:
        return b""
    if not isinstance(item.thumbnail, bytes | bytearray | memoryview):
        raise DataError(f"{item.id}: its thumbnail is {type(item.thumbnail).__name__}, not bytes")
    return bytes(item.thumbnail)


def hashes_of(ids: Iterable[bytes]) -> np.ndarray:
    """Return a 64-bit hash of each id, the same on every machine."""
    digests = b"".join(hashlib.blake2b(name, digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def shard_of(name: str, shards: int) -> int:
    """Return the number of the shard, 0 to `shards` - 1, that an item with this id is in."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def place_of(number: int, shards: int) -> dict[str, int]:
    """Return what a shard's config says under the key `SHARD`."""
    return {"number": number, "of": shards}


def check_belongs(ids: Iterable[str], config: Mapping[str, Any]) -> None:
    """Raise DataError if these are ids of another shard than the one that has this config.

    An item there would never be deleted or replaced, because it is looked for in its own shard.
    """
    place = config.get(SHARD)
    if not isinstance(place, Mapping) or place.keys() != {"number", "of"}:
        return
    for name in ids:
        if shard_of(name, place["of"]) != place["number"]:
            raise DataError(
                f"{name}: belongs in shard {shard_of(name, place['of'])}, this is shard "
                f"{place['number']} of {place['of']}; add it there"
            )

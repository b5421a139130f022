"""The journal: adds and deletes since the last compaction, on disk before they are acknowledged.

Operations (`Added`, `Deleted`) are appended as records and read back in order when a collection is
opened. A file starts with a line that names the format, and a random number, its salt; records
follow:

    magic 4 bytes | length of the payload uint32 | CRC-32 of the payload | CRC-32 of these 12 bytes,
                                                              begun with the salt
    payload: length of the header uint32, header (JSON), vectors float32, metadata, thumbnails

The salt prevents a thumbnail that contains a piece of a journal from looking like a valid record.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seqvis.collection.items import Batch
from seqvis.disk import sync, write_all
from seqvis.errors import ArtifactError, StorageError

_HEADING = struct.Struct("<17sI")
_FORMAT = b"seqvis journal 1\n"
HEADING_SIZE = _HEADING.size
_MAGIC = b"\xf5SQJ"
_FRAME = struct.Struct("<4sIII")
_LENGTH = struct.Struct("<I")
LARGEST_RECORD = (1 << 32) - 1


@dataclass(frozen=True)
class Added:
    """Items added in one call; an existing item with the same id is replaced."""

    batch: Batch


@dataclass(frozen=True)
class Deleted:
    """Ids deleted in one call."""

    ids: Sequence[str]


Operation = Added | Deleted


def heading(salt: int) -> bytes:
    """Return what a journal starts with."""
    return _HEADING.pack(_FORMAT, salt)


def encode(operation: Operation, salt: int) -> bytes:
    """Return one record. Raises StorageError if it is larger than a record can be (4 GB)."""
    if isinstance(operation, Deleted):
        payload = _with_header({"delete": list(operation.ids)}, [])
    else:
        batch = operation.batch
        header = {
            "add": batch.ids,
            "dimension": batch.vectors.shape[1],
            "metadata": [len(blob) for blob in batch.metadata],
            "thumbnails": [len(blob) for blob in batch.thumbnails],
        }
        vectors = batch.vectors.astype("<f4", copy=False).tobytes()
        payload = _with_header(header, [vectors, *batch.metadata, *batch.thumbnails])
    if len(payload) > LARGEST_RECORD:
        raise StorageError(
            f"a batch of {len(payload) >> 20} MB is more than one add can hold (4 GB); "
            f"add fewer items at once, or use load"
        )
    frame = _FRAME.pack(_MAGIC, len(payload), zlib.crc32(payload), 0)[:12]
    return frame + _LENGTH.pack(zlib.crc32(frame, salt)) + payload


def decode(payload: bytes) -> Operation:
    (length,) = _LENGTH.unpack_from(payload)
    header: dict[str, Any] = json.loads(payload[4 : 4 + length])
    if "delete" in header:
        return Deleted(header["delete"])
    ids, dimension = header["add"], header["dimension"]
    place = 4 + length
    count = len(ids) * dimension
    vectors = np.frombuffer(payload, dtype="<f4", count=count, offset=place)
    place += 4 * count
    blobs: list[bytes] = []
    for size in [*header["metadata"], *header["thumbnails"]]:
        blobs.append(payload[place : place + size])
        place += size
    rows = vectors.astype(np.float32).reshape(len(ids), dimension)
    return Added(Batch(ids, rows, blobs[: len(ids)], blobs[len(ids) :]))


class JournalReader:
    """Reads records while another process appends them. It never changes the file."""

    def __init__(self, path: Path):
        self.path = path
        self.offset = 0  # behind the last record that was read
        self.records = 0  # that were read
        self.salt = 0

    def new_records(self) -> Iterator[Operation]:
        """Yield the operations behind `offset`; stop before a record that is not whole (yet).

        Raises ArtifactError if the file is no journal, or has a damaged record before a good
        one, or has become shorter than what was read.
        """
        with self.path.open("rb") as stream:
            if self.offset == 0:
                self._read_heading(stream.read(HEADING_SIZE))
            stream.seek(self.offset)
            while payload := _next_payload(stream, self.salt):
                operation = _decode_checked(payload, self.path, self.offset)
                self.offset += _FRAME.size + len(payload)
                self.records += 1
                yield operation
            stream.seek(self.offset)
            self._check_rest(stream.read())

    def _read_heading(self, content: bytes) -> None:
        if len(content) < HEADING_SIZE or not content.startswith(_FORMAT):
            raise ArtifactError(
                f"{self.path}: is no journal that this seqvis reads; restore a snapshot"
            )
        self.salt = _HEADING.unpack(content)[1]
        self.offset = HEADING_SIZE

    def _check_rest(self, rest: bytes) -> None:
        """Raise ArtifactError if a good record follows the bad one that `rest` begins with."""
        if _payload_at(rest, 0, self.salt) is not None:
            return  # it has become whole just now; the next call reads it
        # A crash while writing leaves a bad record with nothing valid after it, which the writer
        # cuts off. A bad record before a good one is damage.
        place = rest.find(_MAGIC, 1)
        while place > 0:
            if _payload_at(rest, place, self.salt) is not None:
                raise ArtifactError(
                    f"{self.path}: is damaged at byte {self.offset}, before good records; "
                    f"restore a snapshot"
                )
            place = rest.find(_MAGIC, place + 1)


class JournalWriter:
    """Appends records. The collection's lock ensures that only one process does so."""

    def __init__(self, read: JournalReader):
        """Continue the journal after its last good record, and cut off what follows it."""
        self.path, self.offset, self.records = read.path, read.offset, read.records
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        self.broken = False  # whether only the files can tell how far a write came
        if os.fstat(self._descriptor).st_size > self.offset:
            self._cut()

    def append(self, record: bytes) -> None:
        """Write a record and wait until it is on the disk.

        Raises OSError if that fails; the journal is then as it was, or `broken` if not even that is
        certain.
        """
        os.lseek(self._descriptor, self.offset, os.SEEK_SET)
        try:
            write_all(self._descriptor, record)
            sync(self._descriptor)
        except BaseException:
            self.broken = True
            self._cut()
            self.broken = False
            raise
        self.offset += len(record)
        self.records += 1

    def close(self) -> None:
        os.close(self._descriptor)

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.offset)
        sync(self._descriptor)


def _with_header(header: dict[str, Any], parts: Sequence[bytes]) -> bytes:
    text = json.dumps(header, ensure_ascii=False).encode()
    return b"".join([_LENGTH.pack(len(text)), text, *parts])


def _next_payload(stream: BinaryIO, salt: int) -> bytes | None:
    """Return the payload of the record that begins here; None if it is not whole or not good."""
    frame = stream.read(_FRAME.size)
    if len(frame) < _FRAME.size:
        return None
    magic, length, payload_check, check = _FRAME.unpack(frame)
    if magic != _MAGIC or zlib.crc32(frame[:12], salt) != check:
        return None
    payload = stream.read(length)
    good = len(payload) == length and zlib.crc32(payload) == payload_check
    return payload if good else None


def _payload_at(content: bytes, place: int, salt: int) -> bytes | None:
    stream = BytesIO(content)
    stream.seek(place)
    return _next_payload(stream, salt)


def _decode_checked(payload: bytes, path: Path, offset: int) -> Operation:
    try:
        return decode(payload)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise ArtifactError(
            f"{path}: has a record at byte {offset} that this seqvis cannot read ({error}); "
            f"restore a snapshot or upgrade seqvis"
        ) from error

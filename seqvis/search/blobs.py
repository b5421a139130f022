"""Byte strings of different lengths, end to end in one file, read in place.

In: byte strings one by one (`BlobWriter`). Out: `Blobs`, a sequence of them, in two files:

    NAME.bin         the bytes, end to end
    NAME_ends.npy    int64 [n], where each ends

Nothing is loaded: a string is read from the mapped file when it is asked for (under 1 µs).
"""

from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from seqvis.disk import sync_file, synced_file
from seqvis.errors import ArtifactError


class BlobWriter:
    """Writes `NAME.bin` as strings come and `NAME_ends.npy` at the end; holds 8 bytes a string."""

    def __init__(self, folder: Path, name: str):
        self._folder = folder
        self._name = name
        self._ends = array("q")
        self._size = 0
        self._stream = (folder / f"{name}.bin").open("wb")

    def extend(self, blobs: Iterable[bytes]) -> None:
        for blob in blobs:
            self._stream.write(blob)
            self._size += len(blob)
            self._ends.append(self._size)

    def finish(self) -> None:
        self._stream.close()
        sync_file(self._folder / f"{self._name}.bin")
        with synced_file(self._folder / f"{self._name}_ends.npy") as stream:
            np.save(stream, np.frombuffer(self._ends, dtype=np.int64))

    def abandon(self) -> None:
        with suppress(OSError):  # closing writes what is buffered, and the disk may be full
            self._stream.close()


class Blobs:
    """What a `BlobWriter` wrote; `blobs[number]` is one string. Safe to share between threads."""

    def __init__(self, folder: Path, name: str):
        self._path = folder / f"{name}.bin"
        ends = np.asarray(load_array(folder / f"{name}_ends.npy"))
        size = self._path.stat().st_size
        if ends.ndim != 1 or size != (int(ends[-1]) if len(ends) else 0):
            raise ArtifactError(
                f"{self._path}: does not fit its {name}_ends.npy; restore a snapshot or build anew"
            )
        # A file without a byte cannot be mapped.
        mapped = np.memmap(self._path, dtype=np.uint8, mode="r") if size else np.empty(0, np.uint8)
        # Of one number or a few bytes, a memoryview is quicker than an array.
        self._ends = memoryview(ends)  # type: ignore[arg-type]
        self._bytes = memoryview(np.asarray(mapped))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> bytes:
        begin = self._ends[number - 1] if number else 0
        return bytes(self._bytes[begin : self._ends[number]])


def load_array(path: Path) -> np.ndarray:
    """A `.npy` file mapped into memory. Raises ArtifactError if it is none."""
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be mapped into memory ({error}); restore a snapshot or build anew"
        ) from error
    return mapped

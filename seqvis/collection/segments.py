"""A segment: items that never change, and their index, in a directory of their own.

`SegmentWriter` writes checked batches; `Segment` maps the files and loads the graph:

    vectors.npy                          float32 [rows, dimension], unit rows
    ids, metadata, thumbnails            .bin (byte strings, end to end) and _ends.npy
                                         (int64 [n], where each ends); read in place
    id_hashes.npy, id_rows.npy           sorted hashes of the ids, and the row of each
    index.nmslib or index.symphonyqg     graph with its own copy of the vectors; not in small
                                         segments and exact collections

A writer keeps a few dozen bytes in memory for each item, but not the vectors. Building the graph
takes about three times the memory of the vectors, so the size of segments is limited.
"""

from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from seqvis.collection.graphs import GRAPHS
from seqvis.collection.index import Backend, DeviceRows, IndexSettings
from seqvis.collection.items import Batch, hashes_of
from seqvis.collection.view import Rows
from seqvis.disk import file_hash, sync_directory, sync_file, synced_file
from seqvis.errors import ArtifactError


class BlobWriter:
    """Writes strings to `NAME.bin` and, at the end, `NAME_ends.npy`; holds 8 bytes a string."""

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
        save_array(
            self._folder / f"{self._name}_ends.npy", np.frombuffer(self._ends, dtype=np.int64)
        )

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
        with self._path.open("rb") as stream:
            # A file without a byte cannot be mapped.
            content = mmap(stream.fileno(), size, access=ACCESS_READ) if size else b""
        self.mapped = content, ends
        self._bytes = content
        self._ends = memoryview(ends)  # type: ignore[arg-type]  # of one number, quicker

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> bytes:
        begin = self._ends[number - 1] if number else 0
        return self._bytes[begin : self._ends[number]]


def save_array(path: Path, content: np.ndarray) -> None:
    """Write a `.npy` file, synced."""
    with synced_file(path) as stream:
        np.save(stream, content)


def load_array(path: Path) -> np.ndarray:
    """Return a `.npy` file mapped into memory. Raises ArtifactError if it is none."""
    try:
        mapped: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: cannot be mapped into memory ({error}); restore a snapshot or build anew"
        ) from error
    return mapped


VECTORS = "vectors.npy"
HASHES, HASH_ROWS = "id_hashes.npy", "id_rows.npy"


class SegmentWriter:
    """Writes batches into the files of a segment, in a new directory."""

    def __init__(self, folder: Path, dimension: int):
        self.folder = folder
        self.rows = 0
        self._dimension = dimension
        self._hashes: list[np.ndarray] = []
        folder.mkdir(parents=True)
        self._vectors = (folder / VECTORS).open("wb")
        self._blobs = [BlobWriter(folder, name) for name in ("ids", "metadata", "thumbnails")]
        self._write_shape()

    def add(self, batch: Batch) -> None:
        self._vectors.write(batch.vectors.tobytes())
        encoded = [name.encode() for name in batch.ids]
        for writer, column in zip(
            self._blobs, (encoded, batch.metadata, batch.thumbnails), strict=True
        ):
            writer.extend(column)
        self._hashes.append(hashes_of(encoded))
        self.rows += len(batch)

    def finish(self) -> np.ndarray:
        """Complete all files but the index. Returns the hashes of the ids, uint64, sorted."""
        self._vectors.seek(0)
        self._write_shape()
        self._vectors.close()
        sync_file(self.folder / VECTORS)
        for writer in self._blobs:
            writer.finish()
        hashes = np.concatenate([np.empty(0, np.uint64), *self._hashes])
        order = np.argsort(hashes, kind="stable")
        save_array(self.folder / HASHES, hashes[order])
        save_array(self.folder / HASH_ROWS, order)
        return hashes[order]

    def build_index(self, backend: Backend, settings: IndexSettings) -> None:
        """Build the graph if the segment is to have one, and make the directory durable."""
        graph = GRAPHS.get(backend)
        if graph and self.rows >= max(settings.exact_below, graph.fewest_rows(settings)):
            path = self.folder / graph.file
            graph.build(load_array(self.folder / VECTORS), path, settings)
            sync_file(path)
        sync_directory(self.folder)
        sync_directory(self.folder.parent)

    def abandon(self) -> None:
        """Close the files of a segment that is given up."""
        with suppress(OSError):  # closing writes what is buffered, and the disk may be full
            self._vectors.close()
        for writer in self._blobs:
            writer.abandon()

    def _write_shape(self) -> None:
        """Write the header; NumPy pads it so that the number of rows can be corrected in place."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self._dimension)}
        np.lib.format.write_array_header_1_0(self._vectors, header)


@dataclass(frozen=True)
class SearchBy:
    """Whether an open collection searches its segments by graph, and on which device."""

    graphs: bool = True  # if they have one; else exactly
    device: str | None = None  # the torch device that holds their vectors for exact search


BY_GRAPHS = SearchBy()


class Segment(Rows):
    """A finished segment. Safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        dimension: int,
        files: dict[str, Any],
        settings: IndexSettings,
        by: SearchBy = BY_GRAPHS,
    ):
        """Open a segment; `files` are its entries of the manifest, by name in the directory.

        Raises ArtifactError if the files do not fit together or the graph was altered.
        """
        self.name = folder.name
        self.folder = folder
        self.vectors = np.asarray(load_array(folder / VECTORS))
        self._ids = Blobs(folder, "ids")
        self._metadata = Blobs(folder, "metadata")
        self._thumbnails = Blobs(folder, "thumbnails")
        self._hashes = np.asarray(load_array(folder / HASHES))
        self._hash_rows = np.asarray(load_array(folder / HASH_ROWS))
        rows = len(self._ids)
        columns = (self._metadata, self._thumbnails, self._hashes, self._hash_rows)
        if self.vectors.shape != (rows, dimension) or any(len(part) != rows for part in columns):
            raise ArtifactError(
                f"{folder}: its files do not fit together; restore a snapshot or build anew"
            )
        self.rows = rows
        super().__init__()
        if by.device is not None:
            self.on_device = DeviceRows(self.vectors, by.device)
        graph = next((graph for graph in GRAPHS.values() if graph.file in files), None)
        if by.graphs and graph:
            sha256 = files[graph.file]["sha256"]
            self.index = graph.load(folder / graph.file, sha256, rows, dimension, settings)

    def find(self, ids: Sequence[str]) -> list[int]:
        encoded = [name.encode() for name in ids]
        hashes = hashes_of(encoded)
        begins = np.searchsorted(self._hashes, hashes, side="left")
        ends = np.searchsorted(self._hashes, hashes, side="right")
        places = []
        for name, begin, end in zip(encoded, begins, ends, strict=True):
            rows = (int(self._hash_rows[place]) for place in range(begin, end))
            places.append(next((row for row in rows if self._ids[row] == name), -1))
        return places

    def by_hash(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        return self._hashes, self._hash_rows


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of each file, as a manifest has them."""
    return {path.name: describe_file(path) for path in sorted(folder.iterdir())}


def describe_file(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": file_hash(path)}

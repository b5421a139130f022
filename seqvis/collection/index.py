"""Nearest rows of a unit matrix, found by exact search or by nmslib's graph.

Both backends, and exact search on a torch device, return equal scores. Each picks
candidates, including all that are within rounding error of the last; their cosines are then
computed in float64 on the CPU, each row by itself. So a score does not depend on the processor, on
the device or on what else is searched for in the same call. HNSW: Malkov and Yashunin, arXiv
1603.09320.

nmslib checks nothing: it reads out of bounds for a query of another length, crashes on an empty
index or an altered file, and uses all threads of the machine. So every argument is checked before
it is called, and an index file's SHA-256 before the file is read. On unit vectors nmslib's space
`l2` ranks as the cosine does, and it is the faster of the two.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqvis.config import Settings
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.disk import file_hash
from seqvis.errors import ArtifactError, ConfigError, DataError
from seqvis.process import usable_processors

_ROWS = 1 << 16  # scored between looks at the clock
_SCORE_BLOCK = 1 << 24  # scores held at once: 64 MB
_WIDE_BLOCK = 1 << 22  # numbers in float64 held at once: 32 MB
_DEVICE_BLOCK = 1 << 26  # scores held at once on a device: 256 MB
_BFLOAT16_ROUNDOFF = 2.0**-8  # the coarsest that torch may use for float32 matrices when told so

Nearest = tuple[np.ndarray, np.ndarray]  # rows and their cosines, best first


def exact_candidates(
    vectors: np.ndarray,
    queries: np.ndarray,
    count: int,
    admitted: np.ndarray | None = None,
    deadline: Deadline = UNBOUNDED,
) -> list[np.ndarray]:
    """Return rows that hold the `count` best of each query and all that tie with the last of them.

    In no order; few more than `count`, unless many rows are equal. `vectors` (n, d) and `queries`
    (q, d) are unit rows; `admitted` (n) says which rows count. Raises SearchTimeoutError.
    """
    if admitted is not None:
        rows = np.flatnonzero(admitted)
        if len(rows) < len(vectors) // 4:  # copying these few costs less than scoring all
            few = exact_candidates(vectors[rows], queries, count, None, deadline)
            return [rows[found] for found in few]
    total = len(vectors)
    count = min(count, total if admitted is None else len(rows))
    if count < 1:
        return [np.empty(0, dtype=np.int64) for _ in queries]
    margin = rounding(vectors.shape[1])
    found: list[np.ndarray] = []
    block = max(1, _SCORE_BLOCK // total)
    for begin in range(0, len(queries), block):
        some = queries[begin : begin + block]
        scores = np.empty((len(some), total), dtype=np.float32)  # (block, n)
        for first in range(0, total, _ROWS):
            deadline.check()
            rows_of_chunk = slice(first, first + _ROWS)
            np.matmul(some, vectors[rows_of_chunk].T, out=scores[:, rows_of_chunk])
        if admitted is not None:
            scores[:, ~admitted] = -2.0  # below every cosine
        for row in scores:
            least = np.partition(row, total - count)[total - count]
            found.append(np.flatnonzero(row >= least - margin))
    return found


def rounding(dimension: int, unit_roundoff: float = 2.0**-24) -> float:
    """Return how far below the k-th greatest product one of the k greatest cosines can be.

    Each of two products of unit rows is off by at most d times the unit roundoff, whatever the
    order of summation (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1);
    8 more stand for the rows' own lengths and the rounding of cosines.
    """
    return 2.0 * (dimension + 8) * unit_roundoff


def best_of(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray, count: int) -> Nearest:
    """Return the `count` rows with the greatest cosines, and all that tie with the last of them.

    Best first; equal ones in no order.
    """
    scores = cosines(vectors, rows, query)
    if len(rows) > count:
        kept = scores >= np.partition(scores, len(rows) - count)[len(rows) - count]
        rows, scores = rows[kept], scores[kept]
    order = np.argsort(-scores)
    return rows[order], scores[order]


def cosines(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the cosines of some rows with a unit query, float32 (len(rows)).

    A row's cosine does not depend on the other rows.
    """
    wide = query.astype(np.float64)
    found = np.empty(len(rows), dtype=np.float32)
    block = max(1, _WIDE_BLOCK // len(wide))
    for begin in range(0, len(rows), block):
        # A matrix product would sum in an order that depends on the number of rows.
        products = vectors[rows[begin : begin + block]] * wide
        found[begin : begin + block] = products.sum(axis=1)
    return found


class DeviceRows:
    """Unit rows (n, d) on a device. Safe to share between threads."""

    def __init__(self, vectors: np.ndarray, device: str):
        """Copy the rows to `device`, 4 bytes a number. Raises ConfigError if that fails."""
        import torch  # here: most searches need none

        try:
            self._rows = torch.tensor(vectors, dtype=torch.float32, device=torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"{device}: cannot hold {vectors.nbytes >> 20} MB of vectors "
                f"({str(error).splitlines()[0]}); give another device, or none"
            ) from error

    def candidates(
        self, queries: np.ndarray, count: int, admitted: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Return what `exact_candidates` does, of the rows on the device."""
        import torch

        total, dimension = self._rows.shape
        count = min(count, total if admitted is None else int(admitted.sum()))
        if count < 1:
            return [np.empty(0, dtype=np.int64) for _ in queries]
        on_device = torch.from_numpy(np.ascontiguousarray(queries)).to(self._rows.device)
        left_out = None
        if admitted is not None:
            left_out = torch.from_numpy(~admitted).to(self._rows.device)
        found: list[np.ndarray] = []
        for part in on_device.split(max(1, _DEVICE_BLOCK // total)):
            scores = part @ self._rows.T  # (part, n)
            if left_out is not None:
                scores.masked_fill_(left_out, -2.0)  # below every cosine
            least = scores.topk(count, dim=1).values[:, -1:] - _margin(dimension)
            places, rows = (scores >= least).nonzero().cpu().numpy().T  # by queries, in order
            found += np.split(rows, np.searchsorted(places, np.arange(1, len(part))))
        return found


def _margin(dimension: int) -> float:
    """Return how far below the k-th greatest product one of the k greatest cosines can be."""
    import torch

    try:
        if torch.get_float32_matmul_precision() == "highest":
            return rounding(dimension)
    except RuntimeError:
        pass  # it was set by torch's newer switches, of which there are several
    # TF32 may stay on, and no switch of the process is changed: coarser products only give more
    # candidates.
    # Both factors are rounded, once each; sums are still in float32.
    return rounding(dimension) + 4.0 * _BFLOAT16_ROUNDOFF


Backend = Literal["nmslib", "exact"]
SPACE = "l2"


class IndexSettings(Settings):
    """How a segment's graph is built and searched."""

    connections: int = Field(16, ge=2, le=128)
    """Neighbours of a row in the graph (HNSW's M); memory grows by 8 bytes for each."""
    construction_width: int = Field(200, ge=8, le=4096)
    """Candidates looked at when a row is linked (efConstruction)."""
    search_width: int = Field(120, ge=8, le=4096)
    """Candidates looked at by a search (efSearch): recall against time."""
    exact_below: int = Field(2000, ge=1)
    """Segments with fewer rows are searched exactly, which is as fast."""
    build_threads: int = Field(0, ge=0, le=256)
    """Threads that build a graph; 0: one for each processor of this process, at most 8."""
    query_threads: int = Field(1, ge=1, le=256)
    """Threads that search for a batch of queries."""

    def threads(self) -> int:
        return self.build_threads or min(8, usable_processors())


class GraphIndex:
    """nmslib's HNSW over the rows of one segment. Safe to share between threads."""

    def __init__(self, graph: Any, rows: int, dimension: int, settings: IndexSettings):
        self._graph = graph
        self._rows = rows
        self._dimension = dimension
        self._settings = settings
        graph.setQueryTimeParams({"ef": settings.search_width})

    @classmethod
    def build(cls, vectors: np.ndarray, path: Path, settings: IndexSettings) -> None:
        """Build the graph of unit rows (n, d) and save it, with its own copy of them, to `path`.

        60,000 rows of 50 numbers take about 20 s of processor time. Raises DataError if a row is
        not finite or there are none, OSError if the disk does not take it.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or not vectors.size:
            raise DataError(f"{path}: no graph can be built of vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise DataError(f"{path}: no graph can be built of vectors that are not finite")
        graph = _new_graph()
        graph.addDataPointBatch(vectors)
        graph.createIndex(
            {
                "M": settings.connections,
                "efConstruction": settings.construction_width,
                "indexThreadQty": settings.threads(),
                "post": 0,
            }
        )
        try:
            graph.saveIndex(str(path), save_data=False)
        except RuntimeError as error:  # nmslib says only "iostream error"
            raise _disk_error(path) from error

    @classmethod
    def load(
        cls, path: Path, sha256: str, rows: int, dimension: int, settings: IndexSettings
    ) -> "GraphIndex":
        """Open a file that `build` saved. Raises ArtifactError if it is not the same any more.

        The hash is checked first: nmslib ends the process when it has read an altered file.
        """
        if file_hash(path) != sha256:
            raise ArtifactError(
                f"{path}: was altered since it was made; restore a snapshot or build anew"
            )
        graph = _new_graph()
        graph.loadIndex(str(path))
        return cls(graph, rows, dimension, settings)

    def candidates(self, queries: np.ndarray, count: int) -> list[np.ndarray | None]:
        """Return up to `count` rows near each query, best first; None where the graph found fewer.

        Queries are unit rows (q, d). A graph finds too few when many rows are equal, so that
        their links lead nowhere else.
        """
        if queries.ndim != 2 or queries.shape[1] != self._dimension:
            raise DataError(f"queries of shape {queries.shape}, the index has {self._dimension}")
        count = min(count, self._rows)
        if count < 1 or not len(queries):
            return [np.empty(0, dtype=np.int32) for _ in queries]
        if len(queries) == 1:
            found = [self._graph.knnQuery(queries[0], k=count)]
        else:
            threads = min(self._settings.query_threads, len(queries))
            found = self._graph.knnQueryBatch(queries, k=count, num_threads=threads)
        return [rows if len(rows) == count else None for rows, _ in found]


def _new_graph() -> Any:
    import nmslib  # here: an exact collection does not need it, and it writes to standard error

    return nmslib.init(method="hnsw", space=SPACE)


def _disk_error(path: Path) -> OSError:
    """Return what went wrong, found by writing as much ourselves: nmslib does not tell."""
    try:
        with path.open("ab") as stream:
            stream.write(b"\0" * (1 << 20))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    return OSError(f"{path}: nmslib could not write its index")

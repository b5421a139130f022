"""Rows of a unit matrix near a query, by nmslib's HNSW graph.

In: unit vectors. Out: candidate rows, best first; scores are computed anew from the vectors
(exact.py), so that both backends give equal scores. HNSW: Malkov and Yashunin, arXiv 1603.09320.

What would surprise a reader: nmslib checks nothing. A query of another length is read out of
bounds, an empty index crashes, an altered file crashes, and thread counts default to the whole
machine. So everything is checked here, before it is called, and an index file's SHA-256 before
it is read. On unit vectors its space `l2` ranks as the cosine does and is the faster one.
"""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from seqvis.config import Settings
from seqvis.disk import file_hash
from seqvis.errors import ArtifactError, DataError
from seqvis.process import usable_processors

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
        """Builds the graph of unit rows (n, d) and saves it, with its own copy of them, to `path`.

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
        """Opens a file that `build` saved. Raises ArtifactError if it is not the same any more.

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
        """Up to `count` rows near each query, best first; None where the graph found fewer.

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
    """What went wrong, found by writing as much ourselves: nmslib does not tell."""
    try:
        with path.open("ab") as stream:
            stream.write(b"\0" * (1 << 20))
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        return error
    return OSError(f"{path}: nmslib could not write its index")

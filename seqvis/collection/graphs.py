"""The graphs that find neighbours: nmslib's HNSW, and SymphonyQG where its package is installed.

A `GraphIndex` is built of the rows of a segment, saved with a copy of them, and picks candidates;
their cosines are computed from the segment's own vectors. HNSW: Malkov and Yashunin, arXiv
1603.09320. SymphonyQG: Gou, Gao, Xu and Long, Proceedings of the ACM on Management of Data 3(1),
2025; its package is rabitqlib.

nmslib checks nothing: it reads out of bounds for a query of another length, crashes on an empty
index or an altered file, and uses all threads of the machine. So every argument is checked before
a library is called, and an index file's SHA-256 before the file is read.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from seqvis.checks import require_extra
from seqvis.collection.index import Backend, IndexSettings
from seqvis.disk import file_hash, sync
from seqvis.errors import ArtifactError, DataError


class GraphIndex(ABC):
    """A library's graph over the rows of one segment. Safe to share between threads.

    Subclasses import their library only where they use it: an exact collection needs none, and
    nmslib writes to standard error.
    """

    file: ClassVar[str]  # the name of its file in a segment
    extra: ClassVar[tuple[str, str] | None] = None  # of the project, and the module that it brings

    def __init__(self, graph: Any, rows: int, dimension: int, settings: IndexSettings):
        self._graph = graph
        self._rows = rows
        self._dimension = dimension
        self._settings = settings

    @classmethod
    def build(cls, vectors: np.ndarray, path: Path, settings: IndexSettings) -> None:
        """Build the graph of unit rows (n, d) and save it, with its own copy of them, to `path`.

        60,000 rows of 50 numbers take nmslib about 20 s of processor time. Raises DataError if a
        row is not finite, there are none, or the library takes no such rows, OSError if the disk
        does not take it.
        """
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or not vectors.size:
            raise DataError(f"{path}: no graph can be built of vectors of shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise DataError(f"{path}: no graph can be built of vectors that are not finite")
        cls.require()
        try:
            graph = cls._built(vectors, settings)
        except (ValueError, RuntimeError) as error:
            raise DataError(f"{path}: no graph can be built ({error})") from error
        try:
            cls._save(graph, path)
        except RuntimeError as error:  # both libraries say only "iostream error"
            raise _disk_error(path) from error

    @classmethod
    def load(
        cls, path: Path, sha256: str, rows: int, dimension: int, settings: IndexSettings
    ) -> Self:
        """Open a file that `build` saved. Raises ArtifactError if it is not the same any more.

        The hash is checked first: nmslib ends the process when it has read an altered file.
        """
        if file_hash(path) != sha256:
            raise ArtifactError(
                f"{path}: was altered since it was made; restore a snapshot or build anew"
            )
        cls.require()
        try:
            graph = cls._read(path, settings)
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{path}: cannot be read by this version of its library ({error}); build anew"
            ) from error
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
        answers = self._search(queries, count, min(self._settings.query_threads, len(queries)))
        return [rows if len(rows) == count else None for rows in answers]

    @classmethod
    def require(cls) -> None:
        """Raise ConfigError if the library is not installed."""
        if cls.extra:
            require_extra(*cls.extra)

    @classmethod
    def fewest_rows(cls, settings: IndexSettings) -> int:
        """Return the least number of rows that the library builds a graph of."""
        return 1

    @staticmethod
    @abstractmethod
    def _built(vectors: np.ndarray, settings: IndexSettings) -> Any: ...

    @staticmethod
    @abstractmethod
    def _save(graph: Any, path: Path) -> None:
        """Raise RuntimeError if the disk does not take it."""

    @staticmethod
    @abstractmethod
    def _read(path: Path, settings: IndexSettings) -> Any: ...

    @abstractmethod
    def _search(self, queries: np.ndarray, count: int, threads: int) -> list[np.ndarray]:
        """Return at most `count` rows for each of one or more queries."""


class Nmslib(GraphIndex):
    """nmslib's HNSW. On unit vectors its space `l2` ranks as the cosine does, and is quicker."""

    file = "index.nmslib"

    @staticmethod
    def _built(vectors: np.ndarray, settings: IndexSettings) -> Any:
        graph = _new_nmslib()
        graph.addDataPointBatch(vectors)
        graph.createIndex(
            {
                "M": settings.connections,
                "efConstruction": settings.construction_width,
                "indexThreadQty": settings.threads(),
                "post": 0,
            }
        )
        return graph

    @staticmethod
    def _save(graph: Any, path: Path) -> None:
        graph.saveIndex(str(path), save_data=False)

    @staticmethod
    def _read(path: Path, settings: IndexSettings) -> Any:
        graph = _new_nmslib()
        graph.loadIndex(str(path))
        graph.setQueryTimeParams({"ef": settings.search_width})
        return graph

    def _search(self, queries: np.ndarray, count: int, threads: int) -> list[np.ndarray]:
        if len(queries) == 1:
            return [self._graph.knnQuery(queries[0], k=count)[0]]
        answers = self._graph.knnQueryBatch(queries, k=count, num_threads=threads)
        return [rows for rows, _ in answers]


def _new_nmslib() -> Any:
    import nmslib

    return nmslib.init(method="hnsw", space="l2")


class SymphonyQG(GraphIndex):
    """SymphonyQG, which compares a query with 32 neighbours of a row at once, by codes of one bit.

    The codes are rotated at random, so two graphs of the same rows differ. Vectors of fewer than
    64 numbers, which the library does not take, are filled with zeros.
    """

    file = "index.symphonyqg"
    extra = ("symphonyqg", "rabitqlib")

    @classmethod
    def fewest_rows(cls, settings: IndexSettings) -> int:
        return 1 + _links(settings)

    @staticmethod
    def _built(vectors: np.ndarray, settings: IndexSettings) -> Any:
        from rabitqlib import SymqgIndex

        vectors = _filled(vectors)
        graph = SymqgIndex(vectors.shape[1], _links(settings), metric="ip")
        graph.build(vectors, settings.construction_width, settings.threads())
        return graph

    @staticmethod
    def _save(graph: Any, path: Path) -> None:
        graph.save(str(path))

    @staticmethod
    def _read(path: Path, settings: IndexSettings) -> Any:
        from rabitqlib import SymqgIndex

        return SymqgIndex.load(str(path))

    def _search(self, queries: np.ndarray, count: int, threads: int) -> list[np.ndarray]:
        width = max(count, self._settings.search_width)
        try:
            return list(self._graph.search_batch(_filled(queries), count, width, threads)[0])
        except RuntimeError:  # it reached fewer rows for some query, and does not tell for which
            if len(queries) == 1:
                return [np.empty(0, dtype=np.uint32)]
            return [self._search(query[None], count, 1)[0] for query in queries]


def _links(settings: IndexSettings) -> int:
    return -(-2 * settings.connections // 32) * 32


def _filled(rows: np.ndarray) -> np.ndarray:
    if rows.shape[1] >= 64:
        return rows
    filled = np.zeros((len(rows), 64), dtype=np.float32)
    filled[:, : rows.shape[1]] = rows
    return filled


GRAPHS: dict[Backend, type[GraphIndex]] = {"nmslib": Nmslib, "symphonyqg": SymphonyQG}


def _disk_error(path: Path) -> OSError:
    """Return what went wrong, by writing as many bytes here: the libraries do not say."""
    try:
        with path.open("ab") as stream:
            stream.write(b"\0" * (1 << 20))
            stream.flush()
            sync(stream.fileno())
    except OSError as error:
        return error
    return OSError(f"{path}: the index could not be written")

"""Nearest rows of a unit matrix, found by exact search; how a collection finds them.

All backends, graphs (graphs.py) and exact search on the CPU or a torch device, return equal scores.
Each picks candidates, exact search all that are within rounding error of the last; their cosines
are then computed in float64 on the CPU, each row by itself. So a score does not depend on the
processor, on the device or on what else is searched for in the same call.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from seqvis.config import Settings
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.errors import ConfigError
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
            return [rows[kept] for kept in few]
    total = len(vectors)
    count = min(count, total if admitted is None else len(rows))
    if count < 1:
        return [np.empty(0, dtype=np.int64) for _ in queries]
    margin = rounding(vectors.shape[1])
    kept: list[np.ndarray] = []
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
            kept.append(np.flatnonzero(row >= least - margin))
    return kept


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
    result = np.empty(len(rows), dtype=np.float32)
    block = max(1, _WIDE_BLOCK // len(wide))
    for begin in range(0, len(rows), block):
        # A matrix product would sum in an order that depends on the number of rows.
        products = vectors[rows[begin : begin + block]] * wide
        result[begin : begin + block] = products.sum(axis=1)
    return result


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
        nearest: list[np.ndarray] = []
        for part in on_device.split(max(1, _DEVICE_BLOCK // total)):
            scores = part @ self._rows.T  # (part, n)
            if left_out is not None:
                scores.masked_fill_(left_out, -2.0)  # below every cosine
            least = scores.topk(count, dim=1).values[:, -1:] - _margin(dimension)
            places, rows = (scores >= least).nonzero().cpu().numpy().T  # by queries, in order
            nearest += np.split(rows, np.searchsorted(places, np.arange(1, len(part))))
        return nearest


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


Backend = Literal["nmslib", "symphonyqg", "exact"]


class IndexSettings(Settings):
    """How a segment's graph is built and searched."""

    connections: int = Field(16, ge=2, le=128)
    """Neighbours of a row in the graph (HNSW's M); memory grows by 8 bytes for each. SymphonyQG
    takes twice as many, rounded up to a multiple of 32."""
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

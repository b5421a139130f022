"""The nearest rows of a unit matrix, exactly, also where scores are equal.

In: unit vectors and queries. Out: rows and their cosines. It goes in two steps. Products in
float32, whose rounding depends on the processor and on how many rows are multiplied at once, only
choose candidates, a rounding error more than are wanted. Their cosines are then computed in
float64, each row alone, and rounded: they do not depend on the company of the row, so a segment,
a shard and a GPU give equal scores.
"""

import numpy as np

from seqvis.search.deadline import UNBOUNDED, Deadline

_ROWS = 1 << 16  # scored between looks at the clock
_SCORE_BLOCK = 1 << 24  # scores held at once: 64 MB
_WIDE_BLOCK = 1 << 22  # numbers in float64 held at once: 32 MB

Nearest = tuple[np.ndarray, np.ndarray]  # rows and their cosines, best first


def exact_candidates(
    vectors: np.ndarray,
    queries: np.ndarray,
    count: int,
    admitted: np.ndarray | None = None,
    deadline: Deadline = UNBOUNDED,
) -> list[np.ndarray]:
    """Rows that hold the `count` best of each query and all that tie with the last of them.

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
    """How far below the k-th greatest product one of the k greatest cosines can be.

    Each of two products of unit rows is off by at most d times the unit roundoff, whatever the
    order of summation (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1);
    8 more stand for the rows' own lengths and the rounding of cosines.
    """
    return 2.0 * (dimension + 8) * unit_roundoff


def best_of(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray, count: int) -> Nearest:
    """Of some rows the `count` with the greatest cosines, and all that tie with the last of them.

    Best first; equal ones in no order.
    """
    scores = cosines(vectors, rows, query)
    if len(rows) > count:
        kept = scores >= np.partition(scores, len(rows) - count)[len(rows) - count]
        rows, scores = rows[kept], scores[kept]
    order = np.argsort(-scores)
    return rows[order], scores[order]


def cosines(vectors: np.ndarray, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The cosines of some rows with a unit query, float32 (len(rows)), the same in any company."""
    wide = query.astype(np.float64)
    found = np.empty(len(rows), dtype=np.float32)
    block = max(1, _WIDE_BLOCK // len(wide))
    for begin in range(0, len(rows), block):
        # A matrix product would sum in an order that depends on the number of rows.
        products = vectors[rows[begin : begin + block]] * wide
        found[begin : begin + block] = products.sum(axis=1)
    return found

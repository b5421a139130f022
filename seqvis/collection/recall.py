"""The recall of a collection's graphs, measured with vectors near those of its items.

Each is rotated slightly at random, because a real query is seldom a stored vector. An answer counts
as correct if its cosine reaches that of the exact k-th.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from seqvis.collection.items import Match
from seqvis.collection.view import View

TURN = 0.1  # length of the random step, where vectors have length 1
_TOLERANCE = 1e-6


def measure_recall(
    view: View, search: Callable[[np.ndarray, int], list[Match]], k: int, queries: int
) -> dict[str, Any]:
    """Measure recall@k and latencies (ms) of `search`, called with one vector at a time.

    Returns `recall` (None for an empty collection), `median_ms`, `p99_ms`, `exact_median_ms`,
    `queries`, `k` and `items`.
    """
    sampled = sample_queries(view, queries)
    report: dict[str, Any] = {"k": k, "queries": len(sampled), "items": len(view), "recall": None}
    if not len(sampled):
        return report
    hits = wanted = 0
    times, exact_times = [], []
    for query in sampled:
        begin = time.perf_counter()
        answers = search(query, k)
        times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        truth = view.search(query[None], k, None, None, exact=True)[0]
        exact_times.append(time.perf_counter() - begin)
        wanted += len(truth)
        hits += count_found(answers, truth)
    report["recall"] = hits / wanted
    report["median_ms"] = round(1e3 * float(np.median(times)), 4)
    report["p99_ms"] = round(1e3 * float(np.quantile(times, 0.99)), 4)
    report["exact_median_ms"] = round(1e3 * float(np.median(exact_times)), 4)
    return report


def count_found(answers: list[Match], truth: list[Match]) -> int:
    """Return how many of the true matches, best first, were found; an equal score is as good."""
    if not truth:
        return 0
    return sum(match.score >= truth[-1].score - _TOLERANCE for match in answers)


def sample_queries(view: View, queries: int) -> np.ndarray:
    """Draw up to `queries` unit vectors, each near a living item, float32 (n, dimension)."""
    generator = np.random.default_rng(0)
    living = [part.living_rows() for part in view.parts]
    ends = np.cumsum([len(rows) for rows in living])
    chosen = generator.choice(len(view), min(queries, len(view)), replace=False)
    sampled = []
    for number in np.sort(chosen):
        place = int(np.searchsorted(ends, number, side="right"))
        row = living[place][number - (ends[place - 1] if place else 0)]
        vector = view.parts[place].vectors[row]
        step = generator.standard_normal(len(vector))
        turned = vector + TURN * step / np.linalg.norm(step)
        sampled.append((turned / np.linalg.norm(turned)).astype(np.float32))
    return np.array(sampled, dtype=np.float32)

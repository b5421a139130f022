"""The index: exact search is exact."""

import subprocess
import sys

import numpy as np
import pytest

from seqvis.collection.index import IndexSettings, best_of, cosines, exact_candidates


def unit(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_sorting(vectors: np.ndarray, query: np.ndarray, count: int) -> list[int]:
    scores = [float(np.dot(v.astype(float), query.astype(float))) for v in vectors]
    return sorted(range(len(vectors)), key=lambda row: -scores[row])[:count]


@pytest.mark.parametrize("count", [1, 7, 50, 80])
def test_exact_search_is_what_sorting_all_scores_gives(count: int) -> None:
    vectors, queries = unit(50, 6), unit(4, 6, seed=1)
    for rows, query in zip(exact_candidates(vectors, queries, count), queries, strict=True):
        best, _ = best_of(vectors, rows, query, count)
        assert best.tolist() == by_sorting(vectors, query, count)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 1.0])
def test_exact_search_leaves_out_rows_that_are_not_admitted(share: float) -> None:
    vectors, query = unit(60, 6), unit(1, 6, seed=1)
    admitted = np.random.default_rng(2).random(60) < share
    wanted = [row for row in by_sorting(vectors, query[0], 60) if admitted[row]][:10]
    (rows,) = exact_candidates(vectors, query, 10, admitted)
    assert best_of(vectors, rows, query[0], 10)[0].tolist() == wanted


def test_rows_that_tie_with_the_last_are_candidates_too() -> None:
    vectors = unit(40, 6)
    vectors[[3, 9, 27, 31]] = vectors[3]
    query = vectors[3:4]
    (rows,) = exact_candidates(vectors, query, 2)
    assert {3, 9, 27, 31} <= set(rows.tolist())
    assert set(best_of(vectors, rows, query[0], 2)[0].tolist()) == {3, 9, 27, 31}


def test_a_product_that_is_rounded_wrongly_hides_no_row() -> None:
    # Cosines a few 1e-9 apart: products in float32 put them in any order.
    draw = np.random.default_rng(0)
    vectors = np.repeat(unit(1, 300), 500, axis=0)
    vectors += draw.standard_normal(vectors.shape).astype(np.float32) * 3e-7
    query = unit(1, 300, seed=5)
    best = cosines(vectors, np.arange(500), query[0]).max()
    (rows,) = exact_candidates(vectors, query, 1)
    assert best_of(vectors, rows, query[0], 1)[1][0] == best


def test_a_score_does_not_depend_on_the_rows_that_are_scored_with_it() -> None:
    vectors, query = unit(300, 50), unit(1, 50, seed=1)[0]
    alone = [float(cosines(vectors, np.array([row]), query)[0]) for row in range(300)]
    assert cosines(vectors, np.arange(300), query).tolist() == alone


def test_threads_are_bounded_by_the_processors_this_process_may_use() -> None:
    assert IndexSettings(build_threads=3).threads() == 3
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "import seqvis.collection.index as i; print(i.IndexSettings().threads())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "1"

"""The index: exact search is exact, nmslib is never called with what it would read wrongly."""

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seqvis.collection.index import GraphIndex, IndexSettings, best_of, cosines, exact_candidates
from seqvis.disk import file_hash
from seqvis.errors import ArtifactError, DataError

SETTINGS = IndexSettings(search_width=100, build_threads=1)


def unit(count: int, dimension: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def by_sorting(vectors: np.ndarray, query: np.ndarray, count: int) -> list[int]:
    scores = [float(np.dot(v.astype(float), query.astype(float))) for v in vectors]
    return sorted(range(len(vectors)), key=lambda row: -scores[row])[:count]


def built(vectors: np.ndarray, path: Path) -> GraphIndex:
    GraphIndex.build(vectors, path, SETTINGS)
    return GraphIndex.load(path, file_hash(path), len(vectors), vectors.shape[1], SETTINGS)


@pytest.fixture
def graph(tmp_path: Path) -> GraphIndex:
    return built(unit(500, 12), tmp_path / "g")


@pytest.mark.parametrize("count", [1, 7, 50, 80])
def test_exact_search_is_what_sorting_all_scores_gives(count: int) -> None:
    vectors, queries = unit(50, 6), unit(4, 6, seed=1)
    for rows, query in zip(exact_candidates(vectors, queries, count), queries, strict=True):
        found, _ = best_of(vectors, rows, query, count)
        assert found.tolist() == by_sorting(vectors, query, count)


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


def test_the_graph_finds_what_exact_search_finds(graph: GraphIndex) -> None:
    vectors, queries = unit(500, 12), unit(30, 12, seed=1)
    one_by_one = [graph.candidates(query[None], 10)[0] for query in queries]
    together = graph.candidates(queries, 10)
    for query, single, batched in zip(queries, one_by_one, together, strict=True):
        assert single is not None
        assert batched is not None
        assert single.tolist() == batched.tolist() == by_sorting(vectors, query, 10)


def test_queries_of_another_dimension_never_reach_nmslib(graph: GraphIndex) -> None:
    for shape in ((1, 13), (1, 11), (2, 6), (12,)):
        with pytest.raises(DataError, match="queries of shape"):
            graph.candidates(np.ones(shape, dtype=np.float32), 5)


def test_asking_a_graph_for_nothing_or_for_too_much_is_harmless(graph: GraphIndex) -> None:
    query = unit(1, 12)
    (none,) = graph.candidates(query, 0)
    assert none is not None
    assert len(none) == 0
    assert graph.candidates(np.empty((0, 12), np.float32), 5) == []
    (every,) = graph.candidates(query, 10_000)
    assert every is None or len(every) == 500


@pytest.mark.parametrize("bad", [np.empty((0, 4)), np.full((3, 4), np.nan), np.ones(4)])
def test_a_graph_of_nothing_or_of_nan_is_not_built(tmp_path: Path, bad: np.ndarray) -> None:
    with pytest.raises(DataError, match="no graph"):
        GraphIndex.build(bad, tmp_path / "g", SETTINGS)


def test_vectors_of_other_types_and_layouts_are_read_rightly(tmp_path: Path) -> None:
    vectors, query = unit(200, 5), unit(1, 5, seed=1)
    wide = np.zeros((200, 10), dtype=np.float32)
    wide[:, ::2] = vectors
    layouts = [vectors.astype(np.float64), np.asfortranarray(vectors), wide[:, ::2]]
    for number, given in enumerate(layouts):
        (found,) = built(given, tmp_path / str(number)).candidates(query, 10)
        assert found is not None
        assert found.tolist() == by_sorting(vectors, query[0], 10)


def test_a_truncated_or_altered_index_file_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "g"
    GraphIndex.build(unit(200, 5), path, SETTINGS)
    content, sha256 = path.read_bytes(), file_hash(path)
    broken = [content[:size] for size in (0, 10, 1000, len(content) - 1)]
    for given in [*broken, content[:500] + b"\xff\xff\xff\xff" + content[504:]]:
        path.write_bytes(given)
        with pytest.raises(ArtifactError, match=r"was altered.*restore a snapshot"):
            GraphIndex.load(path, sha256, 200, 5, SETTINGS)


def test_threads_are_bounded_by_the_processors_this_process_may_use() -> None:
    assert IndexSettings(build_threads=3).threads() == 3
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "import seqvis.collection.index as i; print(i.IndexSettings().threads())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert printed.stdout.strip() == "1"


def test_an_index_too_large_for_the_disk_is_an_oserror(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            GraphIndex.build(unit(1000, 20), tmp_path / "g", SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

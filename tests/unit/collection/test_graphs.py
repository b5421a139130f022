"""Graphs: no library is called with what it would read wrongly, and all find the neighbours."""

import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.graphs import GRAPHS, GraphIndex, SymphonyQG
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Item
from seqvis.disk import file_hash
from seqvis.errors import ArtifactError, ConfigError, DataError
from tests.unit.collection.test_index import by_sorting, unit

SETTINGS = IndexSettings(search_width=100, build_threads=1)


@pytest.fixture(params=GRAPHS)
def kind(request: pytest.FixtureRequest) -> type[GraphIndex]:
    backend: Backend = request.param
    return GRAPHS[backend]


def built(
    kind: type[GraphIndex], vectors: np.ndarray, path: Path, settings: IndexSettings = SETTINGS
) -> GraphIndex:
    kind.build(vectors, path, settings)
    return kind.load(path, file_hash(path), len(vectors), vectors.shape[1], settings)


@pytest.fixture
def graph(kind: type[GraphIndex], tmp_path: Path) -> GraphIndex:
    return built(kind, unit(500, 12), tmp_path / "g")


def test_the_graph_finds_what_exact_search_finds(graph: GraphIndex) -> None:
    vectors, queries = unit(500, 12), unit(30, 12, seed=1)
    one_by_one = [graph.candidates(query[None], 10)[0] for query in queries]
    together = graph.candidates(queries, 10)
    for query, single, batched in zip(queries, one_by_one, together, strict=True):
        assert single is not None
        assert batched is not None
        assert single.tolist() == batched.tolist() == by_sorting(vectors, query, 10)


def test_queries_of_another_dimension_never_reach_the_library(graph: GraphIndex) -> None:
    for shape in ((1, 13), (1, 11), (2, 6), (12,)):
        with pytest.raises(DataError, match="queries of shape"):
            graph.candidates(np.ones(shape, dtype=np.float32), 5)


def test_asking_a_graph_for_nothing_or_for_too_much_is_harmless(graph: GraphIndex) -> None:
    query = unit(1, 12)
    (none,) = graph.candidates(query, 0)
    assert none is not None
    assert len(none) == 0
    assert graph.candidates(np.empty((0, 12), np.float32), 5) == []
    for every in [*graph.candidates(query, 10_000), *graph.candidates(unit(3, 12), 10_000)]:
        assert every is None or len(every) == 500


def test_a_graph_whose_links_lead_nowhere_says_so_for_each_query(tmp_path: Path) -> None:
    path, vectors = tmp_path / "g", unit(200, 64)
    SymphonyQG.build(vectors, path, SETTINGS)
    content = np.fromfile(path, dtype=np.uint8)
    content[38:-32].reshape(200, -1)[:, -4 * 32 :] = 0  # all links lead to row 0
    content.tofile(path)
    graph = SymphonyQG.load(path, file_hash(path), 200, 64, SETTINGS)
    for some in (vectors[:1], vectors[:3]):
        assert graph.candidates(some, 10) == [None] * len(some)
        assert all(rows is not None for rows in graph.candidates(some, 1))


@pytest.mark.parametrize("bad", [np.empty((0, 4)), np.full((3, 4), np.nan), np.ones(4)])
def test_a_graph_of_nothing_or_of_nan_is_not_built(
    kind: type[GraphIndex], tmp_path: Path, bad: np.ndarray
) -> None:
    with pytest.raises(DataError, match="no graph"):
        kind.build(bad, tmp_path / "g", SETTINGS)


@pytest.mark.parametrize("dimension", [5, 70])  # SymphonyQG takes 64 and more as they are
def test_vectors_of_other_types_and_layouts_are_read_rightly(
    kind: type[GraphIndex], tmp_path: Path, dimension: int
) -> None:
    vectors, query = unit(200, dimension), unit(1, dimension, seed=1)
    wide = np.zeros((200, 2 * dimension), dtype=np.float32)
    wide[:, ::2] = vectors
    layouts = [vectors.astype(np.float64), np.asfortranarray(vectors), wide[:, ::2]]
    # SymphonyQG's graphs are drawn anew: a search of width 100 misses a neighbour in one of sixty.
    all_rows = IndexSettings(search_width=400, build_threads=1)
    for number, given in enumerate(layouts):
        (rows,) = built(kind, given, tmp_path / str(number), all_rows).candidates(query, 10)
        assert rows is not None
        assert rows.tolist() == by_sorting(vectors, query[0], 10)


def test_threads_that_search_at_once_find_what_each_would_alone(graph: GraphIndex) -> None:
    queries = unit(200, 12, seed=1)

    def ask(count: int) -> list[list[int] | None]:
        answers = [graph.candidates(query[None], count)[0] for query in queries]
        return [None if rows is None else rows.tolist() for rows in answers]

    alone = {count: ask(count) for count in (1, 10, 150, 300)}
    with ThreadPoolExecutor(len(alone)) as pool:
        assert dict(zip(alone, pool.map(ask, alone), strict=True)) == alone


def test_a_truncated_or_altered_index_file_is_an_error_and_not_a_crash(
    kind: type[GraphIndex], tmp_path: Path
) -> None:
    path = tmp_path / "g"
    kind.build(unit(200, 5), path, SETTINGS)
    content, sha256 = path.read_bytes(), file_hash(path)
    broken = [content[:size] for size in (0, 10, 1000, len(content) - 1)]
    for given in [*broken, content[:500] + b"\xff\xff\xff\xff" + content[504:]]:
        path.write_bytes(given)
        with pytest.raises(ArtifactError, match=r"was altered.*restore a snapshot"):
            kind.load(path, sha256, 200, 5, SETTINGS)


@pytest.mark.parametrize("content", [b"", bytes(100_000), b"another format" * 5000])
def test_a_file_that_another_version_of_symphonyqg_made_is_an_error(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "g"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="cannot be read by this version of its library"):
        SymphonyQG.load(path, file_hash(path), 200, 5, SETTINGS)


@pytest.mark.parametrize(("rows", "graphs"), [(32, 0), (33, 1)])
def test_a_segment_with_too_few_rows_for_symphonyqg_is_searched_exactly(
    rows: int, graphs: int, tmp_path: Path
) -> None:
    items = [Item(str(number), vector) for number, vector in enumerate(unit(rows, 12))]
    settings = IndexSettings(exact_below=1)
    path = tmp_path / "c"
    with Collection.build(path, 12, items, "symphonyqg", settings=settings) as collection:
        assert len(list(path.glob("segments/*/index.symphonyqg"))) == graphs
        assert collection.search(items[3].vector, 1)[0].id == "3"


def test_what_symphonyqg_cannot_take_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no graph can be built \(Unsupported dimension"):
        SymphonyQG.build(unit(40, 65_537), tmp_path / "g", SETTINGS)


def test_a_missing_library_is_named_when_a_collection_is_made_or_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [Item(str(number), vector) for number, vector in enumerate(unit(50, 12))]
    settings = IndexSettings(exact_below=50)
    Collection.build(tmp_path / "c", 12, items, "symphonyqg", settings=settings).close()
    monkeypatch.setitem(sys.modules, "rabitqlib", None)
    missing = r"rabitqlib: not installed; pip install 'seqvis\[symphonyqg\]'"
    with pytest.raises(ConfigError, match=missing):
        Collection.open(tmp_path / "c")
    with pytest.raises(ConfigError, match=missing):
        Collection.create(tmp_path / "new", 12, "symphonyqg")


def test_an_index_too_large_for_the_disk_is_an_oserror(
    kind: type[GraphIndex], tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            kind.build(unit(1000, 20), tmp_path / "g", SETTINGS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

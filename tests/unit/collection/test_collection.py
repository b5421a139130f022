"""A collection against a dictionary: what was added is found, exactly, whatever happened before."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.graphs import GRAPHS
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Item, Match
from seqvis.errors import DataError, StorageError

DIMENSION = 8
LABELS = ["cat", "dog", "ship"]
# Graphs that several threads link differ from run to run, and a narrow search may miss a neighbour.
WIDE = IndexSettings(search_width=400, build_threads=1)
SMALL_GRAPHS = IndexSettings(exact_below=20, search_width=400, build_threads=1)

Model = dict[str, Item]


def make_items(count: int, seed: int, prefix: str = "item") -> list[Item]:
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((count, DIMENSION)).astype(np.float32)
    return [
        Item(
            f"{prefix}-{number}",
            vectors[number] * draw.uniform(0.1, 10),
            {"label": LABELS[int(draw.integers(3))], "number": number % 4, "path": f"é/{number}"},
            bytes([number % 251]) * (number % 5) or None,
        )
        for number in range(count)
    ]


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    a, b = np.asarray(first, float), np.asarray(second, float)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def expected(
    model: Model, query: np.ndarray, k: int, admits: Callable[[dict[str, Any]], bool]
) -> list[tuple[float, str]]:
    """Brute force in float64."""
    admitted = [item for item in model.values() if admits(dict(item.metadata))]
    vectors = np.array([item.vector for item in admitted], float).reshape(-1, DIMENSION)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    scores = (vectors @ query / lengths).tolist()
    scored = zip(scores, (item.id for item in admitted), strict=True)
    return sorted(scored, key=lambda pair: -pair[0])[:k]


def assert_same(matches: list[Match], wanted: list[tuple[float, str]]) -> None:
    assert [match.id for match in matches] == [name for _, name in wanted]
    np.testing.assert_allclose([m.score for m in matches], [s for s, _ in wanted], atol=1e-6)


def assert_agrees(collection: Collection, model: Model, seed: int = 0) -> None:
    draw = np.random.default_rng(seed)
    assert len(collection) == len(model)
    assert set(collection.ids()) == set(model)
    for name in [*list(model)[:5], "item-3", "never there"]:
        item, wanted = collection.get(name), model.get(name)
        assert (item is None) == (wanted is None)
        if item is not None and wanted is not None:
            assert cosine(item.vector, wanted.vector) == pytest.approx(1.0, abs=1e-6)
            assert item.metadata == wanted.metadata
            assert item.thumbnail == wanted.thumbnail == collection.thumbnail(name)
    queries = draw.standard_normal((3, DIMENSION))
    for matches, query in zip(collection.search(queries, 5), queries, strict=True):
        assert_same(matches, expected(model, query, 5, lambda metadata: True))
    where = {"label": ["cat", "ship"], "number": 2}
    best = expected(model, queries[0], 4, lambda m: m["label"] != "dog" and m["number"] == 2)
    assert_same(collection.search(queries[0], 4, where=where), best)
    assert_same(
        collection.search(queries[0], 4, where=lambda m: m["label"] != "dog" and m["number"] == 2),
        best,
    )


@pytest.mark.parametrize("backend", get_args(Backend))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_sequence_of_changes_leaves_what_a_dictionary_would_hold(
    tmp_path: Path, backend: Backend, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    collection = Collection.create(tmp_path / "c", DIMENSION, backend, settings=SMALL_GRAPHS)
    reader = Collection.open(tmp_path / "c", read_only=True)
    model: Model = {}
    for step in range(40):
        action = draw.choice(["add", "add", "delete", "compact", "all", "open", "load"])
        if action in ("add", "load"):
            pool = make_items(60, seed=1000 * seed + step)
            chosen = draw.choice(60, int(draw.integers(1, 40)), replace=False)
            items = [pool[number] for number in chosen]
            (collection.add if action == "add" else collection.load)(items)
            model.update({item.id: item for item in items})
        elif action == "delete":
            names = [f"item-{n}" for n in draw.choice(80, int(draw.integers(1, 20)), replace=False)]
            assert collection.delete(names) == sum(name in model for name in names)
            model = {name: item for name, item in model.items() if name not in names}
        elif action == "open":
            collection.close()
            collection = Collection.open(tmp_path / "c", verify=True)
        else:
            collection.compact(everything=action == "all")
        assert_agrees(collection, model, step)
        if step % 3 == 0:
            reader.refresh()
            assert_agrees(reader, model, step)
    assert not reader.refresh() or len(reader) == len(model)


def test_all_backends_give_equal_matches_with_equal_scores(tmp_path: Path) -> None:
    items = make_items(3000, seed=5)
    by_backend = []
    for backend in get_args(Backend):
        path = tmp_path / backend
        with Collection.build(path, DIMENSION, items, backend, settings=WIDE) as collection:
            queries = np.random.default_rng(0).standard_normal((20, DIMENSION))
            by_backend.append(collection.search(queries, 10))
    assert by_backend[0] == by_backend[1] == by_backend[2]


@pytest.mark.parametrize("backend", GRAPHS)
def test_a_filter_that_admits_few_among_many_still_finds_them_all(
    tmp_path: Path, backend: Backend
) -> None:
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((9000, DIMENSION))
    items = [
        Item(str(n), vectors[n], {"rare": n % 900 == 7, "half": n % 2, "most": n % 10 != 0})
        for n in range(len(vectors))
    ]
    with Collection.build(tmp_path / "c", DIMENSION, items, backend, settings=WIDE) as collection:
        model = {item.id: item for item in items}
        query = draw.standard_normal(DIMENSION)
        filters: list[tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = [
            ({"rare": True}, lambda metadata: metadata["rare"]),
            ({"half": 1}, lambda metadata: metadata["half"] == 1),
            ({"most": True}, lambda metadata: metadata["most"]),
            (
                {"most": [True], "half": 0},
                lambda metadata: metadata["most"] and not metadata["half"],
            ),
        ]
        for where, admits in filters:
            wanted = expected(model, query, 20, admits)
            assert_same(collection.search(query, 20, where=where), wanted)
        collection.delete([str(n) for n in range(0, 9000, 3)])
        model = {name: item for name, item in model.items() if int(name) % 3}
        assert_same(collection.search(query, 30), expected(model, query, 30, lambda metadata: True))


def test_an_empty_collection_finds_nothing_and_does_not_crash(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 3) as collection:
        assert collection.search(np.ones(3)) == []
        assert collection.search(np.ones((2, 3)), where={"label": "x"}) == [[], []]
        assert collection.delete(["a"]) == 0
        assert collection.get("a") is None
        assert collection.thumbnail("a") is None
        assert not collection.compact()
        assert collection.recall_report()["recall"] is None
        collection.add([Item("a", np.ones(3))])
        assert collection.delete(["a", "a"]) == 1
        assert collection.compact()
        assert collection.search(np.ones(3)) == []


def test_asking_for_more_than_there_is_gives_all(tmp_path: Path) -> None:
    items = make_items(300, seed=2)
    with Collection.build(tmp_path / "c", DIMENSION, items, settings=SMALL_GRAPHS) as collection:
        assert len(collection.search(items[0].vector, 1000)) == 300


@pytest.mark.parametrize("backend", GRAPHS)
def test_many_equal_vectors_are_all_found(tmp_path: Path, backend: Backend) -> None:
    draw = np.random.default_rng(0)
    items = [Item(f"same-{n}", np.ones(DIMENSION)) for n in range(3000)]
    items += [Item(f"other-{n}", draw.standard_normal(DIMENSION)) for n in range(3000)]
    with Collection.build(tmp_path / "c", DIMENSION, items, backend) as collection:
        matches = collection.search(np.ones(DIMENSION), 50)
        assert [round(match.score, 6) for match in matches] == [1.0] * 50
        assert all(match.id.startswith("same") for match in matches)


def test_the_least_score_cuts_the_matches(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 2) as collection:
        collection.add([Item("x", np.array([1, 0])), Item("xy", np.array([1, 1]))])
        collection.add([Item("y", np.array([0, 1]))])
        matches = collection.search(np.array([2.0, 0.0]), min_score=0.5)
        assert [(match.id, round(match.score, 4)) for match in matches] == [
            ("x", 1),
            ("xy", 0.7071),
        ]


def test_metadata_of_a_match_can_be_changed_without_changing_the_collection(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 1) as collection:
        collection.add([Item("a", np.ones(1), {"tags": ["x"]})])
        collection.search(np.ones(1))[0].metadata["tags"].append("y")
        assert collection.search(np.ones(1))[0].metadata == {"tags": ["x"]}


def test_searches_in_many_threads_see_whole_batches_while_one_writes(tmp_path: Path) -> None:
    """Each batch replaces all 40 items: a search that saw half of one would mix generations."""
    collection = Collection.create(tmp_path / "c", DIMENSION, settings=SMALL_GRAPHS)
    vectors = np.random.default_rng(0).standard_normal((40, DIMENSION))

    def generation(number: int) -> list[Item]:
        return [Item(f"{n}", v, {"generation": number}) for n, v in enumerate(vectors)]

    collection.add(generation(0))
    done = threading.Event()
    problems: list[str] = []

    def search() -> None:
        draw = np.random.default_rng(threading.get_ident() % 1000)
        while not done.is_set():
            matches = collection.search(draw.standard_normal(DIMENSION), 40)
            generations = {match.metadata["generation"] for match in matches}
            if len(matches) != 40 or len(generations) != 1 or collection.get("3") is None:
                problems.append(f"{len(matches)} items of generations {generations}")

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 16):
        collection.add(generation(number))
        if number % 7 == 0:
            collection.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_changes_made_during_a_compaction_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = Collection.create(tmp_path / "c", DIMENSION, settings=SMALL_GRAPHS)
    model = {item.id: item for item in make_items(60, seed=1)}
    collection.add(model.values())
    newer = make_items(10, seed=9)
    write = Collection._write

    def write_and_change(self: Collection, *arguments: Any) -> Any:
        written = write(self, *arguments)
        self.add(newer)
        self.delete(["item-50", "item-4"])
        return written

    monkeypatch.setattr(Collection, "_write", write_and_change)
    collection.compact()
    model.update({item.id: item for item in newer})
    del model["item-50"], model["item-4"]
    assert_agrees(collection, model)
    collection.close()
    with pytest.raises(StorageError, match="open it for writing"):
        collection.add(newer)
    assert_agrees(Collection.open(tmp_path / "c"), model)


def test_compactions_keep_few_segments_and_rewrite_large_ones_seldom(tmp_path: Path) -> None:
    collection = Collection.create(tmp_path / "c", DIMENSION, "exact")
    collection.add(make_items(2000, seed=0, prefix="old"))
    collection.compact()
    (large,) = (tmp_path / "c" / "segments").iterdir()
    most = 0
    for number in range(12):
        collection.add(make_items(20, seed=number, prefix=f"new{number}"))
        collection.compact()
        most = max(most, collection.statistics()["segments"])
    assert large.is_dir()
    assert most <= 5
    collection.delete([f"old-{number}" for number in range(1500)])
    collection.compact()
    assert not large.is_dir()
    assert collection.statistics() == {
        "items": 740,
        "tail": 0,
        "segments": collection.statistics()["segments"],
        "dead": 0,
    }


def test_the_recall_report_compares_with_exact_search(tmp_path: Path) -> None:
    items = make_items(4000, seed=3)
    poor = IndexSettings(connections=2, construction_width=8, search_width=8, build_threads=1)
    good = IndexSettings(build_threads=1)
    recalls = {}
    for name, backend, settings in (
        ("good", "nmslib", good), ("other", "symphonyqg", good), ("poor", "nmslib", poor)
    ):  # fmt: skip
        path = tmp_path / name
        with Collection.build(path, DIMENSION, items, backend, settings=settings) as collection:
            report = collection.recall_report(k=10, queries=200)
            recalls[name] = report["recall"]
            assert report["queries"] == 200
            assert report["items"] == 4000
            assert 0 < report["median_ms"] <= report["p99_ms"]
    assert recalls["good"] > 0.99
    assert recalls["other"] > 0.99
    assert recalls["poor"] < 0.9


def test_recall_is_sampled_on_one_query_as_the_report_measures_it(tmp_path: Path) -> None:
    poor = IndexSettings(connections=2, construction_width=8, search_width=8, build_threads=1)
    items = make_items(2500, seed=3)
    queries = np.random.default_rng(1).standard_normal((40, DIMENSION))
    with Collection.build(tmp_path / "c", DIMENSION, items, settings=poor) as collection:
        sampled = [collection.sample_recall(query, k=10) for query in queries]
        model = {item.id: item for item in items}
        for query, share in zip(queries, sampled, strict=True):
            truth = {name for _, name in expected(model, query, 10, lambda metadata: True)}
            ids = {match.id for match in collection.search(query, 10)}
            assert share == len(truth & ids) / 10
        assert len(set(sampled)) > 3
        with pytest.raises(DataError):
            collection.sample_recall(queries)
    with Collection.create(tmp_path / "empty", DIMENSION) as collection:
        assert collection.sample_recall(queries[0]) == 1.0

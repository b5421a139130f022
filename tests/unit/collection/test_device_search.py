"""Exact search on a torch device finds what the CPU finds, to the last bit of the scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqvis.collection.collection import Collection
from seqvis.collection.index import IndexSettings
from seqvis.collection.items import Item
from seqvis.errors import ConfigError

DIMENSION = 20
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=["nmslib", "exact"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two segments with dead rows, and a tail; every vector is there about three times."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((200, DIMENSION))
    items = [
        Item(f"i{n}", vectors[n % 200], {"third": n % 3}) for n in draw.permutation(600).tolist()
    ]
    settings = IndexSettings(exact_below=50, build_threads=1)
    made = Collection.create(tmp_path / "c", DIMENSION, request.param, settings=settings)
    with made as collection:
        collection.load(items[:400])
        collection.load(items[400:550])
        collection.add(items[550:])
        collection.delete([item.id for item in items[:40:3]])
    return tmp_path / "c"


@pytest.fixture
def exact(path: Path, tmp_path: Path) -> Collection:
    with Collection.open(path, read_only=True) as stored:
        items = [stored.get(name) for name in stored.ids()]
    given = [item for item in items if item is not None]
    return Collection.build(tmp_path / "exact", DIMENSION, given, "exact")


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_device_finds_what_exact_search_finds(
    device: str, precision: str, path: Path, exact: Collection
) -> None:
    queries = np.random.default_rng(1).standard_normal((8, DIMENSION))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with Collection.open(path, read_only=True, device=device) as opened:
            limits: list[dict[str, Any]] = [{}, {"where": {"third": 1}}, {"min_score": 0.2}]
            for limit in limits:
                for k in (1, 4, 30, 1000):
                    assert opened.search(queries, k, **limit) == exact.search(queries, k, **limit)
            assert opened.search(queries[0], 7) == exact.search(queries[0], 7)
            assert opened.search(queries, 5, where={"third": 9}) == [[]] * 8
    finally:
        torch.set_float32_matmul_precision(before)


def test_no_graph_is_loaded_for_a_device(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a graph was loaded")

    monkeypatch.setattr("seqvis.collection.graphs.GraphIndex.load", refuse)
    with Collection.open(path, read_only=True, device="cpu") as opened:
        assert len(opened.search(np.ones(DIMENSION), 5)) == 5


def test_a_reader_with_a_device_follows_the_writer(path: Path) -> None:
    with Collection.open(path, read_only=True, device="cpu") as reader:
        with Collection.open(path) as writer:
            writer.add([Item("new", np.ones(DIMENSION))])
            assert reader.refresh()
            assert reader.search(np.ones(DIMENSION), 1)[0].id == "new"
            writer.compact(everything=True)
            writer.delete(["new"])
            assert reader.refresh()
            assert reader.search(np.ones(DIMENSION), 1)[0].id != "new"
            assert len(reader.search(np.ones(DIMENSION), 1000)) == len(writer)


def test_a_device_that_is_none_or_a_writer_with_one_is_one_clear_error(path: Path) -> None:
    for device in ("abacus", "cuda:99"):
        with pytest.raises(ConfigError, match=f"{device}: cannot hold"):
            Collection.open(path, read_only=True, device=device)
    with pytest.raises(ConfigError, match="read_only=True"):
        Collection.open(path, device="cpu")

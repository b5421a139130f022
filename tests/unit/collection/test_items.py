"""Items, queries and collections that are refused, each with its reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.index import IndexSettings
from seqvis.collection.items import Item
from seqvis.errors import ArtifactError, ConfigError, DataError


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (Item("bad", np.array([1, np.nan, 0])), "bad: .*not finite"),
        (Item("bad", np.array([1, np.inf, 0])), "bad: .*not finite"),
        (Item("bad", np.zeros(3)), "bad: .*zero"),
        (Item("bad", np.ones(4)), r"bad: .*\(4,\).*\(3,\)"),
        (Item("bad", np.ones((1, 3))), "bad: .*shape"),
        (Item("bad", "abc"), "bad: .*numbers"),  # type: ignore[arg-type]
        (Item("", np.ones(3)), "no id"),
        (Item(7, np.ones(3)), "7: is no id"),  # type: ignore[arg-type]
        (Item("\ud800", np.ones(3)), "not valid Unicode"),
        (Item("x" * 5000, np.ones(3)), "5000 bytes"),
        (Item("good-1", np.ones(3)), "good-1: is given twice"),
        (Item("bad", np.ones(3), {"a": object()}), "bad: its metadata"),
        (Item("bad", np.ones(3), {"a": float("nan")}), "bad: its metadata"),
        (Item("bad", np.ones(3), {1: "a"}), "bad: its metadata"),  # type: ignore[dict-item]
        (Item("bad", np.ones(3), {"a": {"b": {2: 3}}}), "bad: its metadata"),
        (Item("bad", np.ones(3), {}, "text"), "bad: its thumbnail"),  # type: ignore[arg-type]
    ],
)
def test_one_bad_item_is_named_and_its_batch_left_out(
    tmp_path: Path, item: Item, reason: str
) -> None:
    with Collection.create(tmp_path / "c", 3) as collection:
        good = [Item("good-1", np.ones(3)), Item("good-2", np.ones(3))]
        for change in (collection.add, collection.load):
            with pytest.raises(DataError, match=reason):
                change([*good, item])
            assert len(collection) == 0
    assert len(Collection.open(tmp_path / "c")) == 0


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (np.ones(4), "3 numbers"),
        (np.ones((2, 2)), "3 numbers"),
        (np.ones((1, 1, 3)), "3 numbers"),
        (np.array([1, np.nan, 1]), "not finite"),
        (np.array([[1, 1, 1], [1, np.inf, 1]]), "query 2.*not finite"),
        (np.zeros(3), "zero"),
        (["a", "b", "c"], "numbers"),
    ],
)
def test_a_query_that_nmslib_would_read_wrongly_is_refused(
    tmp_path: Path, query: Any, reason: str
) -> None:
    vectors = np.random.default_rng(0).standard_normal((30, 3))
    items = [Item(str(number), vector) for number, vector in enumerate(vectors)]
    with Collection.build(
        tmp_path / "c", 3, items, settings=IndexSettings(exact_below=20)
    ) as collection:
        with pytest.raises(DataError, match=reason):
            collection.search(query)
        with pytest.raises(DataError, match="at least 1"):
            collection.search(np.ones(3), k=0)
        with pytest.raises(DataError, match="no filter"):
            collection.search(np.ones(3), where=[("label", "x")])  # type: ignore[arg-type]
        assert len(collection.search(np.array([1e-30, 1e-30, 0.0]))) == 10


def test_a_collection_needs_a_dimension_a_known_backend_and_a_free_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Collection.create(tmp_path / "c", 0)
    with pytest.raises(ConfigError, match="faiss"):
        Collection.create(tmp_path / "c", 3, "faiss")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="JSON"):
        Collection.create(tmp_path / "c", 3, config={"a": object()})
    with pytest.raises(ArtifactError, match=r"no such collection.*build-index"):
        Collection.open(tmp_path / "c")
    Collection.create(tmp_path / "c", 3, config={"model": "m"}).close()
    with pytest.raises(ArtifactError, match="is there already"):
        Collection.create(tmp_path / "c", 3)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtifactError, match="nothing was overwritten"):
        Collection.build(tmp_path / "other", 3, [])
    opened = Collection.open(tmp_path / "c", read_only=True)
    assert (opened.config, opened.dimension, opened.backend) == ({"model": "m"}, 3, "nmslib")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "other"]

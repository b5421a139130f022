"""Shards: together they answer as the one collection does, and none takes another's items."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis.artifacts import MANIFEST
from seqvis.collection.collection import Collection
from seqvis.collection.filters.where import Where
from seqvis.collection.graphs import GRAPHS
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Item, Match, known, merge, shard_of
from seqvis.collection.scroll import Page, merge_pages
from seqvis.collection.shards import describe, shard_paths, split
from seqvis.errors import ArtifactError, ConfigError, DataError, StorageError, UnknownFieldError

DIMENSION = 6
REFERENCE = ["00b28d7e6a132eb3", "90c6318b23fae80d"]
SMALL_GRAPHS = IndexSettings(exact_below=20, build_threads=1, search_width=400)


def items(count: int, seed: int = 0, distinct: int | None = None) -> list[Item]:
    """`distinct`: how many different vectors they share, so that most scores tie."""
    draw = np.random.default_rng(seed)
    vectors = draw.standard_normal((distinct or count, DIMENSION))
    return [
        Item(f"é{n:04d}", vectors[n % len(vectors)], {"n": n, "odd": n % 2}, b"jpeg" * (n % 3))
        for n in draw.permutation(count).tolist()
    ]


def make(path: Path, given: list[Item], backend: Backend = "exact") -> Path:
    """A collection of several segments and a tail, of which some rows were deleted or replaced."""
    config = {"model": "m"}
    half = len(given) // 2
    with Collection.create(path, DIMENSION, backend, config, SMALL_GRAPHS) as collection:
        collection.load(given[:half])
        collection.add(given[half:-5])
        collection.compact()
        collection.add([Item("gone", np.ones(DIMENSION)), *given[:3], *given[-5:]])
        collection.delete(["gone"])
    return path


@contextmanager
def opened(paths: list[Path]) -> Iterator[list[Collection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Collection.open(path, read_only=True)) for path in paths]


def ask(shards: list[Collection], query: np.ndarray, k: int, **limits: Any) -> list[Match]:
    answers: list[list[Match] | UnknownFieldError] = []
    for shard in shards:
        try:
            answers.append(shard.search(query, k, **limits))
        except UnknownFieldError as error:
            answers.append(error)
    return merge(answers, k)


def page(shard: Collection, where: Where) -> Page | UnknownFieldError:
    try:
        return shard.scroll(20, where=where)
    except UnknownFieldError as error:
        return error


def test_a_field_is_unknown_only_if_no_shard_has_it(tmp_path: Path) -> None:
    given = [Item(f"{n}", np.ones(DIMENSION), {"n": n, f"only {n}": n}) for n in range(12)]
    with Collection.build(tmp_path / "c", DIMENSION, given) as whole:
        held = split(tmp_path / "c", 3, tmp_path / "shards")
        assert 0 in held, "also an empty shard has no say in which fields there are"
        paths, query = shard_paths(tmp_path / "shards"), np.ones(DIMENSION)
        with opened(paths) as shards:
            filters: list[Where] = [
                {"only 7": 7},
                {"only 7": [7, 8]},
                {f"only {n}": n for n in range(12)},
                "not `only 7` = 7",
                "`only 7` missing and n < 9",
                "`only 7` = 7 or `only 8` >= 8",
                " or ".join(f"`only {n}` = {n}" for n in range(12)),
            ]
            for where in filters:
                assert ask(shards, query, 20, where=where) == whole.search(query, 20, where=where)
                pages = known([page(shard, where) for shard in shards])
                assert merge_pages(pages, 20).entries == whole.scroll(20, where=where).entries
            unknown: list[Where] = [
                {"only 12": 12},
                {"m": 7, "n": 7},
                "`only 12` missing",
                "not m = 7 or n = 7",
            ]
            for where in unknown:
                errors = []
                for search in (
                    lambda w: ask(shards, query, 20, where=w),
                    lambda w: whole.search(query, 20, w),
                ):
                    with pytest.raises(UnknownFieldError) as caught:
                        search(where)
                    errors.append(caught.value)
                assert str(errors[0]) == str(errors[1])
                assert errors[0].fields == errors[1].fields
        for path in paths:
            with Collection.open(path) as shard:
                shard.delete(list(shard.ids()))
        with opened(paths) as shards:
            assert ask(shards, query, 20, where={"n": 1}) == []
            assert ask(shards, query, 20, where="n missing") == []


@pytest.mark.parametrize("distinct", [None, 7])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_answer_as_the_whole_does(tmp_path: Path, count: int, distinct: int | None) -> None:
    whole = make(tmp_path / "whole", items(300, distinct=distinct))
    held = split(whole, count, tmp_path / "shards")
    paths = shard_paths(tmp_path / "shards")
    assert (len(paths), sum(held)) == (count, 300)
    with Collection.open(whole, read_only=True) as collection, opened(paths) as shards:
        for query in np.random.default_rng(9).standard_normal((10, DIMENSION)):
            for k in (1, 10, 50, 400):
                assert ask(shards, query, k) == collection.search(query, k)
            limits: dict[str, Any] = {"where": {"odd": 1}, "min_score": 0.1}
            assert ask(shards, query, 40, **limits) == collection.search(query, 40, **limits)


def test_ties_are_in_the_order_of_ids_however_they_are_stored(tmp_path: Path) -> None:
    given = items(60, distinct=1)
    path = make(tmp_path / "c", given)
    names = sorted(item.id for item in given)
    with Collection.open(path) as collection:
        for _ in range(2):
            matches = collection.search(given[0].vector, 25)
            assert [match.id for match in matches] == names[:25]
            collection.compact(everything=True)


def test_each_shard_holds_its_items_as_they_were(tmp_path: Path) -> None:
    given = items(200)
    whole = make(tmp_path / "whole", given, "nmslib")
    held = split(whole, 4, tmp_path / "shards")
    seen: Counter[str] = Counter()
    with Collection.open(whole, read_only=True) as original:
        for number, path in enumerate(shard_paths(tmp_path / "shards")):
            with Collection.open(path, read_only=True, verify=True) as shard:
                assert len(shard) == held[number]
                assert shard.backend == "nmslib"
                assert shard.config == {"model": "m", "shard": {"number": number, "of": 4}}
                seen.update(shard.ids())
                for name in shard.ids():
                    mine, its = shard.get(name), original.get(name)
                    assert mine is not None
                    assert its is not None
                    assert mine.vector.tolist() == its.vector.tolist()
                    assert (mine.metadata, mine.thumbnail) == (its.metadata, its.thumbnail)
                    assert shard_of(name, 4) == number
    assert seen == Counter(item.id for item in given)


@pytest.mark.parametrize("backend", GRAPHS)
def test_shards_of_graphs_find_nearly_all_that_exact_search_does(
    tmp_path: Path, backend: Backend
) -> None:
    given = items(600)
    split(make(tmp_path / "graphs", given, backend), 3, tmp_path / "shards")
    paths = shard_paths(tmp_path / "shards")
    queries = np.random.default_rng(4).standard_normal((10, DIMENSION))
    with Collection.open(make(tmp_path / "exact", given), read_only=True) as collection:
        truth = [{match.id for match in collection.search(query, 10)} for query in queries]
    with opened(paths) as shards:
        answers = [{match.id for match in ask(shards, query, 10)} for query in queries]
    assert sum(len(a & b) for a, b in zip(truth, answers, strict=True)) >= 95


def test_an_items_shard_is_a_hash_that_other_programs_compute_too() -> None:
    # printf 'a/1.jpg' | b2sum -l 64, its bytes read from the last to the first
    assert shard_of("a/1.jpg", 1000) == int.from_bytes(bytes.fromhex(REFERENCE[0]), "little") % 1000
    assert shard_of("é/1", 7) == int.from_bytes(bytes.fromhex(REFERENCE[1]), "little") % 7
    assert shard_of("anything", 1) == 0
    counted = Counter(shard_of(f"a/{number}.jpg", 8) for number in range(8000))
    assert set(counted) == set(range(8))
    assert max(counted.values()) < 1.15 * min(counted.values())


def test_a_shard_refuses_items_that_belong_in_another(tmp_path: Path) -> None:
    split(make(tmp_path / "whole", items(50)), 2, tmp_path / "shards")
    name = next(f"new-{n}" for n in range(100) if shard_of(f"new-{n}", 2) == 1)
    item = Item(name, np.ones(DIMENSION))
    first, second = shard_paths(tmp_path / "shards")
    with Collection.open(first) as shard:
        for change in (shard.add, shard.load):
            with pytest.raises(DataError, match=f"{name}: belongs in shard 1, this is shard 0 of"):
                change([item])
        assert name not in shard
    with Collection.open(second) as shard:
        shard.add([item])
        assert name in shard


def test_a_sharded_collection_says_what_it_is(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", items(50))
    split(whole, 2, tmp_path / "shards")
    for read_only in (True, False):
        with pytest.raises(ArtifactError, match=r"is a sharded collection.*shard-000"):
            Collection.open(tmp_path / "shards", read_only=read_only)
    description = describe(tmp_path / "shards")
    assert (description.config, description.dimension, description.backend) == (
        {"model": "m"},
        DIMENSION,
        "exact",
    )
    assert shard_paths(whole) == [whole]
    for path, problem in ((tmp_path, "holds no manifest"), (tmp_path / "none", "no such")):
        with pytest.raises(ArtifactError, match=problem):
            shard_paths(path)


def test_shards_that_lack_or_were_exchanged_are_found_out(tmp_path: Path) -> None:
    split(make(tmp_path / "whole", items(50)), 3, tmp_path / "shards")
    first, second, third = shard_paths(tmp_path / "shards")
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    with pytest.raises(ArtifactError, match="shard-000: is not shard 0 of 3"):
        shard_paths(tmp_path / "shards")
    shutil.rmtree(third)
    with pytest.raises(ArtifactError):
        shard_paths(tmp_path / "shards")
    (tmp_path / "shards" / MANIFEST).write_text(json.dumps({"kind": "sharded collection"}))
    with pytest.raises(ArtifactError, match="split the collection anew"):
        shard_paths(tmp_path / "shards")


def test_a_split_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make(tmp_path / "whole", items(50))
    for count in (0, 1001):
        with pytest.raises(ConfigError, match="1 to 1000 shards"):
            split(whole, count, tmp_path / "shards")
    with pytest.raises(ArtifactError, match="is there already"):
        split(whole, 2, whole)
    build = Collection.build

    def full(path: Path, *rest: Any) -> Collection:
        if path.name == "shard-001":
            raise OSError("disk full")
        return build(path, *rest)

    monkeypatch.setattr(Collection, "build", full)
    with pytest.raises(StorageError, match="disk full"):
        split(whole, 2, tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_a_gateway_needs_neither_torch_nor_ray_nor_an_index(tmp_path: Path) -> None:
    split(make(tmp_path / "whole", items(20)), 2, tmp_path / "shards")
    code = (
        "import sys; from seqvis.collection.items import merge\n"
        "from seqvis.collection.shards import shard_paths\n"
        "print(len(shard_paths(sys.argv[1])))\n"
        "assert not {'torch', 'ray', 'nmslib'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "shards")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == "2\n"

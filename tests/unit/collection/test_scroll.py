"""Scrolling: every item on exactly one page, whatever changes between two pages."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis.collection import segments, view
from seqvis.collection.collection import Collection
from seqvis.collection.items import Item, hashes_of
from seqvis.collection.scroll import Page, merge_pages
from seqvis.collection.segments import Segment
from seqvis.collection.shards import shard_paths, split
from seqvis.errors import DataError, UnknownFieldError


def item(number: int, **metadata: Any) -> Item:
    return Item(f"é/{number}", np.array([1.0, number]), {"number": number, **metadata})


def numbers(first: int, last: int) -> set[str]:
    return {f"é/{number}" for number in range(first, last)}


@pytest.fixture
def collection(tmp_path: Path) -> Iterator[Collection]:
    """Two segments and a tail: 90 items, of which some were replaced; others were deleted."""
    with Collection.create(tmp_path / "c", 2, "exact") as made:
        made.load(item(number) for number in range(50))
        made.load(item(number) for number in range(50, 80))
        made.add(item(number, new=True) for number in range(70, 100))
        made.delete(f"é/{number}" for number in range(0, 100, 10))
        yield made


def pages(
    ask: Callable[[str | None], Page], between: Callable[[], None] = lambda: None
) -> list[Page]:
    read, after = [], None
    while True:
        read.append(ask(after))
        after = read[-1].next
        if after is None:
            return read
        between()


def ids(read: list[Page]) -> list[str]:
    return [entry.id for page in read for entry in page.entries]


@pytest.mark.parametrize("limit", [1, 7, 90, 1000])
def test_the_pages_hold_every_item_once(collection: Collection, limit: int) -> None:
    read = pages(lambda after: collection.scroll(limit, after))
    assert sorted(ids(read)) == sorted(collection.ids())
    assert all(len(page.entries) == limit for page in read[:-1])
    assert len(read) == -(-90 // limit), "the last page is known to be the last"
    stored = {entry.id: entry.metadata for page in read for entry in page.entries}
    assert stored["é/71"] == {"number": 71, "new": True}
    assert stored["é/61"] == {"number": 61}


def test_what_stays_is_found_once_while_others_come_and_go(collection: Collection) -> None:
    def change() -> None:
        done = len(collection)
        collection.delete([f"é/{number}" for number in range(1, 10)])
        collection.add([item(number, again=True) for number in range(11, 20)])
        collection.add([item(1000 + done + number) for number in range(20)])
        collection.compact(everything=True)

    found = ids(pages(lambda after: collection.scroll(9, after), change))
    assert len(set(found)) == len(found)
    stayed = {name for name in numbers(11, 100) if not name.endswith("0")}
    assert stayed <= set(found)


def test_a_filter_admits_what_a_search_does(collection: Collection) -> None:
    read = pages(lambda after: collection.scroll(4, after, {"new": True}))
    assert set(ids(read)) == {name for name in numbers(70, 100) if not name.endswith("0")}
    assert all(len(page.entries) == 4 for page in read[:-1])
    assert collection.scroll(4, where={"number": 1}).next is None
    with pytest.raises(UnknownFieldError, match="nmuber"):
        collection.scroll(where={"nmuber": 1})


def test_the_pages_of_shards_are_those_of_the_whole(collection: Collection, tmp_path: Path) -> None:
    split(collection.path, 3, tmp_path / "shards")
    shards = [Collection.open(path, read_only=True) for path in shard_paths(tmp_path / "shards")]

    def merged(after: str | None) -> Page:
        return merge_pages([shard.scroll(8, after) for shard in shards], 8)

    assert pages(merged) == pages(lambda after: collection.scroll(8, after))


def test_ids_of_one_hash_are_on_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (segments, view):
        monkeypatch.setattr(module, "hashes_of", lambda names: hashes_of(names) % 4)
    with Collection.create(tmp_path / "c", 2, "exact") as collection:
        collection.load(item(number) for number in range(20))
        collection.add(item(number) for number in range(15, 30))
        read = pages(lambda after: collection.scroll(2, after))
        assert sorted(ids(read)) == sorted(collection.ids())
        assert len(read) == 4


def test_the_greatest_hash_is_a_cursor(collection: Collection) -> None:
    assert collection.scroll(5, "f" * 16) == Page([], None)


@pytest.mark.parametrize("after", ["", "é/3", "F" * 16, "0" * 17])
def test_what_is_no_cursor_is_refused(collection: Collection, after: str) -> None:
    with pytest.raises(DataError, match="no cursor"):
        collection.scroll(5, after)
    with pytest.raises(DataError, match="limit is 0"):
        collection.scroll(0)


def test_a_page_reads_no_more_than_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Collection.create(tmp_path / "c", 2, "exact") as collection:
        collection.load(item(number) for number in range(5000))
        after = collection.scroll(2500).next
        read: list[int] = []
        plain = Segment.id
        monkeypatch.setattr(Segment, "id", lambda self, row: read.append(row) or plain(self, row))
        assert len(collection.scroll(10, after).entries) == 10
    assert len(read) == 11


def test_an_empty_collection_has_one_empty_page(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 2, "exact") as collection:
        assert collection.scroll(where={"number": 1}) == Page([], None)

"""A replica of the index: searches that take long beside plain ones, and callers that go away."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.filters.grammar import parse
from seqvis.collection.items import SHARD, Item, Match, merge, place_of
from seqvis.deadline import Deadline
from seqvis.errors import SearchTimeoutError, UnknownFieldError, UnknownWordError
from seqvis.search.requests import SearchRequest, TextQuery, VectorQuery
from serve.common.settings import ImageSearchSettings, Version
from serve.replicas.collection import MOST_READING, MOST_SUGGESTING, IndexReplica, LoadedShard
from tests.support.serving import MemoryStore
from tests.unit.serve.test_encoder import Counted

KEY = "default=c"
ROWS = 3000


class Words:
    """Knows one word; looks for others as long as it may."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def read(self, query: str) -> str:
        return query

    def encode(self, read: str, suggest: bool) -> np.ndarray:
        if read != "known":
            raise UnknownWordError(read)
        return np.ones(2)

    def suggestions(self, word: str, deadline: Deadline) -> tuple[str, ...]:
        while not self.go_on.wait(0.01):
            deadline.check()
        return ("known",)


class Index(IndexReplica):
    """A replica whose metadata is parsed at the speed that a test wants."""

    def __init__(self, folder: Path, timeout_s: float):
        self._folder = folder
        self.words = Words()
        self.parsed = 0
        self.seconds_a_row = 0.001
        super().__init__(
            ImageSearchSettings(collection="c", timeout_s=timeout_s, recall_sample=0),
            0,
            MemoryStore(),
        )
        self.cancelled = Counted()
        for threads in (self._plain, self._reading, self._suggesting):
            threads._cancelled = self.cancelled  # type: ignore[assignment]

    def load(self, version: Version) -> LoadedShard:
        collection = Collection.open(self._folder, read_only=True)
        for part in collection._view.parts:
            read = part.store.columns._metadata

            def slowly(row: int, read: Any = read) -> dict[str, Any]:
                self.parsed += 1
                time.sleep(self.seconds_a_row)
                metadata: dict[str, Any] = read(row)
                return metadata

            part.store.columns._metadata = slowly
        return LoadedShard(collection, self.words)  # type: ignore[arg-type]

    async def filtered(self, **where: Any) -> list[str]:
        request = SearchRequest(VectorQuery(np.ones(2)), 1, where=where)
        return [match.id for match in (await self.only(request))[1]]

    async def words_for(self, query: str) -> str:
        return (await self.only(SearchRequest(TextQuery(query), 3)))[0]

    async def only(self, request: SearchRequest) -> tuple[str, list[Match]]:
        [answer] = await self.search(KEY, [request])
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with Collection.create(tmp_path / "c", 2) as collection:
        items = (Item(f"{n}", np.ones(2), {"a": n, "b": n, "c": n}) for n in range(ROWS))
        collection.add(items)
    replica = Index(tmp_path / "c", timeout_s=2.0)
    yield replica
    replica.stop()


def test_plain_searches_go_on_beside_filters_that_read_and_these_are_bounded(index: Index) -> None:
    async def ask() -> None:
        slow = [asyncio.create_task(index.filtered(a=n)) for n in range(MOST_READING)]
        await asyncio.sleep(0.05)
        with pytest.raises(SearchTimeoutError, match="16 searches"):
            await index.filtered(b=1)
        for _ in range(20):
            assert await index.words_for("known") == "known"
        assert not any(task.done() for task in slow)
        ended = await asyncio.gather(*slow, return_exceptions=True)
        assert all(isinstance(result, SearchTimeoutError) for result in ended)
        index.seconds_a_row = 0.0
        assert await index.filtered(a=7) == ["7"]  # what was read before is not read again
        assert index.parsed == ROWS
        assert await index.filtered(a=8) == ["8"]
        assert index.parsed == ROWS

    asyncio.run(asyncio.wait_for(ask(), 60))


def test_each_search_of_a_shard_that_lacks_a_field_says_what_it_finds_all_the_same(
    tmp_path: Path,
) -> None:
    config = {SHARD: place_of(0, 1)}
    with Collection.create(tmp_path / "c", 2, config=config) as collection:
        collection.add([Item("x", np.array([1, 0]), {"a": 1}), Item("y", np.array([0, 1]))])
    replica = Index(tmp_path / "c", timeout_s=2.0)
    try:
        where = parse("a = 1 or not late > 3")
        queries = [VectorQuery(np.array(some)) for some in ([1.0, 0.0], [0.0, 1.0])]
        requests = [SearchRequest(query, 1, where=where) for query in queries]
        answers = asyncio.run(replica.search(KEY, requests))
        found = []
        for answer in answers:
            assert isinstance(answer, UnknownFieldError)
            assert answer.missing == ("late",)
            found.append(merge([answer, []], 5))
        assert [[match.id for match in matches] for matches in found] == [["x"], ["y"]]
        page = asyncio.run(replica.scroll(KEY, 5, None, where))
        assert isinstance(page, UnknownFieldError)
        assert {entry.id for entry in page.answer.entries} == {"x", "y"}
    finally:
        replica.stop()


def test_a_search_whose_caller_has_gone_is_ended_at_once_and_counted(index: Index) -> None:
    async def ask() -> None:
        tasks = [asyncio.create_task(index.filtered(a=n)) for n in range(8)]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        parsed = -1
        while parsed != index.parsed:  # a thread may still be at its row
            parsed = index.parsed
            await asyncio.sleep(0.5)
        assert parsed < ROWS
        assert index.cancelled.count == 8

    index._reading._timeout_s = 60
    asyncio.run(ask())


def test_an_unknown_word_is_answered_without_suggestions_if_these_take_too_long(
    index: Index,
) -> None:
    async def error_of(word: str) -> UnknownWordError:
        with pytest.raises(UnknownWordError) as caught:
            await index.words_for(word)
        return caught.value

    async def ask() -> None:
        first = await asyncio.gather(*(error_of(f"word{n}") for n in range(MOST_SUGGESTING + 5)))
        assert {error.suggestions for error in first} == {()}
        index.words.go_on.set()
        assert (await error_of("word")).suggestions == ("known",)

    asyncio.run(asyncio.wait_for(ask(), 60))

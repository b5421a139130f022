"""Searches that give up in time."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from seqvis.collection import index
from seqvis.collection.collection import Collection
from seqvis.collection.index import exact_candidates
from seqvis.collection.items import Item
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.errors import SearchTimeoutError
from seqvis.search.requests import SearchRequest, TextQuery
from serve.common.http import as_api_error
from serve.gateway.clients import SearchServices


def test_a_deadline_is_over_when_its_time_is_or_when_it_is_ended() -> None:
    deadline, other = Deadline(0.05), Deadline(60)
    deadline.check()
    other.check()
    assert 0 < deadline.left() <= 0.05
    time.sleep(0.06)
    other.end()
    for ended in (deadline, other):
        assert ended.left() == 0
        with pytest.raises(SearchTimeoutError):
            ended.check()
    UNBOUNDED.check()


def test_an_exact_scan_is_ended_between_chunks_and_whole_ones_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((1000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    at_once = exact_candidates(rows, rows[:5], 10)
    monkeypatch.setattr(index, "_ROWS", 64)
    in_chunks = exact_candidates(rows, rows[:5], 10)
    for number, candidates in enumerate(in_chunks):
        best = set(np.argsort(-(rows @ rows[number]))[:10].tolist())
        assert best <= set(candidates.tolist())
        assert best <= set(at_once[number].tolist())
    over = Deadline(0)
    for admitted in (None, np.arange(1000) < 100, np.arange(1000) < 900):
        with pytest.raises(SearchTimeoutError):
            exact_candidates(rows, rows[:5], 10, admitted, over)


def test_a_search_of_a_collection_has_a_deadline(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "c", 2) as collection:
        collection.add([Item(f"{n}", np.ones(2), {"a": n}) for n in range(20)])
        for where in (None, {"a": 3}, lambda metadata: True):
            with pytest.raises(SearchTimeoutError):
                collection.search(np.ones(2), where=where, deadline=Deadline(0))
            assert collection.search(np.ones(2), where=where, deadline=Deadline(60))


def test_the_client_is_told_to_come_again() -> None:
    with pytest.raises(SearchTimeoutError) as caught:
        Deadline(0).check()
    error = as_api_error(caught.value)
    assert (error.status, error.code) == (503, "overloaded")
    assert error.retry_after


def test_shards_whose_answer_is_of_no_use_any_more_are_not_waited_for() -> None:
    ended = []

    class Shard:
        def __init__(self, error: Exception | None):
            self._error = error

        async def search(self, version: str, requests: Sequence[SearchRequest]) -> None:
            if self._error is not None:
                await asyncio.sleep(0.01)
                raise self._error
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append(self)
                raise

    shards = [Shard(None), Shard(SearchTimeoutError("too long")), Shard(None)]
    services = SearchServices(None, None, shards.__getitem__)  # type: ignore[arg-type]
    services.shards = shards  # type: ignore[assignment]

    async def ask() -> None:
        with pytest.raises(SearchTimeoutError):
            await services.ask_shards(
                lambda shard: shard.search("version", [SearchRequest(TextQuery("dog"))])
            )
        await asyncio.sleep(0)
        assert ended == [shards[0], shards[2]]

    asyncio.run(asyncio.wait_for(ask(), 5))

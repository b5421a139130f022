"""The deployments of a collection: Index-0, Index-1, … search a shard each, and Writer changes it.

The gateway merges the answers of all shards. Their replicas only read; four times a second they
load the writer's changes. A change is on the disk before it is acknowledged. There is always one
writer, because a collection has one: if it dies, its replacement continues from what is on the
disk. Until then the gateway answers 503 to changes, while searches continue.
"""

import asyncio
import json
import logging
import random
from collections import ChainMap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, ClassVar, TypeVar

import numpy as np

from seqvis.collection.collection import Collection
from seqvis.collection.filters.where import Where
from seqvis.collection.items import Item, Match, shard_of
from seqvis.collection.scroll import Page
from seqvis.collection.shards import shard_paths
from seqvis.deadline import Deadline
from seqvis.errors import (
    ArtifactError,
    QueryError,
    SearchTimeoutError,
    StorageError,
    UnknownFieldError,
    UnknownWordError,
)
from seqvis.search.requests import SearchRequest, TextQuery, VectorQuery
from seqvis.search.words import WordEncoder
from serve.common.http import UnavailableError
from serve.common.metrics import IndexMetrics, cancelled_counter
from serve.common.services import Found, IndexService, WriterService
from serve.common.settings import Application, ImageSearchSettings, Version
from serve.common.versions import Store
from serve.replicas.base import REPORT_EVERY, CallThreads, Replica, device_of

T = TypeVar("T")

REFRESH_EVERY = 0.25  # seconds
# Searches under way. Those that take long are so few that a gateway still has places for plain ones
# if two replicas are full of them.
MOST_PLAIN, MOST_READING, MOST_SUGGESTING = 128, 16, 8
LOCK_WAIT = 20.0  # seconds: a writer that is being replaced needs some to let go
COMPACT_EVERY = 5.0  # seconds between looks at whether a compaction is due

_log = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class LoadedShard:
    """A shard, and what places queries in words."""

    collection: Collection
    words: WordEncoder


class IndexReplica(Replica[LoadedShard], IndexService):
    """One shard of each live version."""

    application: ClassVar[Application] = "search"

    def __init__(self, settings: ImageSearchSettings, shard: int, store: Store | None = None):
        self._settings = settings
        self._shard = shard
        self._metrics = IndexMetrics()
        self._tags = {"shard": str(shard)}
        limits = settings.timeout_s, self._metrics.cancelled
        # What takes long has threads of its own, so that plain searches go on beside it.
        self._plain = CallThreads("search", 4, MOST_PLAIN, *limits)
        self._reading = CallThreads("filter", 4, MOST_READING, *limits)
        self._suggesting = CallThreads("suggest", 2, MOST_SUGGESTING, *limits)
        super().__init__(settings.collection, store)
        self.repeat(REFRESH_EVERY, self._refresh)
        self.repeat(REPORT_EVERY, self._report)

    async def search(
        self, version: str, requests: Sequence[SearchRequest]
    ) -> list[Found | QueryError]:
        shard = self.get(version)
        threads = self._threads(shard, *(request.where for request in requests))
        found = await threads.run(self._search, shard, requests)
        return await asyncio.gather(*(self._with_suggestions(shard, answer) for answer in found))

    async def scroll(
        self, version: str, limit: int, after: str | None, where: Where | None
    ) -> Page | UnknownFieldError:
        shard = self.get(version)
        page: Page
        try:
            page = await self._threads(shard, where).run(
                shard.collection.scroll, limit, after, where
            )
        except UnknownFieldError as error:
            return error
        return page

    async def vectors(self, version: str, names: Sequence[str]) -> list[np.ndarray | None]:
        collection = self.get(version).collection
        items = await self._plain.run(lambda deadline: [collection.get(name) for name in names])
        return [item and item.vector for item in items]

    async def thumbnail(self, version: str, name: str) -> bytes | None:
        collection = self.get(version).collection
        content: bytes | None = await self._plain.run(lambda deadline: collection.thumbnail(name))
        return content

    def load(self, version: Version) -> LoadedShard:
        paths = shard_paths(version.only_path)
        if len(paths) != self._settings.shards:
            raise ArtifactError(
                f"{version.only_path}: has {len(paths)} shards, where {self._settings.shards} are "
                f"served; split it into as many (jobs.collection --split), or change `shards`"
            )
        path = paths[self._shard]
        device = device_of(gpu=True) if self._settings.index_on_gpu else None
        collection = Collection.open(path, read_only=True, device=device)
        try:
            words = WordEncoder.open(path, self._settings.model, self._settings.vectors)
            collection.search(np.ones(collection.dimension, dtype=np.float32), 1)
        except BaseException:
            collection.close()
            raise
        return LoadedShard(collection, words)

    def release(self, model: LoadedShard) -> None:
        model.collection.close()

    def describe_model(self, model: LoadedShard) -> dict[str, Any]:
        return {
            "items": len(model.collection),
            "dimension": model.collection.dimension,
            "backend": model.collection.backend,
            "shards": self._settings.shards,
            "attribution": self._settings.attribution,
        }

    def _threads(self, shard: LoadedShard, *filters: Where | None) -> CallThreads:
        """Return the threads for searches with these filters, which may have to read metadata."""
        reads = any(where is not None and shard.collection.unread(where) for where in filters)
        return self._reading if reads else self._plain

    def _search(
        self, shard: LoadedShard, requests: Sequence[SearchRequest], deadline: Deadline
    ) -> list[Found | QueryError]:
        """Search for queries that are to be searched alike together."""
        answers: dict[int, Found | QueryError] = {}
        alike: dict[Any, list[tuple[int, str, np.ndarray]]] = {}
        for place, request in enumerate(requests):
            try:
                read_as, vector = _read(shard, request)
            except QueryError as error:
                answers[place] = error
                continue
            how = request.k, request.min_score, repr(request.where)
            alike.setdefault(how, []).append((place, read_as, vector))
        for group in alike.values():
            request = requests[group[0][0]]
            vectors = np.stack([vector for _, _, vector in group])
            began = perf_counter()
            try:
                found: list[list[Match]] = shard.collection.search(
                    vectors, request.k, request.where, request.min_score, deadline
                )
            except UnknownFieldError as error:
                answers |= {
                    place: UnknownFieldError(error.missing, error.fields, matches)
                    for (place, *_), matches in zip(
                        group, error.answer or [None] * len(group), strict=True
                    )
                }
                continue
            seconds = (perf_counter() - began) / len(group)
            for (place, read_as, vector), matches in zip(group, found, strict=True):
                answers[place] = read_as, matches
                self._metrics.seconds.observe(seconds, tags=self._tags)
                if random.random() < self._settings.recall_sample:
                    recall = shard.collection.sample_recall(vector)
                    self._metrics.recall.set(recall, tags=self._tags)
        return [answers[place] for place in range(len(requests))]

    async def _with_suggestions(
        self, shard: LoadedShard, answer: Found | QueryError
    ) -> Found | QueryError:
        """Add near spellings to an UnknownWordError, if there is time to find some."""
        if not isinstance(answer, UnknownWordError):
            return answer
        try:
            words = await self._suggesting.run(shard.words.suggestions, answer.word)
        except SearchTimeoutError:
            return answer
        return UnknownWordError(answer.word, words)

    def _refresh(self) -> None:
        for shard in self.models():
            try:
                shard.collection.refresh()
            except Exception:  # a disk that is away for a while: what was read stays
                continue

    def _report(self) -> None:
        for shard in self.models():
            statistics = shard.collection.statistics()
            self._metrics.items.set(statistics["items"], tags=self._tags)
            self._metrics.tail.set(statistics["tail"], tags=self._tags)


def _read(shard: LoadedShard, request: SearchRequest) -> tuple[str, np.ndarray]:
    """Return how a request's query is read, and its vector. Raises QueryError."""
    query = request.query
    if isinstance(query, TextQuery):
        read = shard.words.read(query.text)
        return str(read), shard.words.encode(read, suggest=False)
    assert isinstance(query, VectorQuery)
    return "", query.vector


class WriterReplica(Replica[list[Collection]], WriterService):
    """Every shard of every live version, opened for writing."""

    application: ClassVar[Application] = "search"

    def __init__(self, settings: ImageSearchSettings, store: Store | None = None):
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="writer")
        self._cancelled = cancelled_counter()
        super().__init__(settings.collection, store)
        self.repeat(COMPACT_EVERY, self._compact)

    async def add(self, version: str, items: Sequence[Item]) -> list[bool]:
        shards = self.get(version)
        of_shard: dict[int, list[Item]] = {}
        for item in items:
            of_shard.setdefault(shard_of(item.id, len(shards)), []).append(item)

        def add(collection: Collection, own: list[Item]) -> dict[str, bool]:
            there = {item.id: item.id in collection for item in own}
            collection.add(own)
            return there

        there = await asyncio.gather(
            *(self._change(partial(add, shards[shard], own)) for shard, own in of_shard.items())
        )
        return [ChainMap(*there)[item.id] for item in items]

    async def delete(self, version: str, name: str) -> bool:
        shards = self.get(version)
        collection = shards[shard_of(name, len(shards))]
        return await self._change(lambda: collection.delete([name]) > 0)

    def load(self, version: Version) -> list[Collection]:
        opened: list[Collection] = []
        try:
            for path in shard_paths(version.only_path):
                opened.append(Collection.open(path, wait=LOCK_WAIT))
        except BaseException:
            self.release(opened)
            raise
        return opened

    def release(self, model: list[Collection]) -> None:
        for collection in model:
            collection.close()

    async def _change(self, change: Callable[[], T]) -> T:
        changing = self._pool.submit(change)
        try:
            return await asyncio.wrap_future(changing)
        except asyncio.CancelledError:
            if changing.cancel():  # it had not begun
                self._cancelled.inc()
            raise
        except StorageError as error:
            cause = error.__cause__
            reason = cause.strerror if isinstance(cause, OSError) else None
            _log.error(json.dumps({"change": "refused", "reason": str(error)}))
            raise UnavailableError(
                f"the disk does not take changes now: {reason or 'see the log of the writer'}"
            ) from error

    def _compact(self) -> None:
        for shards in self.models():
            for collection in shards:
                try:
                    if collection.compaction_due():
                        collection.compact()
                except StorageError:  # a full disk: tried again, adds still work
                    continue

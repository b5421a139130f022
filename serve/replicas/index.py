"""The deployments Index-0, Index-1, …: each replica searches one shard of the collection.

A query in words, or a vector, gives the shard's best matches, which the gateway merges with those
of the other shards. Replicas only read; four times a second they load the writer's changes.
"""

import asyncio
import random
import threading
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
from ray import serve

from seqvis.collection.collection import Collection
from seqvis.collection.items import Match
from seqvis.collection.shards import shard_paths
from seqvis.deadline import Deadline
from seqvis.errors import ArtifactError, SearchTimeoutError, UnknownWordError
from seqvis.ray_internals import keep_replica_local
from seqvis.search.placing import WordPlacer
from serve.common.metrics import IndexMetrics, Reporter, SwitchMetrics
from serve.common.settings import ENDING, Application, SearchSettings, Version
from serve.common.versions import Follower, HeadStore, Store, configure
from serve.replicas.threads import CallThreads

APPLICATION: Application = "search"
REFRESH_EVERY = 0.25  # seconds
# Searches under way: so few that take long that a gateway still has places for plain ones, also
# where two replicas are full of them.
MOST_PLAIN, MOST_READING, MOST_SUGGESTING = 128, 16, 8

Where = Mapping[str, Any] | None


class LoadedShard:
    """A shard, and the placer for queries in words over it."""

    def __init__(self, collection: Collection, words: WordPlacer):
        self.collection = collection
        self.words = words


class IndexReplica:
    """One shard of each live version. Methods are called by the gateway's handle."""

    def __init__(self, settings: SearchSettings, shard: int, store: Store | None = None):
        keep_replica_local()
        self._settings = settings
        self._shard = shard
        self._metrics = IndexMetrics()
        self._tags = {"shard": str(shard)}
        limits = settings.timeout_s, self._metrics.cancelled
        # What takes long has threads of its own, so that plain searches go on beside it.
        self._plain = CallThreads("search", 4, MOST_PLAIN, *limits)
        self._reading = CallThreads("filter", 4, MOST_READING, *limits)
        self._suggesting = CallThreads("suggest", 2, MOST_SUGGESTING, *limits)
        store = store or HeadStore()
        configure(store, APPLICATION, [Version(name="default", path=settings.collection)])
        told = SwitchMetrics().told
        self._follower: Follower[LoadedShard] = Follower(
            APPLICATION, store, self._load, lambda loaded: loaded.collection.close(), told
        )
        self._follower.start()
        threading.Thread(target=self._refresh, name="refresh", daemon=True).start()
        Reporter(self._report)

    async def search_words(
        self, version: str, query: str, k: int, min_score: float | None, where: Where
    ) -> tuple[str, list[Match]]:
        """How the query is read, and pictures near it.

        Raises QueryError, UnknownWordError, DataError, SearchTimeoutError.
        """
        threads = self._threads_for(version, where)
        try:
            return await threads.run(self._search_words, version, query, k, min_score, where)
        except UnknownWordError as error:
            raise await self._with_suggestions(version, error) from None

    async def search_vector(
        self, version: str, vector: np.ndarray, k: int, min_score: float | None, where: Where
    ) -> list[Match]:
        """Pictures near a point. Raises DataError, SearchTimeoutError."""
        threads = self._threads_for(version, where)
        return await threads.run(self._search, version, vector, k, min_score, where)

    async def vector(self, version: str, name: str) -> np.ndarray | None:
        """Where a stored picture lies; None if there is none of this id."""
        collection = self._follower.get(version).collection
        item = await self._plain.run(lambda deadline: collection.get(name))
        return None if item is None else item.vector

    async def thumbnail(self, version: str, name: str) -> bytes | None:
        """The JPEG of a stored picture; None if there is none of this id."""
        collection = self._follower.get(version).collection
        return await self._plain.run(lambda deadline: collection.thumbnail(name))

    async def try_version(self, version: Version) -> None:
        """Loads a version and searches it; raises why it cannot be used."""
        await asyncio.to_thread(self._follower.try_version, version)

    async def describe(self) -> dict[str, Any]:
        """What each loaded version holds, by key; and why wanted ones are not loaded."""
        about = {key: self._about(self._follower.get(key)) for key in self._follower.loaded()}
        return {"versions": about, "refused": self._follower.refused()}

    def check_health(self) -> None:
        """Serve asks; a replica that answers is well."""

    def _about(self, loaded: LoadedShard) -> dict[str, Any]:
        collection = loaded.collection
        return {
            "items": len(collection),
            "dimension": collection.dimension,
            "backend": collection.backend,
            "shards": self._settings.shards,
            "attribution": self._settings.attribution,
        }

    def _threads_for(self, version: str, where: Where) -> CallThreads:
        collection = self._follower.get(version).collection
        return self._reading if where and collection.unread(where) else self._plain

    async def _with_suggestions(self, version: str, error: UnknownWordError) -> UnknownWordError:
        """The error with known words of near spelling, if there is time to look for them."""
        words = self._follower.get(version).words
        try:
            found = await self._suggesting.run(words.suggestions, error.word)
        except SearchTimeoutError:
            return error
        return UnknownWordError(error.word, found)

    def _search_words(
        self,
        version: str,
        query: str,
        k: int,
        min_score: float | None,
        where: Where,
        deadline: Deadline,
    ) -> tuple[str, list[Match]]:
        words = self._follower.get(version).words
        read = words.read(query)
        vector = words.place(read, suggest=False)
        return str(read), self._search(version, vector, k, min_score, where, deadline)

    def _search(
        self,
        version: str,
        vector: np.ndarray,
        k: int,
        min_score: float | None,
        where: Where,
        deadline: Deadline,
    ) -> list[Match]:
        collection = self._follower.get(version).collection
        began = perf_counter()
        found: list[Match] = collection.search(vector, k, where, min_score, deadline)
        self._metrics.seconds.observe(perf_counter() - began, tags=self._tags)
        if random.random() < self._settings.recall_sample:
            self._metrics.recall.set(collection.sample_recall(vector), tags=self._tags)
        return found

    def _load(self, version: Version) -> LoadedShard:
        paths = shard_paths(version.path)
        if len(paths) != self._settings.shards:
            raise ArtifactError(
                f"{version.path}: has {len(paths)} shards, where {self._settings.shards} are "
                f"served; split it into as many (jobs.collection --split), or change `shards`"
            )
        path = paths[self._shard]
        device = "cuda" if self._settings.index_on_gpu else None
        collection = Collection.open(path, read_only=True, device=device)
        try:
            words = WordPlacer.open(path, self._settings.model, self._settings.vectors)
            collection.search(np.ones(collection.dimension, dtype=np.float32), 1)
        except BaseException:
            collection.close()
            raise
        return LoadedShard(collection, words)

    def _refresh(self) -> None:
        pause = threading.Event()
        while not pause.wait(REFRESH_EVERY):
            for loaded in self._follower.values():
                try:
                    loaded.collection.refresh()
                except Exception:  # a disk that is away for a while; what was read goes on
                    continue

    def _report(self) -> None:
        for loaded in self._follower.values():
            statistics = loaded.collection.statistics()
            self._metrics.items.set(statistics["items"], tags=self._tags)
            self._metrics.tail.set(statistics["tail"], tags=self._tags)


def deployment(settings: SearchSettings, shard: int) -> serve.Deployment:
    """The deployment Index-SHARD, one GPU each if it is to have one."""
    actor = {"num_gpus": 1.0} if settings.index_on_gpu else {}
    return serve.deployment(
        name=f"Index-{shard}",
        max_ongoing_requests=128,
        health_check_period_s=2,
        health_check_timeout_s=3,
        **ENDING,
        ray_actor_options={"num_cpus": 0.1, **actor},
    )(IndexReplica)

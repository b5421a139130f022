"""The deployment Writer: the one process that adds to the collection and deletes from it.

A change is on the disk before it is acknowledged, and the replicas of the index see it within a
second. There is always one replica, because a collection has one writer. If it dies, its
replacement continues from what is on the disk; until then the gateway answers 503 to changes, while
searches continue.
"""

import asyncio
import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve

from seqvis.collection.collection import Collection
from seqvis.collection.items import Item
from seqvis.collection.shards import shard_of, shard_paths
from seqvis.errors import StorageError
from seqvis.ray_internals import keep_replica_local
from serve.common.http import UnavailableError
from serve.common.metrics import SwitchMetrics, cancelled_counter
from serve.common.settings import ENDING, Application, SearchSettings, Version
from serve.common.versions import Follower, HeadStore, Store, configure

APPLICATION: Application = "search"
LOCK_WAIT = 20.0  # seconds: a writer that is being replaced needs some to let go
COMPACT_EVERY = 5.0  # seconds between looks at whether a compaction is due

_log = logging.getLogger("ray.serve")


class WriterReplica:
    """Every shard of every live version, opened for writing."""

    def __init__(self, settings: SearchSettings, store: Store | None = None):
        keep_replica_local()
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="writer")
        self._cancelled = cancelled_counter()
        store = store or HeadStore()
        configure(store, APPLICATION, [Version(name="default", path=settings.collection)])
        told = SwitchMetrics().told
        self._follower: Follower[list[Collection]] = Follower(
            APPLICATION, store, self._load, self._release, told
        )
        self._follower.start()
        threading.Thread(target=self._compact, name="compaction", daemon=True).start()

    async def add(
        self,
        version: str,
        name: str,
        vector: np.ndarray,
        metadata: Mapping[str, Any],
        thumbnail: bytes,
    ) -> bool:
        """Adds a picture, or replaces that of the same id; durable when it returns.

        Returns whether there was one. Raises DataError if it cannot be stored, UnavailableError if
        the disk does not take it now.
        """
        item = Item(name, vector, metadata, thumbnail)
        replaced = await self._change(version, name, _add, item)
        return bool(replaced)

    async def delete(self, version: str, name: str) -> bool:
        """Deletes a picture; durable when it returns. Returns whether it was there."""
        deleted = await self._change(version, name, _delete, name)
        return bool(deleted)

    async def try_version(self, version: Version) -> None:
        """Opens a version for writing; raises why it cannot."""
        await asyncio.to_thread(self._follower.try_version, version)

    def check_health(self) -> None:
        """Serve asks; a replica that answers is well."""

    async def _change(self, version: str, name: str, change: Any, what: Any) -> Any:
        shards = self._follower.get(version)
        collection = shards[shard_of(name, len(shards))]
        changing = self._pool.submit(change, collection, what)
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

    def _load(self, version: Version) -> list[Collection]:
        opened: list[Collection] = []
        try:
            for path in shard_paths(version.path):
                opened.append(Collection.open(path, wait=LOCK_WAIT))
        except BaseException:
            self._release(opened)
            raise
        return opened

    def _release(self, shards: list[Collection]) -> None:
        for collection in shards:
            collection.close()

    def _compact(self) -> None:
        pause = threading.Event()
        while not pause.wait(COMPACT_EVERY):
            for shards in self._follower.values():
                for collection in shards:
                    try:
                        if collection.compaction_due():
                            collection.compact()
                    except StorageError:  # a full disk: tried again, adds still work
                        continue


def _add(collection: Collection, item: Item) -> bool:
    replaced = item.id in collection
    collection.add([item])
    return replaced


def _delete(collection: Collection, name: str) -> bool:
    return collection.delete([name]) > 0


def deployment() -> serve.Deployment:
    """The deployment Writer."""
    return serve.deployment(
        name="Writer",
        num_replicas=1,
        max_ongoing_requests=64,
        health_check_period_s=2,
        health_check_timeout_s=3,
        **ENDING,
        ray_actor_options={"num_cpus": 0.1},
    )(WriterReplica)

"""The deployment Writer: the one process that adds to the collection and deletes from it.

A change is on the disk before it is acknowledged, and the replicas of the index see it within a
second. There is always one replica, because a collection has one writer. If it dies, its
replacement continues from what is on the disk; until then the gateway answers 503 to changes, while
searches continue.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

from seqvis.collection.collection import Collection
from seqvis.collection.items import Item, shard_of
from seqvis.collection.shards import shard_paths
from seqvis.errors import StorageError
from serve.common.http import UnavailableError
from serve.common.metrics import cancelled_counter
from serve.common.services import WriterService
from serve.common.settings import Application, ImageSearchSettings, Version
from serve.common.versions import Store
from serve.replicas.base import Replica

LOCK_WAIT = 20.0  # seconds: a writer that is being replaced needs some to let go
COMPACT_EVERY = 5.0  # seconds between looks at whether a compaction is due

_log = logging.getLogger("ray.serve")


class WriterReplica(Replica[list[Collection]], WriterService):
    """Every shard of every live version, opened for writing."""

    application: ClassVar[Application] = "search"

    def __init__(self, settings: ImageSearchSettings, store: Store | None = None):
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="writer")
        self._cancelled = cancelled_counter()
        super().__init__(settings.collection, store)
        self.repeat(COMPACT_EVERY, self._compact)

    async def add(self, version: str, item: Item) -> bool:
        def add(collection: Collection) -> bool:
            replaced = item.id in collection
            collection.add([item])
            return replaced

        return await self._change(version, item.id, add)

    async def delete(self, version: str, name: str) -> bool:
        return await self._change(version, name, lambda collection: collection.delete([name]) > 0)

    def load(self, version: Version) -> list[Collection]:
        opened: list[Collection] = []
        try:
            for path in shard_paths(version.path):
                opened.append(Collection.open(path, wait=LOCK_WAIT))
        except BaseException:
            self.release(opened)
            raise
        return opened

    def release(self, model: list[Collection]) -> None:
        for collection in model:
            collection.close()

    async def _change(self, version: str, name: str, change: Callable[[Collection], bool]) -> bool:
        shards = self.get(version)
        changing = self._pool.submit(change, shards[shard_of(name, len(shards))])
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

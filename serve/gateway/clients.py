"""Clients of the services (serve/common/services.py), which repeat a call if its replica dies.

Every call can be repeated safely: a translation or a search changes nothing, and adding or deleting
a picture twice has the same effect as once. If a call's replica dies, the call is sent to another
replica, or waits for the next one, as long as the request has time. Any answer of a replica is
final, errors included.

When a call has been silent for a moment, all replicas of the deployment are asked whether they are
alive. If they are, the call waits on, however long its work takes; if one is frozen, the call is
repeated.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import grpc
import numpy as np
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from seqvis.collection.filters.where import Where
from seqvis.collection.items import Item, shard_of
from seqvis.collection.scroll import Page
from seqvis.errors import BusyError, QueryError, UnknownFieldError
from seqvis.search.requests import EncodedImage, NameSet, SearchRequest
from serve.common.http import UnavailableError
from serve.common.services import EncoderService, Found, IndexService, WriterService
from serve.common.settings import TranslateOptions, Version

T = TypeVar("T")

_FULL_FOR = 0.2  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts
_SILENCE = 0.4  # seconds without an answer after which the replicas are asked whether they live
_ALIVE_WITHIN = 0.4  # seconds that they have to say so
_OF_THE_REQUEST = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
_NO_METADATA = "Unexpected error (StatusCode."  # how Ray's RuntimeError for a broken call begins

_log = logging.getLogger("ray.serve")


class Places:
    """Places for the calls of a deployment; once it is full, they are refused for a moment."""

    def __init__(self, name: str, most: int):
        """
        Args:
            name: of the deployment.
            most: calls under way at once. More are refused at once, so that a deployment that is
                slow or dead does not take a front's places from the others.
        """
        self._name = name
        self._most = most
        self._under_way = 0
        self._full_until = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a place for the length of the block. Raises BusyError if there is none."""
        # A refusal counts for a moment, so that a full deployment is not asked again and again.
        if self._under_way >= self._most or time.monotonic() < self._full_until:
            raise self.full()
        self._under_way += 1
        try:
            yield
        except BusyError:
            self._full_until = time.monotonic() + _FULL_FOR
            raise
        finally:
            self._under_way -= 1

    def full(self) -> BusyError:
        # Spread over seconds, so that they do not all come back at once.
        return BusyError(f"{self._name} has all the requests it can take", random.choice((1, 2, 3)))


class RemoteReplica:
    """Calls whichever replica of a deployment is there."""

    def __init__(
        self, handle: DeploymentHandle, control: DeploymentHandle, timeout: float, most: int
    ):
        """
        Args:
            handle: for calls.
            control: another handle of the deployment, to ask all replicas whether they live. If
                `handle` did, each question would count as news of a frozen replica's load, and
                Serve would send the repeated call there again.
            timeout: seconds after which a call is given up.
            most: as in `Places`.
        """
        self._handle = handle
        self._control = control
        self._timeout = timeout
        self._places = Places(handle.deployment_name, most)
        self._asking: asyncio.Task[bool] | None = None
        self.name = handle.deployment_name

    # Both are for operators, so they are asked however many calls are under way.
    async def describe(self) -> dict[str, Any]:
        return await self._call("describe")

    async def try_version(self, version: Version) -> None:
        await self._call("try_version", version)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Raise what the method raises, BusyError, or UnavailableError if nothing answers."""
        with self._places.taken():
            return await self._call(method, *arguments)

    async def _stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        """Yield what a generator yields. Nothing is repeated after the first item."""
        with self._places.taken():
            async for item in self._items(method, *arguments):
                yield item

    def _raise_answer(self, error: Exception) -> None:
        """Raise what the replica raised; return if it was lost, so that the call is repeated.

        What a replica raises comes as RayTaskError if Ray can rebuild it here, else as whatever
        rebuilding it raises.
        """
        if isinstance(error, BackPressureError):
            raise self._places.full() from error
        if isinstance(error, RayTaskError):
            raise (error.cause if isinstance(error.cause, Exception) else error) from None
        if not _is_lost(error):
            raise error
        _log.warning(json.dumps({"part": self.name, "repeated after": repr(error)[:300]}))

    async def _call(self, method: str, *arguments: Any) -> Any:
        remote = getattr(self._handle, method).remote
        pause, silence = _FIRST_PAUSE, _SILENCE
        try:
            async with asyncio.timeout(self._timeout) as all_attempts:
                while True:
                    response = remote(*arguments)
                    try:
                        return await self._unless_frozen(response, silence, method == "describe")
                    except asyncio.CancelledError:
                        response.cancel()
                        if _is_given_up():
                            raise
                    except Exception as error:
                        if isinstance(error, _FrozenError):
                            response.cancel()
                            silence *= 2  # a busy replica is slow to say that it lives
                        self._raise_answer(error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            if not all_attempts.expired():  # the replica raised it
                raise
            raise UnavailableError(f"{self.name} does not answer in time") from None

    async def _items(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        streaming = self._handle.options(stream=True)
        pause, silence = _FIRST_PAUSE, _SILENCE
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            items = getattr(streaming, method).remote(*arguments)
            begun = False
            try:
                while True:
                    item = await self._unless_frozen(anext(items), silence)
                    begun = True
                    yield item
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if _is_given_up():
                    raise
            except Exception as error:
                if isinstance(error, _FrozenError):
                    silence *= 2
                self._raise_answer(error)
            finally:
                items.cancel()
            if begun or asyncio.get_running_loop().time() > deadline:
                raise UnavailableError(f"{self.name} stopped answering")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _unless_frozen(
        self, answer: Awaitable[Any], silence: float, quick: bool = False
    ) -> Any:
        """Return the answer. Raise _FrozenError if there is none and a replica is frozen.

        `quick`: the call takes no time, so that silence alone means that its replica is frozen.
        """
        waiting = asyncio.ensure_future(answer)
        deadline = time.monotonic() + self._timeout
        try:
            while not (await asyncio.wait({waiting}, timeout=silence))[0]:
                if quick or time.monotonic() > deadline or not await self._all_live():
                    raise _FrozenError(f"{silence:.1f} s of silence")
            return waiting.result()
        finally:
            waiting.cancel()

    async def _all_live(self) -> bool:
        """Tell whether no replica is frozen. All calls that are silent now share one question."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return await asyncio.shield(self._asking)

    async def _ask_all(self) -> bool:
        answers = self._control.broadcast("check_health")
        try:
            # Calls to a replica that died raise that themselves.
            await answers.results_async(timeout_s=_ALIVE_WITHIN, return_exceptions=True)
        except TimeoutError:
            return False
        except Exception:  # there is no replica: the call waits for the next one
            return True
        return True


class _FrozenError(ConnectionError):
    """A replica is silent."""


def _is_lost(error: Exception) -> bool:
    """Tell whether a call failed because its replica, or the connection to it, is gone."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() not in _OF_THE_REQUEST
    if isinstance(error, RayActorError | DeploymentUnavailableError | ConnectionError):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(_NO_METADATA)


def _is_given_up() -> bool:
    """Tell whether the request itself was cancelled, and not only the call of a dead replica."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


class RemoteTranslator(RemoteReplica):
    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        return await self._ask("translate", version, texts, options)

    def stream(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> AsyncIterator[dict[str, Any]]:
        return self._stream("stream", version, texts, options)

    async def detect(self, version: str, texts: Sequence[str]) -> list[dict[str, float]]:
        return await self._ask("detect", version, texts)


class RemoteEncoder(RemoteReplica):
    async def encode(self, version: str, content: bytes) -> EncodedImage:
        return await self._ask("encode", version, content)

    async def encode_many(
        self, version: str, contents: Sequence[bytes]
    ) -> list[EncodedImage | QueryError]:
        return await self._ask("encode_many", version, contents)

    async def classify(
        self, version: str, vector: np.ndarray, k: int, candidates: NameSet
    ) -> list[dict[str, Any]]:
        return await self._ask("classify", version, vector, k, candidates)


class RemoteIndex(RemoteReplica):
    async def search(
        self, version: str, requests: Sequence[SearchRequest]
    ) -> list[Found | QueryError]:
        return await self._ask("search", version, requests)

    async def scroll(
        self, version: str, limit: int, after: str | None, where: Where | None
    ) -> Page | UnknownFieldError:
        return await self._ask("scroll", version, limit, after, where)

    async def vectors(self, version: str, names: Sequence[str]) -> list[np.ndarray | None]:
        return await self._ask("vectors", version, names)

    async def thumbnail(self, version: str, name: str) -> bytes | None:
        return await self._ask("thumbnail", version, name)


class RemoteWriter(RemoteReplica):
    async def add(self, version: str, items: Sequence[Item]) -> list[bool]:
        return await self._ask("add", version, items)

    async def delete(self, version: str, name: str) -> bool:
        return await self._ask("delete", version, name)


class SearchServices:
    """The services of the application `search`."""

    def __init__(
        self,
        encoder: EncoderService,
        writer: WriterService,
        index: Callable[[int], IndexService],
    ):
        """`index`: returns the service of a shard."""
        self.encoder = encoder
        self.writer = writer
        self._index = index
        self.shards: list[IndexService] = []

    async def find_shards(self) -> None:
        """Ask the first shard how many there are, unless that is known."""
        if self.shards:
            return
        described = await self._index(0).describe()
        for metadata in described["versions"].values():
            self.shards = [self._index(shard) for shard in range(metadata["shards"])]

    async def ask_shards(self, ask: Callable[[IndexService], Awaitable[T]]) -> list[T]:
        """Return the answer of each shard."""
        return await _together(map(ask, self.shards))

    async def vectors(self, version: str, names: Sequence[str]) -> dict[str, np.ndarray | None]:
        """Return the vector of each stored picture, None where there is none."""
        of_shard: dict[int, list[str]] = {}
        for name in dict.fromkeys(names):
            of_shard.setdefault(shard_of(name, len(self.shards)), []).append(name)
        calls = (self.shards[shard].vectors(version, own) for shard, own in of_shard.items())
        found = await _together(calls)
        return dict(zip(chain(*of_shard.values()), chain(*found), strict=True))

    def owner(self, name: str) -> IndexService:
        """Return the shard that a picture is in."""
        return self.shards[shard_of(name, len(self.shards))]


async def _together(calls: Iterable[Awaitable[T]]) -> list[T]:
    """Return all answers; if one is an error, the other calls are cancelled."""
    asked = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*asked)
    finally:
        for call in asked:
            call.cancel()

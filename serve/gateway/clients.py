"""Calls from the gateway to the deployments, repeated if a replica dies.

Every call can be repeated safely: a translation or a search changes nothing, and adding or deleting
a picture twice has the same effect as once. If a call's replica dies or stays silent, the call is
sent to another replica, or waits for the next one, as long as the request has time. Any answer of a
replica is final, errors included.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from seqvis.collection.shards import shard_of
from seqvis.errors import BusyError, UnknownFieldError
from serve.common.http import UnavailableError

_ALWAYS = ("describe", "try_version")  # asked by operators, however much there is to do
_FULL_FOR = 0.2  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds between attempts
_DESCRIBE_WITHIN = 0.4  # seconds of the first attempt: readiness must be known within one
_OF_THE_REQUEST = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
_NO_METADATA = "Unexpected error (StatusCode."  # how Ray's RuntimeError for a broken call begins

_log = logging.getLogger("ray.serve")


class Part(Protocol):
    """A deployment, as the gateway sees it."""

    async def call(self, method: str, *arguments: Any) -> Any:
        """Raises what the method raises, BusyError, or UnavailableError if nothing answers."""

    def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        """What a generator yields. Raises as `call`; after the first item nothing is repeated."""


class RemotePart:
    """A part that is a deployment of Ray Serve."""

    def __init__(self, handle: DeploymentHandle, timeout: float, attempt: float, most: int):
        """
        Args:
            timeout: seconds after which a call is given up.
            attempt: seconds after which a replica that has not answered is asked no longer, and
                another is; twice as many at each further attempt, since a busy replica is slow.
            most: calls under way at once. More are refused at once, so that a part that is slow or
                dead, whose calls wait, does not take the gateway's places from the other parts.
        """
        self._handle = handle
        self._timeout = timeout
        self._attempt = attempt
        self._most = most
        self._under_way = 0
        self._full_until = 0.0
        self.name = handle.deployment_name

    async def call(self, method: str, *arguments: Any) -> Any:
        if method == "describe":
            return await self._call(_DESCRIBE_WITHIN, method, *arguments)
        if method in _ALWAYS:
            return await self._call(self._timeout, method, *arguments)
        with self._place():
            return await self._call(self._attempt, method, *arguments)

    async def stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        with self._place():
            async for item in self._stream(method, *arguments):
                yield item

    @contextmanager
    def _place(self) -> Iterator[None]:
        # A replica's refusal holds for a moment: what comes meanwhile is not sent to be refused.
        if self._under_way >= self._most or time.monotonic() < self._full_until:
            raise self._full()
        self._under_way += 1
        try:
            yield
        except BusyError:
            self._full_until = time.monotonic() + _FULL_FOR
            raise
        finally:
            self._under_way -= 1

    def _full(self) -> BusyError:
        # Not all in the same second, when they come again.
        return BusyError(f"{self.name} has all the requests it can take", random.choice((1, 2, 3)))

    def _raise_answer(self, error: Exception) -> None:
        """Raises what the replica answered; returns if it was lost, so that the call is repeated.

        What a replica raises comes as RayTaskError, if Ray can rebuild it here, or as whatever
        rebuilding it raises.
        """
        if isinstance(error, BackPressureError):
            raise self._full() from error
        if isinstance(error, RayTaskError):
            raise _cause(error) from None
        if not _is_lost(error):
            raise error
        self._log_repeated(repr(error)[:300])

    def _log_repeated(self, reason: str) -> None:
        _log.warning(json.dumps({"part": self.name, "repeated after": reason}))

    async def _call(self, attempt: float, method: str, *arguments: Any) -> Any:
        remote = getattr(self._handle, method).remote
        pause = _FIRST_PAUSE
        try:
            async with asyncio.timeout(self._timeout) as all_attempts:
                while True:
                    response = remote(*arguments)
                    try:
                        async with asyncio.timeout(attempt) as patience:
                            return await response
                    except asyncio.CancelledError:
                        response.cancel()
                        if _is_given_up():
                            raise
                    except Exception as error:
                        if patience.expired():
                            response.cancel()
                            self._log_repeated(f"{attempt:.1f} s of silence")
                            attempt *= 2
                            continue
                        self._raise_answer(error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            if not all_attempts.expired():  # the replica raised it
                raise
            raise UnavailableError(f"{self.name} does not answer in time") from None

    async def _stream(self, method: str, *arguments: Any) -> AsyncIterator[Any]:
        streaming = self._handle.options(stream=True)
        pause, attempt = _FIRST_PAUSE, self._attempt
        deadline = asyncio.get_running_loop().time() + self._timeout
        while True:
            items = getattr(streaming, method).remote(*arguments)
            begun = False
            try:
                while True:
                    async with asyncio.timeout(self._timeout if begun else attempt) as patience:
                        item = await anext(items)
                    begun = True
                    yield item
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if _is_given_up():
                    raise
            except Exception as error:
                if patience.expired():
                    self._log_repeated(f"{attempt:.1f} s of silence")
                    attempt *= 2
                else:
                    self._raise_answer(error)
            finally:
                items.cancel()
            if begun or asyncio.get_running_loop().time() > deadline:
                raise UnavailableError(f"{self.name} stopped answering")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _is_lost(error: Exception) -> bool:
    """Whether a call failed because its replica, or the way to it, is gone."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() not in _OF_THE_REQUEST
    if isinstance(error, RayActorError | DeploymentUnavailableError | ConnectionError):
        return True
    return isinstance(error, RuntimeError) and str(error).startswith(_NO_METADATA)


def _is_given_up() -> bool:
    """Whether this request is cancelled itself, and not only the call of a replica that died."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _cause(error: RayTaskError) -> BaseException:
    """What was raised in the replica, as it was there."""
    cause = error.cause
    return cause if isinstance(cause, BaseException) else error


class SearchServices:
    """The deployments of the application `search`."""

    def __init__(self, encoder: Part, writer: Part, index: Callable[[int], Part]):
        """`index`: gives the deployment of a shard."""
        self.encoder = encoder
        self.writer = writer
        self._index = index
        self.shards: list[Part] = []

    async def find_shards(self) -> None:
        """Asks the first shard how many there are, unless that is known."""
        if self.shards:
            return
        described = await self._index(0).call("describe")
        for about in described["versions"].values():
            self.shards = [self._index(shard) for shard in range(about["shards"])]

    async def ask(self, method: str, *arguments: Any) -> list[Any]:
        """The answer of each shard, or its UnknownFieldError."""
        calls = [
            asyncio.ensure_future(_answer_of(shard.call(method, *arguments)))
            for shard in self.shards
        ]
        try:
            return await asyncio.gather(*calls)
        finally:
            for call in calls:  # of those that still run none is of use
                call.cancel()

    def owner(self, name: str) -> Part:
        return self.shards[shard_of(name, len(self.shards))]


async def _answer_of(asked: Awaitable[Any]) -> Any:
    try:
        return await asked
    except UnknownFieldError as error:
        return error

"""Calls of a deployment whose replicas answer, raise, die or keep silent."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from seqvis.errors import BusyError, DataError
from serve.common.http import UnavailableError
from serve.gateway.clients import RemotePart

ATTEMPT = 0.1  # seconds


def rpc_error(code: grpc.StatusCode) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata())


class Call:
    """A call of a replica: what it comes to, and whether it was cancelled."""

    def __init__(self, outcome: Any):
        self.outcome = outcome
        self.cancelled = False

    def __await__(self) -> Any:
        return self._answer().__await__()

    async def __anext__(self) -> Any:
        if isinstance(self.outcome, Iterator):
            try:
                return await self._come_to(next(self.outcome))
            except StopIteration:
                raise StopAsyncIteration from None
        return await self._answer()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    def cancel(self) -> None:
        self.cancelled = True

    async def _answer(self) -> Any:
        return await self._come_to(self.outcome)

    async def _come_to(self, outcome: Any) -> Any:
        if outcome is SILENCE:
            await asyncio.sleep(60)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


SILENCE = object()


class Deployment:
    """A handle whose calls come to the given outcomes in turn, the last one for ever."""

    deployment_name = "Index-0"

    def __init__(self, *outcomes: Any):
        self._outcomes = list(outcomes)
        self.calls: list[Call] = []

    def options(self, **_: Any) -> "Deployment":
        return self

    def __getattr__(self, name: str) -> "Deployment":
        return self

    def remote(self, *_: Any) -> Call:
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        self.calls.append(Call(outcome))
        return self.calls[-1]


def ask(deployment: Deployment, timeout: float = 5.0, method: str = "search_words") -> Any:
    part = RemotePart(deployment, timeout, ATTEMPT, 4)  # type: ignore[arg-type]
    return asyncio.run(part.call(method))


def raised_in_replica(error: Exception) -> Exception:
    """As Ray gives it to the caller."""
    wrapped: Exception = RayTaskError("search_words", "traceback", error).as_instanceof_cause()
    return wrapped


@pytest.mark.parametrize(
    "error",
    [
        raised_in_replica(DataError("where: no such field")),
        raised_in_replica(ConnectionError("of the replica's own")),
        raised_in_replica(TimeoutError("of the replica's own")),
        raised_in_replica(RecursionError("metadata")),
        TypeError("what rebuilding a UnicodeEncodeError raises"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        RuntimeError("anything"),
        rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_replica_answers_is_not_asked_again(error: Exception) -> None:
    deployment = Deployment(error)
    began = time.monotonic()
    expected = type(error.cause) if isinstance(error, RayTaskError) else type(error)
    with pytest.raises(expected):
        ask(deployment)
    assert len(deployment.calls) == 1
    assert time.monotonic() - began < ATTEMPT


@pytest.mark.parametrize(
    "error",
    [
        ActorDiedError(),
        ActorUnavailableError("away", b"1" * 16),
        rpc_error(grpc.StatusCode.UNAVAILABLE),
        rpc_error(grpc.StatusCode.CANCELLED),
        ConnectionResetError(),
        RuntimeError("Unexpected error (StatusCode.UNKNOWN): Stream removed."),
        asyncio.CancelledError(),
    ],
    ids=repr,
)
def test_a_call_of_a_replica_that_died_is_sent_to_another(error: BaseException) -> None:
    deployment = Deployment(error, error, "answer")
    assert ask(deployment) == "answer"
    assert len(deployment.calls) == 3


def test_a_silent_replica_is_given_up_for_another() -> None:
    deployment = Deployment(SILENCE, "answer")
    began = time.monotonic()
    assert ask(deployment) == "answer"
    assert ATTEMPT <= time.monotonic() - began < 5 * ATTEMPT
    assert [call.cancelled for call in deployment.calls] == [True, False]


def test_silence_for_as_long_as_a_request_has_is_unavailable() -> None:
    deployment = Deployment(SILENCE)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        ask(deployment, timeout=12 * ATTEMPT)
    assert time.monotonic() - began < 24 * ATTEMPT
    assert len(deployment.calls) == 4  # after 0, 1, 3 and 7; the next would be after 15
    assert all(call.cancelled for call in deployment.calls)


def test_a_request_that_is_given_up_cancels_its_call() -> None:
    deployment = Deployment(SILENCE)
    part = RemotePart(deployment, 5.0, 5.0, 1)  # type: ignore[arg-type]

    async def give_up() -> None:
        asking = asyncio.create_task(part.call("search_words"))
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError):  # the only place is taken
            await part.call("search_words")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert len(deployment.calls) == 1
        assert deployment.calls[0].cancelled
        with pytest.raises(TimeoutError):  # there is a place again
            await asyncio.wait_for(part.call("search_words"), 0.01)

    asyncio.run(give_up())


def stream(deployment: Deployment, timeout: float = 5.0) -> list[Any]:
    part = RemotePart(deployment, timeout, ATTEMPT, 4)  # type: ignore[arg-type]

    async def items() -> list[Any]:
        return [item async for item in part.stream("stream")]

    return asyncio.run(items())


@pytest.mark.parametrize("lost", [SILENCE, ActorDiedError()], ids=["silent", "died"])
def test_a_stream_that_has_not_begun_is_asked_of_another(lost: Any) -> None:
    deployment = Deployment(iter([lost]), iter([1, 2]))
    assert stream(deployment) == [1, 2]
    assert all(call.cancelled for call in deployment.calls)


@pytest.mark.parametrize("lost", [SILENCE, ActorDiedError()], ids=["silent", "died"])
def test_a_stream_that_has_begun_is_not_begun_again(lost: Any) -> None:
    deployment = Deployment(iter([1, lost]))
    with pytest.raises(UnavailableError):
        stream(deployment, timeout=3 * ATTEMPT)
    assert len(deployment.calls) == 1


def test_an_error_in_a_stream_is_the_answer() -> None:
    deployment = Deployment(iter([raised_in_replica(DataError("too long"))]))
    with pytest.raises(DataError):
        stream(deployment)
    assert len(deployment.calls) == 1


def test_readiness_does_not_wait_for_a_silent_replica() -> None:
    began = time.monotonic()
    assert ask(Deployment(SILENCE, "about"), method="describe") == "about"
    assert time.monotonic() - began < 0.8

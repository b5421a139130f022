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
from serve.common.settings import TranslateOptions
from serve.gateway import clients
from serve.gateway.clients import RemoteIndex, RemoteTranslator

SILENCE_S = 0.1  # seconds


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_SILENCE", SILENCE_S)
    monkeypatch.setattr(clients, "_ALIVE_WITHIN", SILENCE_S)


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
    """A handle whose calls come to the given outcomes in turn, the last one for ever.

    `alive`: whether its replicas say that they are alive, or what asking them raises.
    """

    deployment_name = "Index-0"

    def __init__(self, *outcomes: Any, alive: bool | Exception = False):
        self._outcomes = list(outcomes)
        self.alive = alive
        self.calls: list[Call] = []
        self.questions = 0

    def broadcast(self, method: str) -> "Deployment":
        assert method == "check_health"
        self.questions += 1
        return self

    async def results_async(self, timeout_s: float, return_exceptions: bool) -> list[Any]:
        assert return_exceptions
        if not self.alive:
            await asyncio.sleep(timeout_s)
            raise TimeoutError
        return [None, self.alive]

    def options(self, **_: Any) -> "Deployment":
        return self

    def __getattr__(self, name: str) -> "Deployment":
        return self

    def remote(self, *_: Any) -> Call:
        outcome = self._outcomes.pop(0) if len(self._outcomes) > 1 else self._outcomes[0]
        self.calls.append(Call(outcome))
        return self.calls[-1]


def ask(deployment: Deployment, timeout: float = 5.0) -> Any:
    return asyncio.run(index(deployment, timeout).vectors("version", ["picture"]))


def index(deployment: Deployment, timeout: float = 5.0, most: int = 4) -> RemoteIndex:
    return RemoteIndex(deployment, deployment, timeout, most)  # type: ignore[arg-type]


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
    assert time.monotonic() - began < SILENCE_S


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


def test_a_call_of_a_frozen_replica_is_sent_to_another() -> None:
    deployment = Deployment(SILENCE, "answer")
    began = time.monotonic()
    assert ask(deployment) == "answer"
    assert 2 * SILENCE_S <= time.monotonic() - began < 6 * SILENCE_S
    assert [call.cancelled for call in deployment.calls] == [True, False]


@pytest.mark.parametrize("alive", [True, ActorDiedError()], ids=["all", "all but a dead one"])
def test_a_call_of_a_replica_that_lives_is_never_repeated(alive: bool | Exception) -> None:
    deployment = Deployment(SILENCE, alive=alive)
    with pytest.raises(UnavailableError):
        ask(deployment, timeout=8 * SILENCE_S)
    assert len(deployment.calls) == 1
    assert deployment.questions > 3
    assert deployment.calls[0].cancelled


def test_silent_calls_share_a_question() -> None:
    deployment = Deployment(SILENCE, SILENCE, SILENCE, "answer")
    shard = index(deployment)

    async def three() -> list[Any]:
        return await asyncio.gather(*(shard.vectors("version", ["picture"]) for _ in range(3)))

    assert asyncio.run(three()) == ["answer"] * 3
    assert deployment.questions == 1


def test_silence_for_as_long_as_a_request_has_is_unavailable() -> None:
    deployment = Deployment(SILENCE)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        ask(deployment, timeout=12 * SILENCE_S)
    assert time.monotonic() - began < 24 * SILENCE_S
    # After 0, 2.5, 6.5; the next would be after 13.5.
    assert len(deployment.calls) == 3
    assert all(call.cancelled for call in deployment.calls)


def test_a_request_that_is_given_up_cancels_its_call() -> None:
    deployment = Deployment(SILENCE)
    shard = index(deployment, most=1)

    async def give_up() -> None:
        asking = asyncio.create_task(shard.vectors("version", ["picture"]))
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError):  # the only place is taken
            await shard.vectors("version", ["picture"])
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert len(deployment.calls) == 1
        assert deployment.calls[0].cancelled
        with pytest.raises(TimeoutError):  # there is a place again
            await asyncio.wait_for(shard.vectors("version", ["picture"]), 0.01)

    asyncio.run(give_up())


def stream(deployment: Deployment, timeout: float = 5.0) -> list[Any]:
    translator = RemoteTranslator(deployment, deployment, timeout, 4)  # type: ignore[arg-type]

    async def items() -> list[Any]:
        return [item async for item in translator.stream("version", [], TranslateOptions())]

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
        stream(deployment, timeout=3 * SILENCE_S)
    assert len(deployment.calls) == 1


def test_an_error_in_a_stream_is_the_answer() -> None:
    deployment = Deployment(iter([raised_in_replica(DataError("too long"))]))
    with pytest.raises(DataError):
        stream(deployment)
    assert len(deployment.calls) == 1


def test_readiness_does_not_wait_for_a_silent_replica() -> None:
    began = time.monotonic()
    assert asyncio.run(index(Deployment(SILENCE, "about")).describe()) == "about"
    assert time.monotonic() - began < 0.8

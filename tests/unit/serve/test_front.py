"""Replicas of the translator that take HTTP: settings and keys are the gateway's, limits common."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from serve.common.keys import KeyHolder, sha256_of
from serve.common.metrics import RequestMetrics
from serve.common.services import TranslatorService
from serve.common.settings import GatewaySettings, TranslateOptions, Version
from serve.common.versions import configure
from serve.gateway.front import Front, FrontSettings, PublishedFront
from serve.gateway.live import LiveModels
from tests.support.serving import LOCAL, MemoryStore

ROUTE = "/v1/translate"
ALICE = KeyHolder(name="alice", sha256=sha256_of("a"), scopes=("translate",))


class Echo(TranslatorService):
    """Answers with the text, or never."""

    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        return [item async for item in self.stream(version, texts, options)]

    async def stream(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> AsyncIterator[dict[str, Any]]:
        for text in texts:
            if text == "never":
                await asyncio.Event().wait()
            yield {"text": text, "refused": None}


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    configure(store, "translator", [Version(name="default", path="m")])
    return store


def settings(*holders: KeyHolder, **given: Any) -> FrontSettings:
    return FrontSettings(gateway=GatewaySettings(**given), holders=holders or None)


def published(store: MemoryStore, name: str = "one") -> PublishedFront:
    return PublishedFront(Echo(), store, name)


def client_of(app: Any, stack: ExitStack, root: str = "") -> TestClient:
    client = TestClient(app, base_url=LOCAL, client=("127.0.0.1", 50000), root_path=root)
    return stack.enter_context(client)


def status_of(client: TestClient, key: str = "", text: str = "x") -> int:
    headers = {"x-api-key": key} if key else {}
    return client.post(ROUTE, json={"text": text}, headers=headers).status_code


def within(seconds: float, true: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_it_starts_without_a_gateway_and_answers_as_the_gateway_says(store: MemoryStore) -> None:
    with ExitStack() as stack:
        client = client_of(published(store), stack, root=ROUTE)  # as Serve mounts it
        store.publish_gateway(settings(ALICE, limits={"beam": 2}).model_dump_json())
        assert status_of(client) == 401
        assert status_of(client, "a") == 200
        wide = client.post(ROUTE, json={"text": "x", "beam": 3}, headers={"x-api-key": "a"})
        assert wide.status_code == 422
        assert "at most 2 is allowed" in wide.json()["error"]["message"]


def test_a_key_that_a_new_gateway_does_not_know_is_refused(store: MemoryStore) -> None:
    bob = KeyHolder(name="bob", sha256=sha256_of("b"), scopes=("search",))
    store.publish_gateway(settings(ALICE, bob).model_dump_json())
    with ExitStack() as stack:
        client = client_of(published(store), stack)
        assert (status_of(client, "a"), status_of(client, "b")) == (200, 403)
        store.publish_gateway(settings(bob).model_dump_json())
        assert within(5, lambda: status_of(client, "a") == 401)


def test_a_key_that_has_expired_is_refused_and_told_so(store: MemoryStore) -> None:
    now = datetime.now(UTC)
    soon = ALICE.model_copy(update={"expires": now + timedelta(seconds=1)})
    store.publish_gateway(settings(soon).model_dump_json())
    with ExitStack() as stack:
        client = client_of(published(store), stack)
        assert status_of(client, "a") == 200
        assert within(5, lambda: status_of(client, "a") == 401)
        answer = client.post(ROUTE, json={"text": "x"}, headers={"x-api-key": "a"})
        assert answer.json()["error"]["code"] == "unauthorized"
        assert f"expired at {soon.expires}" in answer.json()["error"]["message"]


def test_what_does_not_end_in_time_is_given_up(store: MemoryStore) -> None:
    store.publish_gateway(settings(timeout_s=0.1).model_dump_json())
    with ExitStack() as stack:
        client = client_of(published(store), stack)
        for stream in (False, True):
            answer = client.post(ROUTE, json={"text": "never", "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        begun = client.post(ROUTE, json={"text": ["x", "never"], "stream": True})
    first, last = map(json.loads, begun.text.splitlines())
    assert (first["text"], last["error"]["code"]) == ("x", "unavailable")


def test_a_keys_limit_holds_over_all_that_take_its_requests(store: MemoryStore) -> None:
    limited = ALICE.model_copy(update={"requests_per_minute": 6.0, "burst": 4.0})
    limits = settings(limited)
    store.publish_gateway(limits.model_dump_json())
    with ExitStack() as stack:
        live = LiveModels(store, Echo(), None)
        gateway = client_of(Front(limits, live, store, RequestMetrics(), "gateway"), stack)
        translator = client_of(published(store), stack)
        assert [status_of(front, "a") for front in (gateway, translator, gateway)] == [200] * 3
        assert within(5, lambda: len(store.reports()) == 2 and status_of(translator, "a") == 200)
        time.sleep(1.1)  # both have reported twice
        assert [status_of(gateway, "a"), status_of(translator, "a")] == [429, 429]

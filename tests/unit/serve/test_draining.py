"""The end of a server: what is under way ends, nothing new is taken, and then it stops."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from serve import app
from serve.common.metrics import RequestMetrics
from serve.common.services import TranslatorService
from serve.common.settings import GatewaySettings, TranslateOptions, Version
from serve.common.versions import configure
from serve.gateway.front import Front, FrontSettings, PublishedFront
from serve.gateway.live import LiveModels
from tests.support.serving import MemoryStore, listening


class Slow(TranslatorService):
    """Answers when a test says so."""

    def __init__(self) -> None:
        self.called, self.may_end = threading.Event(), threading.Event()

    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        self.called.set()
        while not self.may_end.is_set():
            await asyncio.sleep(0.01)
        return [{"text": "whole", "refused": None}]


@dataclass
class Served:
    """A gateway and a translator that takes HTTP itself; `slow` is behind both."""

    slow: Slow
    store: MemoryStore
    gateway: str
    translator: str

    def translate(self, address: str) -> requests.Response:
        return requests.post(f"{address}/v1/translate", json={"text": "x"}, timeout=30)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    slow, store = Slow(), MemoryStore()
    monkeypatch.setattr(app, "Store", lambda: store)
    configure(store, "translator", [Version(name="default", path="m")])
    settings = FrontSettings(gateway=GatewaySettings(access_log=False), holders=None)
    store.publish_gateway(settings.model_dump_json())
    live = LiveModels(store, slow, None)
    gateway = Front(settings, live, store, RequestMetrics(), "gateway")
    with listening(gateway) as first, listening(PublishedFront(slow, store, "other")) as second:
        yield Served(slow, store, first, second)


@pytest.mark.parametrize("where", ["gateway", "translator"])
def test_what_is_under_way_ends_and_what_is_new_is_refused(served: Served, where: str) -> None:
    address = getattr(served, where)
    for each in (served.gateway, served.translator):
        assert requests.get(f"{each}/healthz", timeout=10).status_code == 200
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(served.translate, address)
        assert served.slow.called.wait(10)
        ended = pool.submit(app.drain, 30)
        while not served.store.reports():
            time.sleep(0.01)
        for path in ("/readyz", "/v1/models"):
            answer = requests.get(address + path, timeout=10)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "draining"
            assert answer.json()["error"]["under_way"] == 1
        assert requests.get(f"{address}/healthz", timeout=10).status_code == 200
        time.sleep(2)
        assert not ended.done()
        served.slow.may_end.set()
        ended.result(10)
        assert slow.result(10).json()["translations"][0]["text"] == "whole"


def test_what_does_not_end_in_time_is_waited_for_no_longer(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(served.translate, served.translator)
        assert served.slow.called.wait(10)
        began = time.monotonic()
        app.drain(1.8)
        assert time.monotonic() - began < 3
        assert "not all of it ended in time" in capsys.readouterr().err
        served.slow.may_end.set()
        slow.result(10)


def test_a_server_that_has_nothing_to_do_ends_at_once(served: Served) -> None:
    assert requests.get(f"{served.gateway}/healthz", timeout=10).status_code == 200
    began = time.monotonic()
    app.drain(30)
    assert time.monotonic() - began < 3


def test_where_no_gateway_answers_nothing_is_waited_for(served: Served) -> None:
    began = time.monotonic()  # neither has been asked anything yet, so neither follows the store
    app.drain(30)
    assert time.monotonic() - began < 4


def test_a_second_signal_ends_the_process_at_once() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        app.wait_for_signal()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""The end of a server: what is under way ends, nothing new is taken, and then it stops."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from serve import app
from serve.common.settings import GatewaySettings
from serve.gateway.middleware import RequestMiddleware
from tests.support.serving import listening


class Gateway:
    """A gateway whose requests end when a test says so; `ends` stands for the store's entry."""

    def __init__(self) -> None:
        self.ends = False
        self.asked, self.may_end = threading.Event(), threading.Event()
        settings = GatewaySettings(access_log=False)
        self.middleware = RequestMiddleware(
            self._answer, settings, None, lambda: self.ends, lambda _: None
        )

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.set()
        while scope["path"] == "/slow" and not self.may_end.is_set():
            await asyncio.sleep(0.01)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"whole"})


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Gateway:
    one = Gateway()
    monkeypatch.setattr(app.Store, "announce_draining", lambda _, ends: setattr(one, "ends", ends))
    return one


@pytest.fixture
def address(gateway: Gateway) -> Iterator[str]:
    with listening(gateway.middleware) as found:
        yield found


def test_what_is_under_way_ends_and_what_is_new_is_refused(gateway: Gateway, address: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(requests.get, f"{address}/slow", timeout=30)
        assert gateway.asked.wait(10)
        ended = pool.submit(app.drain, address, 30)
        while not gateway.ends:
            time.sleep(0.01)
        for path in ("/readyz", "/v1/models"):
            answer = requests.get(address + path, timeout=10)
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "draining"
            assert answer.json()["error"]["under_way"] == 1
        assert requests.get(f"{address}/healthz", timeout=10).status_code == 200
        assert not ended.done()
        gateway.may_end.set()
        ended.result(10)
        assert slow.result(10).content == b"whole"


def test_what_does_not_end_in_time_is_waited_for_no_longer(
    gateway: Gateway, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(requests.get, f"{address}/slow", timeout=30)
        assert gateway.asked.wait(10)
        began = time.monotonic()
        app.drain(address, 0.5)
        assert time.monotonic() - began < 2
        assert "not all of it ended in time" in capsys.readouterr().err
        gateway.may_end.set()
        slow.result(10)


def test_a_server_that_has_nothing_to_do_ends_at_once(gateway: Gateway, address: str) -> None:
    began = time.monotonic()
    app.drain(address, 30)
    assert time.monotonic() - began < 3


def test_where_no_gateway_answers_nothing_is_waited_for(gateway: Gateway) -> None:
    began = time.monotonic()
    app.drain("http://127.0.0.1:1", 30)
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

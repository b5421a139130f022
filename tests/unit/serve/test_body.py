"""Bodies of refused requests, over real connections that the server closes after its answer."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from serve.common import http
from serve.common.keys import KeyHolder, Keys, sha256_of
from serve.common.settings import GatewaySettings, UnderWay
from serve.gateway.middleware import RequestMiddleware
from serve.proxy import Resend
from tests.support.serving import listening

KEYS = Keys([KeyHolder(name="a", sha256=sha256_of("right"), scopes=("search",))])
SENT = 40 << 20  # more than the buffers of a loopback connection hold


async def not_found(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers without a look at the body."""
    content = b'{"error": {"code": "not_found"}}'
    headers = [(b"content-length", str(len(content)).encode()), (b"x-seqvis-gateway", b"1")]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": content})


async def whole(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the body to its end."""
    while (await receive()).get("more_body"):
        pass
    await not_found(scope, receive, send)


def middleware(app: Any, bodies: int = 32) -> RequestMiddleware:
    settings = GatewaySettings(under_way=UnderWay(bodies=bodies), access_log=False)
    return RequestMiddleware(app, settings, KEYS, lambda: False, lambda _: None)


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    with listening(middleware(not_found)) as address:
        yield address


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    with listening(Resend(not_found)) as address:
        yield address


def connect(address: str, headers: dict[str, str]) -> socket.socket:
    """A connection on which a request's headers were sent."""
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=30)
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = "POST /v1/images HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{}\r\n"
    head = head.format(parts.netloc, "".join(lines))
    connection.sendall(head.encode())
    return connection


def answer_on(connection: socket.socket) -> tuple[int, str]:
    """Status and error code of the answer, read until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):  # of a client that goes on sending
        while part := connection.recv(1 << 16):
            parts.append(part)
    head, content = b"".join(parts).split(b"\r\n\r\n", 1)
    return int(head.split()[1]), json.loads(content)["error"]["code"]


@pytest.mark.parametrize(
    ("sent", "key", "expected"),
    [
        (SENT, "right", (413, "too_large")),
        (SENT, "wrong", (401, "unauthorized")),
        (11 << 20, "wrong", (401, "unauthorized")),
        (11 << 20, "right", (404, "not_found")),
    ],
)
def test_a_client_that_is_refused_while_it_sends_gets_the_whole_answer(
    gateway: str, sent: int, key: str, expected: tuple[int, str]
) -> None:
    for _ in range(3):
        with connect(gateway, {"content-length": str(sent), "x-api-key": key}) as connection:
            connection.sendall(bytes(sent))
            assert answer_on(connection) == expected


def test_a_body_of_unknown_length_is_refused_so_too(gateway: str) -> None:
    headers = {"transfer-encoding": "chunked", "x-api-key": "wrong"}
    with connect(gateway, headers) as connection:
        for _ in range(SENT >> 20):
            connection.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        assert answer_on(connection) == (401, "unauthorized")


def test_the_proxys_refusal_arrives_as_well(proxy: str) -> None:
    for _ in range(3):
        with connect(proxy, {"content-length": str(SENT)}) as connection:
            connection.sendall(bytes(SENT))
            assert answer_on(connection) == (413, "too_large")


def test_a_client_that_asks_first_is_refused_before_it_sends(gateway: str) -> None:
    headers = {"content-length": str(SENT), "x-api-key": "right", "expect": "100-continue"}
    with connect(gateway, headers) as connection:
        began = time.monotonic()
        assert answer_on(connection) == (413, "too_large")
        assert time.monotonic() - began < 5


def test_a_client_that_never_ends_is_not_waited_for(
    gateway: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_LINGER", 0.2)
    with connect(gateway, {"content-length": "100", "x-api-key": "wrong"}) as connection:
        connection.sendall(b"some")
        assert answer_on(connection) == (401, "unauthorized")


@pytest.mark.parametrize("front", [lambda: middleware(whole), lambda: Resend(not_found)])
def test_a_body_that_trickles_is_ended_with_408_and_its_connection_closed(
    front: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_GRACE", 0.5)
    headers = {"content-length": "100000", "x-api-key": "right", "connection": "keep-alive"}
    with listening(front()) as address, connect(address, headers) as connection:
        began = time.monotonic()
        trickle = threading.Thread(target=send_slowly, args=(connection, 100, 0.1), daemon=True)
        trickle.start()
        assert answer_on(connection) == (408, "timeout")
        assert 0.4 < time.monotonic() - began < 2.0


def test_a_long_body_that_keeps_coming_has_the_time_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "_GRACE", 0.3)
    monkeypatch.setattr(http, "_SLOWEST", 10_000)  # bytes a second
    headers = {"content-length": "30000", "x-api-key": "right"}
    with listening(middleware(whole)) as address, connect(address, headers) as connection:
        for _ in range(10):
            connection.sendall(bytes(3000))
            time.sleep(0.1)
        assert answer_on(connection) == (404, "not_found")


def test_only_so_many_bodies_are_on_their_way_and_refused_ones_take_no_place_of_others() -> None:
    long = {"content-length": "100", "x-api-key": "right"}
    with listening(middleware(whole, bodies=1)) as address:
        with connect(address, {**long, "x-api-key": "wrong"}) as refused:
            refused.sendall(b"some")
            with connect(address, long) as first:
                first.sendall(b"some")
                time.sleep(0.3)
                with connect(address, long) as second:
                    second.sendall(b"some")
                    assert answer_on(second) == (503, "overloaded")
                first.sendall(bytes(96))
                assert answer_on(first) == (404, "not_found")
            with connect(address, long) as third:
                third.sendall(bytes(100))
                assert answer_on(third) == (404, "not_found")


def send_slowly(connection: socket.socket, count: int, pause: float) -> None:
    with contextlib.suppress(OSError):
        for _ in range(count):
            connection.sendall(b"x")
            time.sleep(pause)


def test_a_client_that_does_not_read_its_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve.gateway.middleware._TAKEN_WITHIN", 0.5)

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            piece = bytes(1 << 20)
            await send({"type": "http.response.body", "body": piece, "more_body": True})

    ended = threading.Event()
    settings = GatewaySettings(access_log=False)
    application = RequestMiddleware(endless, settings, KEYS, lambda: False, lambda _: ended.set())
    with listening(application) as address, connect(address, {"x-api-key": "right"}):
        assert ended.wait(10)

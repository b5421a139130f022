"""Clients that are slow on purpose, and what HAProxy itself answers."""

import json
import resource
import selectors
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from serve.proxy import haproxy
from serve.testing.server import RunningServer
from tests.faults.conftest import QUERIES

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not haproxy.environment(), reason="no HAProxy for this system"),
]

HALF_SENT = min(4150, haproxy.most_connections() - 100)
HEADERS_WITHIN = 10.0  # seconds, as serve/proxy/haproxy.py says
BODY_WITHIN = 10.0 + 140 / 32  # seconds for the 140 KiB that come of a body: serve/common/http.py
MARGIN = 5.0


@contextmanager
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@dataclass
class Held:
    """Connections that wait; `ended`: after how many seconds each was closed, and its answer."""

    ended: list[tuple[float, bytes]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    open: dict[socket.socket, bytes] = field(default_factory=dict)
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)

    def hold(self, server: RunningServer, sent: bytes) -> socket.socket:
        parts = urlsplit(server.address)
        connection = socket.create_connection((parts.hostname, parts.port or 0), timeout=10)
        connection.sendall(sent)
        connection.setblocking(False)
        self.open[connection] = b""
        self.selector.register(connection, selectors.EVENT_READ)
        return connection

    def look(self) -> None:
        """Notes what has come, and what was closed."""
        for key, _ in self.selector.select(0):
            connection: Any = key.fileobj
            try:
                part = connection.recv(1 << 16)
            except OSError:
                part = b""
            self.open[connection] += part
            if not part:
                self.ended.append((time.monotonic() - self.began, self.open.pop(connection)))
                self.selector.unregister(connection)
                connection.close()

    def close(self) -> None:
        for connection in self.open:
            connection.close()
        self.selector.close()


def head(length: int) -> bytes:
    start = "POST /v1/images HTTP/1.1\r\nhost: 127.0.0.1\r\nx-trickle: 1\r\n"
    return f"{start}content-length: {length}\r\n\r\n".encode()


def test_slow_clients_are_ended_and_others_answered_meanwhile(server: RunningServer) -> None:
    """Half-sent headers, and bodies that begin: little of one, and more than HAProxy keeps."""
    server.wait_ready()
    latencies: list[float] = []
    with many_files():
        headers, bodies = Held(), Held()
        try:
            for _ in range(HALF_SENT):
                headers.hold(server, b"GET /healthz HTTP/1.1\r\nx-slow: ")
            headers.began = bodies.began = time.monotonic()
            trickling = [bodies.hold(server, head(100_000)) for _ in range(10)]
            trickling += [bodies.hold(server, head(1_000_000) + bytes(135 << 10)) for _ in range(5)]
            while headers.open or bodies.open:
                waited = time.monotonic() - bodies.began
                assert waited < BODY_WITHIN + MARGIN, (len(headers.open), len(bodies.open))
                for connection in trickling:
                    if connection in bodies.open:
                        _drip(connection)
                latencies += [_seconds(server, "/healthz"), _seconds(server, "/v1/search/text")]
                headers.look()
                bodies.look()
                time.sleep(0.05)
        finally:
            headers.close()
            bodies.close()
    assert len(latencies) > 50
    assert statistics.quantiles(latencies, n=100)[98] < 1.0, sorted(latencies)[-5:]
    assert max(seconds for seconds, _ in headers.ended) < HEADERS_WITHIN + MARGIN
    assert all(answer == b"" for _, answer in headers.ended)  # which never were a request
    assert len(bodies.ended) == 15
    for seconds, answer in bodies.ended:
        assert answer.startswith(b"HTTP/1.1 408 "), (seconds, answer)
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "timeout"


def _drip(connection: socket.socket) -> None:
    with suppress(OSError):  # it is closed, which the next look finds out
        connection.send(b"x")


def _seconds(server: RunningServer, path: str) -> float:
    began = time.monotonic()
    if path == "/healthz":
        answer = requests.get(server.address + path, timeout=5)
    else:
        answer = requests.post(server.address + path, json={"query": QUERIES[0]}, timeout=5)
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


def test_what_haproxy_refuses_is_closed_or_in_the_interfaces_form(server: RunningServer) -> None:
    server.wait_ready()
    long = requests.get(f"{server.address}/healthz", headers={"x": "y" * 40_000}, timeout=5)
    assert long.status_code == 431
    assert long.json()["error"]["request_id"] == long.headers["x-request-id"]
    parts = urlsplit(server.address)
    with socket.create_connection((parts.hostname, parts.port or 0), timeout=5) as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert connection.recv(1000) == b""

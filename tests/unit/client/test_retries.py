"""The client against a server that refuses, breaks off or is slow: what is repeated, and when."""

import json
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from seqvis.client import (
    Client,
    ClientError,
    ForbiddenError,
    NotFoundError,
    OverloadedError,
    RefusedError,
    ServerFaultError,
    Streamed,
    UnreachableError,
)
from seqvis.client import connection as connection_module
from seqvis.errors import ConfigError

MODELS = {"translator": None, "search": None}
Step = tuple[int, dict[str, str], Any] | None
"""Status, headers and body of an answer; None: the connection breaks."""


class Scripted(ThreadingHTTPServer):
    """Answers with one step after the other, the last for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.steps: list[Step] = []
        self.requests: list[dict[str, str]] = []  # headers
        self.connections: set[Any] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Scripted
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append(dict(self.headers))
        self.server.connections.add(self.client_address)
        self.rfile.read(int(self.headers.get("content-length", 0)))
        steps = self.server.steps
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        if step is None:
            self.close_connection = True
            self.connection.close()
            return
        status, headers, body = step
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Nothing on the tests' output."""


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the client waits; it does not wait."""
    seconds: list[float] = []
    monkeypatch.setattr(connection_module.time, "sleep", seconds.append)
    return seconds


def refused(status: int, code: str, **headers: str) -> Step:
    return status, headers, {"error": {"code": code, "message": "no", "request_id": "r"}}


def test_a_request_is_sent_again_after_the_time_the_server_asks_for(
    server: Scripted, slept: list[float]
) -> None:
    server.steps = [
        refused(503, "overloaded", **{"retry-after": "3"}),
        refused(429, "rate_limited", **{"retry-after": "20"}),
        (200, {}, MODELS),
    ]
    with Client(server.address, "secret") as client:
        assert client.models() == {}
    assert 3 <= slept[0] <= 3.75
    assert 20 <= slept[1] <= 25
    ids = {headers["x-request-id"] for headers in server.requests}
    assert len(ids) == 1
    assert {headers["authorization"] for headers in server.requests} == {"Bearer secret"}


def test_a_date_to_come_back_at_is_waited_for(server: Scripted, slept: list[float]) -> None:
    at = formatdate(time.time() + 10, usegmt=True)
    server.steps = [refused(503, "overloaded", **{"retry-after": at}), (200, {}, MODELS)]
    Client(server.address).models()
    assert 8 <= slept[0] <= 12.5


def test_pauses_double_where_the_server_says_nothing(server: Scripted, slept: list[float]) -> None:
    server.steps = [refused(503, "unavailable")]
    with pytest.raises(OverloadedError):
        Client(server.address, retries=4).models()
    assert len(server.requests) == 5
    for pause, least in zip(slept, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert least <= pause <= 1.25 * least


def test_a_wait_that_is_too_long_is_told_at_once(server: Scripted, slept: list[float]) -> None:
    server.steps = [refused(429, "rate_limited", **{"retry-after": "300"})]
    with pytest.raises(OverloadedError) as caught:
        Client(server.address).models()
    assert caught.value.retry_after == 300
    assert slept == []


def test_a_broken_connection_is_made_again(server: Scripted, slept: list[float]) -> None:
    server.steps = [None, None, (200, {}, MODELS)]
    assert Client(server.address).models() == {}
    assert len(server.requests) == 3
    server.shutdown()
    server.server_close()
    with pytest.raises(UnreachableError) as caught:
        Client(server.address, retries=2).models()
    assert caught.value.status is None
    assert len(slept) == 4


def test_an_answer_that_is_late_is_not_asked_for_twice(server: Scripted) -> None:
    server.steps = [(200, {"content-length": "100"}, b"{")]
    with pytest.raises(UnreachableError, match="timed out"):
        Client(server.address, timeout=0.2).models()
    assert len(server.requests) == 1


def test_requests_share_a_connection(server: Scripted) -> None:
    server.steps = [(200, {}, MODELS)]
    client = Client(server.address)
    for _ in range(5):
        client.models()
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", ForbiddenError),
        (403, "forbidden", ForbiddenError),
        (404, "not_found", NotFoundError),
        (413, "too_large", RefusedError),
        (422, "bad_query", RefusedError),
        (500, "internal", ServerFaultError),
    ],
)
def test_errors_have_a_type_and_say_what_the_server_said(
    server: Scripted, slept: list[float], status: int, code: str, kind: type[ClientError]
) -> None:
    server.steps = [refused(status, code)]
    with pytest.raises(kind) as caught:
        Client(server.address).models()
    error = caught.value
    assert type(error) is kind
    assert (error.status, error.code, str(error)) == (status, code, "no")
    assert error.request_id == server.requests[0]["x-request-id"]
    assert len(server.requests) == 1


def test_what_is_no_server_of_this_kind_is_shown(server: Scripted) -> None:
    server.steps = [(404, {}, b"<h1>nginx</h1>")]
    with pytest.raises(NotFoundError, match="status 404: <h1>nginx"):
        Client(server.address).delete("a.jpg")
    server.steps = [(301, {"location": "https://example.org/"}, b"")]
    with pytest.raises(RefusedError, match="301"):
        Client(server.address).models()
    with pytest.raises(ConfigError, match="no server's address"):
        Client("127.0.0.1:8000")


LINE = json.dumps(
    {
        "index": 0,
        "translation": {
            "source": "a",
            "source_tokens": [],
            "unknown_words": [],
            "text": "b",
            "candidates": [],
        },
    }
)


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("", UnreachableError),
        ('{"error": {"code": "unavailable", "message": "ask again"}}\n', OverloadedError),
        ('{"error": {"code": "invalid", "message": "too long"}}\n', RefusedError),
    ],
)
def test_a_stream_that_breaks_off_gives_what_it_had_and_is_not_repeated(
    server: Scripted, end: str, kind: type[ClientError]
) -> None:
    server.steps = [(200, {}, f"{LINE}\n{end}".encode())]
    received: list[Streamed] = []
    with pytest.raises(kind):
        received.extend(Client(server.address).stream(["a", "c"]))
    assert [str(item.translation) for item in received] == ["b"]
    assert len(server.requests) == 1

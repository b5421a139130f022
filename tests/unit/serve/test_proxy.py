"""What the proxy's middleware makes of replicas that die, refuse or answer."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from serve import proxy
from serve.common.http import ANSWERED
from serve.proxy import MOST_BYTES, Resend

Answer = Callable[[Any, Any, Any], Any]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy, "_PAUSE", 0.0)


class Replicas:
    """Stands for Serve's proxy: answers the n-th attempt with the n-th of these."""

    def __init__(self, *answers: int | None, marked: bool = True, headers: Any = ()):
        self.answers = list(answers)
        self.bodies: list[bytes] = []
        self._headers = [*headers, *([(ANSWERED.encode(), b"1")] if marked else [])]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.bodies.append((await receive())["body"])
        status = self.answers.pop(0)
        if status is None:  # a dead replica: Serve sends nothing at all
            return
        marked = self._headers if status == 200 else []
        headers = [*marked, (b"x-request-id", b"a"), (b"x-request-id", b"b")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"done"})


def ask(
    app: Any, body: list[bytes], path: str = "/v1/translate", headers: Any = ()
) -> tuple[int | None, dict[str, str], bytes]:
    """The answer's status, headers and body; status None if there was none."""
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in body]
    messages[-1]["more_body"] = False
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": list(headers)}
    asyncio.run(Resend(app)(scope, receive, send))
    if not sent:
        return None, {}, b""
    names = [name for name, _ in sent[0]["headers"]]
    assert len(names) == len(set(names)) or path.startswith("/-/"), "a header occurs twice"
    response_headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return (
        sent[0]["status"],
        response_headers,
        b"".join(message.get("body", b"") for message in sent[1:]),
    )


@pytest.mark.parametrize("dead", [[500], [None], [None, 500, None, 500]])
def test_a_request_whose_replica_died_is_sent_again_whole(dead: list[int | None]) -> None:
    replicas = Replicas(*dead, 200)
    status, headers, body = ask(replicas, [b"one ", b"two"])
    assert (status, body) == (200, b"done")
    assert replicas.bodies == [b"one two"] * (len(dead) + 1)
    assert ANSWERED not in headers


def test_if_no_replica_answers_the_client_is_told_to_come_again() -> None:
    status, headers, body = ask(Replicas(*[500] * 5), [b"x"])
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert json.loads(body)["error"]["code"] == "unavailable"
    assert json.loads(body)["error"]["request_id"] == headers["x-request-id"]


@pytest.mark.parametrize("said", [503, 408])
def test_what_serve_refuses_is_told_in_the_interfaces_form_at_once(said: int) -> None:
    replicas = Replicas(said)
    status, headers, body = ask(replicas, [b"x"])
    assert status == 503
    assert headers["retry-after"] == "1"
    assert json.loads(body)["error"]["code"] == "overloaded"
    assert len(replicas.bodies) == 1


def test_an_error_that_the_gateway_itself_answers_is_passed_on() -> None:
    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(ANSWERED.encode(), b"1"), (b"retry-after", b"7")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"mine"})

    status, headers, body = ask(gateway, [b"x"])
    assert (status, headers["retry-after"], body) == (503, "7", b"mine")


def test_other_applications_are_left_in_peace() -> None:
    assert ask(Replicas(200, marked=False), [b"x"], "/other")[0] == 200
    assert ask(Replicas(404, marked=False), [b"x"], "/other")[0] == 404
    assert ask(Replicas(500), [b"x"], "/-/healthz")[0] == 500


def test_a_gateway_that_is_not_deployed_yet_is_one_that_does_not_answer() -> None:
    async def serve(scope: Any, receive: Any, send: Any) -> None:
        text = b"Path '/readyz' not found. Ping http://.../-/routes for available routes."
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": text})

    status, headers, body = ask(serve, [b""], "/readyz")
    assert status == 503
    assert int(headers["retry-after"]) >= 1
    assert json.loads(body)["error"]["code"] == "unavailable"


def test_a_client_that_left_is_not_asked_for_again() -> None:
    class Waiting(Replicas):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            self.bodies.append((await receive())["body"])
            assert (await receive())["type"] == "http.disconnect"

    replicas = Waiting()
    assert ask(replicas, [b"x"])[0] is None
    assert len(replicas.bodies) == 1


def test_too_large_a_body_ends_here() -> None:
    replicas = Replicas(200)
    length = [(b"content-length", str(MOST_BYTES + 1).encode())]
    assert ask(replicas, [b"x"], headers=length)[0] == 413
    assert ask(replicas, [b"x" * (1 << 20)] * 13)[0] == 413
    assert replicas.bodies == []


@pytest.mark.parametrize("given", [b"", b"a b", b"x" * 65, b'"'])
def test_a_strange_request_id_is_replaced(given: bytes) -> None:
    seen: list[bytes] = []

    async def gateway(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(value for name, value in scope["headers"] if name == b"x-request-id")
        await Replicas(200)(scope, receive, send)

    ask(gateway, [b"x"], headers=[(b"x-request-id", given)])
    assert len(seen) == 1
    assert seen[0] != given
    assert len(seen[0]) == 32

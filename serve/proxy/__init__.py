"""Middleware of Serve's HTTP proxy that hides a gateway's death from clients.

Serve itself answers 500 when the replica that had a request dies. This middleware keeps the
request's body until its answer begins, and sends the request to another replica; if there is none,
it tells the client to come back later. It refuses requests that are too large, and puts Serve's own
answers (too many requests, no such application) into the interface's form.

It runs behind HAProxy, for when that finds no gateway, and in its place where there is no HAProxy
(serve/proxy/haproxy.py). It is installed by
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=serve.proxy:middlewares.
"""

import asyncio
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.common.http import ANSWERED, REQUEST_ID, ApiError, Bodies, Body, response

MOST_BYTES = 12 << 20  # of a body that is kept
_MOST_BODIES = 64  # that arrive at once
_ATTEMPTS = 5
_BY_SERVE = (408, 500, 503)  # of Serve's own answers: late, broken, too much
_NO_APPLICATION = b"Path '"  # the beginning of Serve's own 404
_PAUSE = 0.2  # seconds before the second attempt, doubled before each further one
_GOOD_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def middlewares() -> list[Middleware]:
    """Return what Serve puts around its proxy."""
    return [Middleware(Resend)]


class Resend:
    """Sends a request again if its replica did not answer."""

    def __init__(self, app: ASGIApp):
        self._app = app
        self._bodies = Bodies(_MOST_BODIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        request_id = headers.get(REQUEST_ID, "")
        if not _GOOD_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
            headers[REQUEST_ID] = request_id
        body = Body(receive, Headers(scope=scope), MOST_BYTES, self._bodies)
        try:
            content = await _read(body)
            if content is not None:
                await self._ask(scope, content, receive, send, request_id)
        except ApiError as error:
            await body.discard()
            await response(error, request_id)(scope, receive, _without_mark(send))
        finally:
            body.close()

    async def _ask(
        self, scope: Scope, body: bytes, receive: Receive, send: Send, request_id: str
    ) -> None:
        pause = _PAUSE
        for attempt in range(_ATTEMPTS):
            again, answer = _Again(body, receive), _Answer(send)
            await self._app(dict(scope), again, answer)
            if again.left or answer.passed_on:
                return
            if answer.no_application:
                break
            if answer.status in (408, 503):
                raise ApiError(
                    503, "there is too much to do", "overloaded", retry_after=answer.retry_after
                )
            # The replica died: Serve's proxy then sends 500, or nothing at all.
            if attempt + 1 < _ATTEMPTS:
                await asyncio.sleep(pause)
                pause *= 2
        raise ApiError(503, "no gateway answers", retry_after=2.0)


class _Again:
    """The `receive` of one more attempt: the kept body, then whatever the client sends."""

    def __init__(self, body: bytes, receive: Receive):
        self._body: bytes | None = body
        self._receive = receive
        self.left = False  # the client went away

    async def __call__(self) -> Message:
        if self._body is None:
            message = await self._receive()
            self.left |= message["type"] == "http.disconnect"
            return message
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """A `send` that passes the application's answer on, and keeps back Serve's own answers.

    Serve's own 404, for a path that no application has, can be recognised only by its text.
    """

    def __init__(self, send: Send):
        self._send = send
        self.status: int | None = None
        self.passed_on = False
        self.no_application = False
        self.retry_after = 1.0
        self._not_found: Message | None = None

    async def __call__(self, message: Message) -> None:
        if self._not_found and message["type"] == "http.response.body":
            begun, self._not_found = self._not_found, None
            self.no_application = message.get("body", b"").startswith(_NO_APPLICATION)
            self.passed_on = not self.no_application
            if self.passed_on:
                await _without_mark(self._send)(begun)
        if message["type"] == "http.response.start":
            headers = Headers(raw=message["headers"])
            self.status = message["status"]
            # Answers of other applications of the same Serve pass, unless they failed.
            self.passed_on = ANSWERED in headers or self.status not in (404, *_BY_SERVE)
            if self.status == 404 and not self.passed_on:
                self._not_found = message
            waiting = headers.get("retry-after", "")
            self.retry_after = float(waiting) if waiting.isdigit() else 1.0
        if self.passed_on:
            await _without_mark(self._send)(message)


def _without_mark(send: Send) -> Send:
    async def unmarked(message: Message) -> None:
        if message["type"] == "http.response.start":
            # One id a response: Serve adds its own beside the gateway's.
            own = ANSWERED.encode(), REQUEST_ID.encode()
            ids = [pair for pair in message["headers"] if pair[0].lower() == own[1]]
            kept = [pair for pair in message["headers"] if pair[0].lower() not in own]
            message = {**message, "headers": kept + ids[:1]}
        await send(message)

    return unmarked


async def _read(body: Body) -> bytes | None:
    """Return the whole body; None if the client left. Raises ApiError (413) if it is too long."""
    body.check_length()
    parts: list[bytes] = []
    while True:
        message = await body()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)

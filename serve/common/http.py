"""Errors in the form that the interface shows, and a request's body, bounded while it arrives.

`Body` wraps ASGI's `receive` and raises ApiError for a body that is too long (413), that arrives
too slowly (408), or that is one of too many in transit (503). The body of a refused request is read
as well, and discarded: closing a connection with unread bytes resets it, and a client that is still
sending then loses the answer.
"""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive

from seqvis.errors import (
    ArtifactError,
    BadPictureError,
    BusyError,
    ConfigError,
    DataError,
    FilterSyntaxError,
    QueryError,
    SearchTimeoutError,
    SeqvisError,
    StorageError,
    UnknownFieldError,
    UnknownWordError,
    redacted,
)

REQUEST_ID = "x-request-id"
ANSWERED = "x-seqvis-gateway"
"""Header that marks what the gateway itself answered; the proxy removes it."""
CLIENT = "x-seqvis-client"
"""Header in which HAProxy says whose request it passes on, whatever the client has put there."""

_MOST_FIELDS = 100  # of a collection, listed where a filter asks for an unknown one

_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "rate_limited",
    503: "unavailable",
}


class ApiError(Exception):
    """An error with its HTTP status and one word for programs.

    `more` is added to what the client sees. With status 500 that is only the request's id, by which
    the traceback is found in the log.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        retry_after: float | None = None,
        **more: Any,
    ):
        super().__init__(redacted(message))
        self.status = status
        self.code = code or _CODES.get(status, "error")
        self.retry_after = retry_after
        self.more = more


class UnavailableError(SeqvisError):
    """A deployment, or the disk, does not answer at the moment."""


_PLAIN: tuple[tuple[type[Exception], int, str, float | None], ...] = (
    (SearchTimeoutError, 503, "overloaded", 2.0),
    (UnavailableError, 503, "unavailable", 2.0),
    (QueryError, 422, "bad_query", None),
    (DataError, 422, "invalid", None),
    (ArtifactError, 422, "bad_artifact", None),
    (ConfigError, 422, "bad_artifact", None),
)
"""Errors whose message is all that a client sees: status, code, seconds until it may try again."""


def as_api_error(error: BaseException) -> ApiError:
    """Return what a client sees of an error of the library or of the web framework."""
    from fastapi.exceptions import RequestValidationError  # too much for HAProxy's script

    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        problems = [
            {"where": ".".join(map(str, detail["loc"])), "problem": detail["msg"]}
            for detail in error.errors()
        ]
        message = f"{problems[0]['where']}: {problems[0]['problem']}"
        return ApiError(422, message, "invalid", problems=problems[:20])
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, ApiError):  # raised while the body was read
            return error.__cause__
        return ApiError(error.status_code, str(error.detail))
    message = str(error)
    if isinstance(error, BusyError):
        return ApiError(503, message, "overloaded", retry_after=error.retry_after)
    if isinstance(error, UnknownWordError):
        suggestions = list(error.suggestions)
        return ApiError(422, message, "unknown_word", word=error.word, suggestions=suggestions)
    if isinstance(error, FilterSyntaxError):
        return ApiError(
            422, message, "bad_filter", position=error.position, expected=error.expected
        )
    if isinstance(error, UnknownFieldError):
        return ApiError(
            422,
            message,
            "unknown_field",
            field=error.missing[0],
            fields=list(error.fields[:_MOST_FIELDS]),
            suggestions=list(error.suggestions),
        )
    if isinstance(error, BadPictureError):
        return ApiError(422, message, "bad_picture", reason=error.reason)
    if isinstance(error, StorageError):
        return ApiError(503, "the disk does not take changes now", "unavailable", retry_after=5.0)
    for kind, status, code, retry_after in _PLAIN:
        if isinstance(error, kind):
            return ApiError(status, message, code, retry_after)
    return ApiError(500, "something is wrong here; the log says what, by the request's id")


def problem_of(error: ApiError) -> dict[str, Any]:
    """Return what an answer says of an error."""
    code = error.code if error.status != 500 else "internal"
    return {"code": code, "message": str(error), **error.more}


def response(
    error: ApiError, request_id: str, content: Mapping[str, Any] | None = None
) -> Response:
    """Return the answer for an error, of the interface's form if no `content` is given."""
    content = content or {"error": {**problem_of(error), "request_id": request_id}}
    headers = {REQUEST_ID: request_id, ANSWERED: "1"}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 408:
        headers["connection"] = "close"  # the rest of the body would be read as a request
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    # A lone surrogate, which a client may have sent, stays the escape that JSON writes for it.
    body = json.dumps(content, ensure_ascii=False).encode(errors="backslashreplace")
    return Response(body, error.status, headers, media_type="application/json")


def json_response(content: Mapping[str, Any], status: int = 200) -> Response:
    """Return an answer as JSON."""
    body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")


_LINGER = 10.0  # seconds in which the body of a refused request is read
_GRACE = 10.0  # seconds that any body may take, besides its bytes at the slowest speed
_SLOWEST = 32 << 10  # bytes a second


class Bodies:
    """Free places for bodies that a process receives, and as many for those it discards."""

    def __init__(self, most: int):
        self.wanted = self.discarded = most


class Body:
    """The `receive` of one request. Call `close` at the end."""

    def __init__(self, receive: Receive, headers: Headers, most_bytes: int, bodies: Bodies):
        self._receive = receive
        self._most = most_bytes
        self._bodies = bodies
        self._length = headers.get("content-length", "0")
        self._read = 0
        self._began = time.monotonic()
        self._has_place = False
        self._more = self._length != "0" or "transfer-encoding" in headers
        self._kept_back = "expect" in headers  # the client sends nothing until it is read

    def check_length(self) -> None:
        """Raise ApiError (413) if the headers say that it is too long."""
        if not self._length.isdigit() or int(self._length) > self._most:
            raise self._too_large()

    async def __call__(self) -> Message:
        """Return the next message, as ASGI does. Raises ApiError: 413, 408 or 503."""
        message = await self._next()
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            raise self._too_large()
        if not self._more:
            self.close()
        elif not self._has_place:  # most bodies come whole, in one message
            if self._bodies.wanted <= 0:
                raise ApiError(503, "too many uploads are under way", "overloaded", retry_after=2.0)
            self._bodies.wanted -= 1
            self._has_place = True
        return message

    async def discard(self) -> None:
        """Read what is left, for some seconds at most."""
        self.close()
        if self._kept_back or not self._more or self._bodies.discarded <= 0:
            return
        self._bodies.discarded -= 1
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    while self._more:
                        self._note(await self._receive())
        finally:
            self._bodies.discarded += 1

    def close(self) -> None:
        """Let another body come."""
        self._bodies.wanted += self._has_place
        self._has_place = False

    async def _next(self) -> Message:
        if not self._more:  # the client may leave as late as it wants
            return await self._receive()
        self._kept_back = False
        until = self._began + _GRACE + self._read / _SLOWEST
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return self._note(await self._receive())
        except TimeoutError:
            self._more = False
            raise ApiError(408, "the request's body came too slowly") from None

    def _note(self, message: Message) -> Message:
        self._more = message["type"] == "http.request" and bool(message.get("more_body"))
        return message

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a request may have {self._most:,} bytes at most")

"""A request's body on its way in: no longer than allowed, and read to its end before a refusal.

In: ASGI's `receive`. Out: the same, which raises ApiError (413) beyond the limit. What would
surprise a reader: the body of a request that is refused is read as well, and thrown away. Whoever
closes a connection with bytes unread has it reset, and the client, still sending, loses the answer.
"""

import asyncio
import contextlib

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from serve.api.errors import ApiError

_LINGER = 10.0  # seconds in which a client may end what it sends in vain


class Body:
    """`receive` of one request."""

    def __init__(self, receive: Receive, headers: Headers, most_bytes: int):
        self._receive = receive
        self._most = most_bytes
        self._length = headers.get("content-length", "0")
        self._read = 0
        self._more = self._length != "0" or "transfer-encoding" in headers
        self._kept_back = "expect" in headers  # the client sends nothing until it is read

    def check_length(self) -> None:
        """Raises ApiError (413) if the headers say that it is too long."""
        if not self._length.isdigit() or int(self._length) > self._most:
            raise self._too_large()

    async def __call__(self) -> Message:
        """The next message. Raises ApiError (413) once it is too long."""
        message = await self._next()
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            raise self._too_large()
        return message

    async def discard(self) -> None:
        """Reads what is left, for some seconds at most."""
        if self._kept_back:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                while self._more:
                    await self._next()

    async def _next(self) -> Message:
        self._kept_back = False
        message = await self._receive()
        self._more = message["type"] == "http.request" and bool(message.get("more_body"))
        return message

    def _too_large(self) -> ApiError:
        return ApiError(413, f"a request may have {self._most:,} bytes at most")

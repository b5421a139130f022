"""A request's body on its way in: bounded in length, in time and in number.

In: ASGI's `receive`. Out: the same, which raises ApiError for a body that is too long (413), that
comes too slowly (408), or that is one of too many on their way (503). What would surprise a reader:
the body of a request that is refused is read as well, and thrown away. Whoever closes a connection
with bytes unread has it reset, and the client, still sending, loses the answer.
"""

import asyncio
import contextlib
import time

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from serve.api.errors import ApiError

_LINGER = 10.0  # seconds in which a client may end what it sends in vain
_GRACE = 10.0  # seconds that any body may take, and the time for what has come is added:
_SLOWEST = 32 << 10  # bytes a second


class Places:
    """Counts what is under way at once, up to a limit."""

    def __init__(self, most: int):
        self._free = most

    def take(self) -> bool:
        """Takes a place, if one is free."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def leave(self) -> None:
        self._free += 1


class Bodies:
    """The bodies that one process receives: those it wants, and those it throws away."""

    def __init__(self, most: int):
        self.wanted, self.refused = Places(most), Places(most)


class Body:
    """`receive` of one request. `close` it."""

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
        """Raises ApiError (413) if the headers say that it is too long."""
        if not self._length.isdigit() or int(self._length) > self._most:
            raise self._too_large()

    async def __call__(self) -> Message:
        """The next message. Raises ApiError: 413 once it is too long, 408 or 503 as said above."""
        message = await self._next()
        self._read += len(message.get("body", b""))
        if self._read > self._most:
            raise self._too_large()
        if not self._more:
            self.close()
        elif not self._has_place:  # most bodies come whole, in one message
            self._has_place = self._bodies.wanted.take()
            if not self._has_place:
                raise ApiError(503, "too many uploads are under way", "overloaded", retry_after=2.0)
        return message

    async def discard(self) -> None:
        """Reads what is left, for some seconds at most."""
        self.close()
        if self._kept_back or not self._more or not self._bodies.refused.take():
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    while self._more:
                        self._note(await self._receive())
        finally:
            self._bodies.refused.leave()

    def close(self) -> None:
        """Lets another body come."""
        if self._has_place:
            self._bodies.wanted.leave()
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

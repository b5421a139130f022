"""Clients that mean no good, for the mix of a load: slow ones, and requests that cost too much.

Every request of `HOSTILE` is one that the interface must refuse at once, with a typed 4xx.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from serve.testing.clients import Kind, Request

SLOWEST = 30.0  # seconds after which a slow client gives up, if it was not told to before

_DEEP = '{"a":' * 900 + "1" + "}" * 900
HOSTILE = (
    Request("/v1/search/text", {"query": "boat", "where": {f"k{n}": n for n in range(4000)}}),
    Request("/v1/search/text", {"query": "boat", "where": {"label": ["x" * 100] * 5000}}),
    Request("/v1/search/text", {"query": "\ud800"}),
    Request("/v1/translate", {"text": ["l'" * 1000] * 128, "beam": 8, "attention": True}),
    Request("/v1/translate", {"text": "\ud800"}),
    Request("/v1/images", form={"file": b"\xff\xd8", "metadata": _DEEP}),
    Request("/v1/images", form={"file": b"\xff\xd8", "metadata": '{"a": "' + "x" * 900_000 + '"}'}),
    Request("/v1/images", form={"file": b"\x89PNG\r\n\x1a\n" + bytes(1000)}),
)


def hostile(clients: int, per_second: float) -> Kind:
    """Clients that send requests which must be refused, in turn."""
    return Kind(lambda number: HOSTILE[number % len(HOSTILE)], clients, per_second)


@dataclass
class SlowClients:
    """Clients that send a request byte by byte, half of them not even its headers to the end.

    `held` has the seconds after which the server ended each connection.
    """

    per_second: float
    held: list[float] = field(default_factory=list)
    gave_up: int = 0

    def as_kind(self) -> Kind:
        return _Slow(lambda number: Request(""), per_second=self.per_second, slow=self)


@dataclass
class _Slow(Kind):
    slow: SlowClients = field(kw_only=True)

    async def run(
        self, session: Any, address: Callable[[], str], began: float, going: Callable[[], bool]
    ) -> None:
        clients: set[asyncio.Task[None]] = set()
        for number in range(sys.maxsize):
            wait = began + number / self.slow.per_second - time.monotonic()
            await asyncio.sleep(max(0.0, min(wait, 0.5)))
            if not going():
                break
            client = asyncio.create_task(self._dribble(address(), headers=number % 2 == 0))
            clients.add(client)
            client.add_done_callback(clients.discard)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        self.outcome.seconds = time.monotonic() - began

    async def _dribble(self, address: str, headers: bool) -> None:
        parts = urlsplit(address)
        sent = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            return
        head = f"POST /v1/translate HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 4000\r\n"
        try:
            writer.write(head.encode() + (b"X-Slow: " if headers else b"\r\n"))
            answered = asyncio.create_task(reader.read())
            while not answered.done() and time.monotonic() - sent < SLOWEST:
                writer.write(b" ")
                await asyncio.wait({answered}, timeout=1.0)
            if answered.done():
                self.slow.held.append(time.monotonic() - sent)
            else:
                self.slow.gave_up += 1
        except OSError:
            self.slow.held.append(time.monotonic() - sent)
        finally:
            writer.close()


def refusals(kind: Kind) -> dict[str, Any]:
    """What became of hostile requests: statuses, and how long the slowest answer took."""
    outcome = kind.outcome
    typed = [status for status in outcome.statuses if 400 <= status < 500 or status == 503]
    return {
        "sent": len(outcome.statuses),
        "typed": len(typed),
        "first_others": [] if len(typed) == len(outcome.statuses) else outcome.not_good,
        "slowest_s": round(max(outcome.latencies, default=0.0), 2),
    }

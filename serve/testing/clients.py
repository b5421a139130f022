"""Clients of an HTTP server that send requests from a thread, and a record of every answer."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import aiohttp

BROKEN = 0  # the "status" of a request whose connection broke
GOOD = (200, 201)


@dataclass(frozen=True)
class Request:
    """A request; `form` is sent as multipart, its bytes as files."""

    path: str
    json: Any = None
    form: Mapping[str, str | bytes] | None = None
    method: str = "POST"


@dataclass(frozen=True)
class Reply:
    """An answer; times are seconds since the load began."""

    status: int
    sent: float
    ended: float
    retry_after: float | None
    body: bytes = field(repr=False)

    @property
    def seconds(self) -> float:
        return self.ended - self.sent


@dataclass
class Outcome:
    """All answers to a load, in the order in which they came; every attempt counts."""

    replies: list[Reply] = field(default_factory=list)  # without their bodies
    not_good: list[str] = field(default_factory=list)  # the first few answers that are not good
    given_up: int = 0  # requests whose clients lost patience
    resent: int = 0  # requests sent to another address because a connection broke
    lost: int = 0  # requests that were refused more often than they may be sent again
    seconds: float = 0.0

    def note(self, reply: Reply) -> None:
        self.replies.append(replace(reply, body=b""))
        if reply.status not in GOOD and len(self.not_good) < 5:
            text = reply.body[:500].decode(errors="replace")
            self.not_good.append(f"{reply.status} after {reply.seconds:.2f} s: {text}")

    @property
    def statuses(self) -> list[int]:
        return [reply.status for reply in self.replies]

    @property
    def latencies(self) -> list[float]:
        return [reply.seconds for reply in self.replies]

    def count(self, status: int) -> int:
        return self.statuses.count(status)

    def good(self) -> list[float]:
        """Return the sorted latencies of the good answers."""
        return sorted(reply.seconds for reply in self.replies if reply.status in GOOD)

    def refused(self) -> list[float]:
        """Return the sorted latencies of the answers with status 503."""
        return sorted(reply.seconds for reply in self.replies if reply.status == 503)

    def good_since(self, since: float) -> list[float]:
        """Return when requests that were sent since then got a good answer."""
        return [
            reply.ended for reply in self.replies if reply.sent >= since and reply.status in GOOD
        ]

    def longest_gap(self, since: float = 0.0, until: float | None = None) -> float:
        """Return the longest time without a good answer, in seconds."""
        until = self.seconds if until is None else until
        good = (reply.ended for reply in self.replies if reply.status in GOOD)
        times = [since, *(end for end in good if since < end < until), until]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def faults(self) -> Counter[str]:
        """Count what no client should see: all but good answers and 503 with Retry-After."""
        seen: Counter[str] = Counter()
        for reply in self.replies:
            if reply.status == 503 and reply.retry_after is None:
                seen["503 without Retry-After"] += 1
            elif reply.status not in (*GOOD, 503):
                seen[str(reply.status or "broken connection")] += 1
        return seen

    def summary(self) -> dict[str, Any]:
        """Return requests a second, and latencies in ms."""
        good, refused = self.good(), self.refused()
        return {
            "seconds": round(self.seconds, 1),
            "statuses": dict(Counter(self.statuses)),
            "per_second": round(len(good) / max(self.seconds, 1e-9), 1),
            "p50_ms": quantile_ms(good, 0.5),
            "p99_ms": quantile_ms(good, 0.99),
            "refused_p50_ms": quantile_ms(refused, 0.5),
            "refused_p99_ms": quantile_ms(refused, 0.99),
            "lost": self.lost,
        }


def quantile_ms(ordered: Sequence[float], share: float) -> float | None:
    """Return a quantile of sorted seconds, in ms."""
    if not ordered:
        return None
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


@dataclass
class Kind:
    """Clients that all send the same kind of request.

    Attributes:
        request: request number n, counted over all clients of the kind.
        per_second: requests a second of all clients together; None: as fast as answers come.
        retries: how often a request that got 503 is sent again, after its Retry-After.
        patience: seconds after which a client closes its connection, whatever the server does.
        alive: whether an address answers, as a load balancer sees it; a request to one that does
            not, or whose connection broke, is sent again.
        done: called with the request and its last answer.
    """

    request: Callable[[int], Request]
    clients: int = 1
    per_second: float | None = None
    retries: int = 0
    patience: float | None = None
    alive: Callable[[str], bool] | None = None
    done: Callable[[Request, Reply], None] = lambda request, reply: None
    outcome: Outcome = field(default_factory=Outcome)

    async def run(
        self,
        session: aiohttp.ClientSession,
        address: Callable[[], str],
        began: float,
        going: Callable[[], bool],
    ) -> None:
        """Send requests for as long as `going()`; `address()` is called for each attempt."""
        numbers = itertools.count()

        async def client() -> None:
            while going():
                number = next(numbers)
                if await self.is_due(number, began, going):
                    await self._send_until_answered(session, address, self.request(number), began)

        await asyncio.gather(*(client() for _ in range(self.clients)))
        self.outcome.seconds = time.monotonic() - began

    async def is_due(self, number: int, began: float, going: Callable[[], bool]) -> bool:
        """Wait for request `number`'s turn; False if the load ends before."""
        while self.per_second is not None:
            wait = began + number / self.per_second - time.monotonic()
            if wait <= 0:
                break
            await asyncio.sleep(min(wait, 0.5))
            if not going():
                return False
        return going()

    async def _send_until_answered(
        self,
        session: aiohttp.ClientSession,
        address: Callable[[], str],
        request: Request,
        began: float,
    ) -> None:
        for attempt in range(self.retries + 1):
            chosen = address()
            sending = asyncio.create_task(_send(session, chosen, request, began))
            if self.patience is not None:
                await asyncio.wait({sending}, timeout=self.patience)
                if sending.cancel():
                    self.outcome.given_up += 1
                    return
            while self.alive and not sending.done():
                await asyncio.wait({sending}, timeout=0.1)
                if not self.alive(chosen):
                    sending.cancel()
            reply = await sending
            if reply.status == BROKEN and self.alive:
                self.outcome.resent += 1
                continue
            self.outcome.note(reply)
            if reply.status != 503 or reply.retry_after is None:
                break
            if attempt == self.retries:
                self.outcome.lost += 1
                break
            await asyncio.sleep(reply.retry_after)
        self.done(request, reply)


async def _send(
    session: aiohttp.ClientSession, address: str, request: Request, began: float
) -> Reply:
    sent = time.monotonic() - began
    after: float | None = None
    content: dict[str, Any] = {"json": request.json} if request.json is not None else {}
    if request.form is not None:
        content["data"] = form = aiohttp.FormData(default_to_multipart=True)
        for name, value in request.form.items():
            filename = {"filename": name} if isinstance(value, bytes) else {}
            form.add_field(name, value, **filename)
    try:
        async with session.request(request.method, address + request.path, **content) as response:
            body = await response.read()
            status = response.status
            waiting = response.headers.get("retry-after")
            after = float(waiting) if waiting is not None else None
    except (aiohttp.ClientError, asyncio.CancelledError, TimeoutError, OSError) as error:
        status, body = BROKEN, repr(error).encode()
    return Reply(status, sent, time.monotonic() - began, after, body)


class Traffic:
    """Clients that send requests from a thread for the length of a `with`."""

    def __init__(self, address: str | Callable[[], str], kinds: Mapping[str, Kind]):
        """`address`: the server's, or a function that chooses one for each attempt."""
        self.kinds = kinds
        self._address = (lambda: address) if isinstance(address, str) else address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._error: BaseException | None = None
        self.began = time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending and wait for the last answers. Raises what a `done` raised."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def now(self) -> float:
        """Return the seconds since the traffic began."""
        return time.monotonic() - self.began

    def wait_good(self, count: int, seconds: float = 120.0) -> None:
        """Wait until every kind has `count` good answers to requests sent from now on."""
        since = self.now()
        deadline = since + seconds
        while waiting := [
            name for name, kind in self.kinds.items() if len(kind.outcome.good_since(since)) < count
        ]:
            if self.now() > deadline or not self._thread.is_alive():
                raise TimeoutError(f"{', '.join(waiting)}: no {count} answers in {seconds:.0f} s")
            time.sleep(0.05)

    def _run(self) -> None:
        try:
            asyncio.run(self._send())
        except BaseException as error:
            self._error = error

    async def _send(self) -> None:
        # As many connections at once as there are requests.
        timeout, connector = aiohttp.ClientTimeout(total=180), aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(
                *(
                    kind.run(session, self._address, self.began, lambda: not self._stop.is_set())
                    for kind in self.kinds.values()
                )
            )

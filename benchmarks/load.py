"""A load on an HTTP server: so many clients at once, each asking again when it has its answer.

In: an address and what to send. Out: what became of every request: its status, its latency, and,
if it was refused, the Retry-After it came with. It can be a process of its own, so that what is
measured and what measures do not share an interpreter.
"""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

BROKEN = 0  # the "status" of a request whose connection broke

Body = Callable[[int], dict[str, Any]]


@dataclass
class Outcome:
    """What became of the requests of a load; seconds since its begin, in order of their ends."""

    ends: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    retry_after: list[float | None] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    retried: int = 0  # requests sent again as they were told to
    lost: int = 0  # requests that were refused more often than they were sent again
    seconds: float = 0.0

    def count(self, status: int) -> int:
        return self.statuses.count(status)

    def good(self) -> list[float]:
        """Latencies of the answered requests, in order of size."""
        return sorted(
            latency
            for latency, status in zip(self.latencies, self.statuses, strict=True)
            if status in (200, 201)
        )

    def refused(self) -> list[float]:
        """Latencies of those that were refused with 503, in order of size."""
        return sorted(
            latency
            for latency, status in zip(self.latencies, self.statuses, strict=True)
            if status == 503
        )

    def summary(self) -> dict[str, Any]:
        """Figures: requests a second, and latencies in ms."""
        good = self.good()
        return {
            "seconds": round(self.seconds, 1),
            "statuses": dict(Counter(self.statuses)),
            "per_second": round(len(good) / max(self.seconds, 1e-9), 1),
            "p50_ms": quantile_ms(good, 0.5),
            "p95_ms": quantile_ms(good, 0.95),
            "p99_ms": quantile_ms(good, 0.99),
            "refused_p50_ms": quantile_ms(self.refused(), 0.5),
            "refused_p99_ms": quantile_ms(self.refused(), 0.99),
            "retried": self.retried,
            "lost": self.lost,
        }


def quantile_ms(ordered: Sequence[float], share: float) -> float | None:
    """A quantile of ordered seconds, in ms."""
    if not ordered:
        return None
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


async def load(
    url: str,
    body: Body,
    clients: int,
    seconds: float,
    retries: int = 0,
    per_second: float | None = None,
    keep: Callable[[Any], Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Outcome:
    """Sends for `seconds`, then waits for what is under way.

    Args:
        body: the JSON of request number n.
        retries: how often a request that got 503 is sent again, after its Retry-After.
        per_second: requests a second of all clients together; None: as fast as answers come.
        keep: what to keep of each answer.
    """
    outcome = Outcome()
    began = time.monotonic()
    number = 0
    timeout = aiohttp.ClientTimeout(total=120)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        timeout=timeout, connector=connector, headers=headers
    ) as session:

        async def client() -> None:
            nonlocal number
            while time.monotonic() - began < seconds:
                mine, number = number, number + 1
                if per_second is not None:
                    wait = began + mine / per_second - time.monotonic()
                    if wait > 0:
                        await asyncio.sleep(wait)
                    if time.monotonic() - began > seconds:
                        return
                await _ask(session, url, body(mine), outcome, began, retries, keep)

        await asyncio.gather(*(client() for _ in range(clients)))
    outcome.seconds = time.monotonic() - began
    return outcome


async def _ask(
    session: aiohttp.ClientSession,
    url: str,
    content: dict[str, Any],
    outcome: Outcome,
    began: float,
    retries: int,
    keep: Callable[[Any], Any] | None,
) -> None:
    for attempt in range(retries + 1):
        sent = time.monotonic()
        after: float | None = None
        answer: Any = None
        try:
            async with session.post(url, json=content) as response:
                text = await response.read()
                status = response.status
                waiting = response.headers.get("retry-after")
                after = float(waiting) if waiting is not None else None
                if keep is not None and status in (200, 201):
                    answer = keep(json.loads(text))
        except (aiohttp.ClientError, TimeoutError, OSError):
            status = BROKEN
        outcome.ends.append(time.monotonic() - began)
        outcome.latencies.append(time.monotonic() - sent)
        outcome.statuses.append(status)
        outcome.retry_after.append(after)
        if keep is not None:
            outcome.answers.append(answer)
        if status != 503 or after is None:
            return
        if attempt == retries:
            outcome.lost += 1
            return
        outcome.retried += 1
        await asyncio.sleep(after)


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads /v1/translate with sentences from standard input; prints the summary as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--per-second", type=float, default=None)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print every request's outcome")
    given = parser.parse_args(arguments)
    sentences = [line.strip() for line in sys.stdin if line.strip()]

    def body(number: int) -> dict[str, Any]:
        return {"text": sentences[number % len(sentences)], "beam": given.beam}

    outcome = asyncio.run(
        load(
            f"{given.address}/v1/translate",
            body,
            given.clients,
            given.seconds,
            given.retries,
            given.per_second,
        )
    )
    print(json.dumps(asdict(outcome) if given.all else outcome.summary()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

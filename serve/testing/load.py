"""A load on an HTTP server: so many clients at once, each asking again when it has its answer.

In: an address and what to send. Out: what became of every request (clients.py). `load` runs for a
time; `Traffic` runs in a thread of its own until it is told to stop, with clients of several kinds.
It can be a process of its own, so that what is measured and what measures do not share an
interpreter.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Self

from serve.testing.clients import GOOD, Kind, Outcome, Reply, Request, open_session

Body = Callable[[int], dict[str, Any]]


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

    def done(request: Request, reply: Reply) -> None:
        if keep is not None:
            good = reply.status in GOOD
            kind.outcome.answers.append(keep(json.loads(reply.body)) if good else None)

    kind = Kind(lambda number: Request("", body(number)), clients, per_second, retries, done=done)
    began = time.monotonic()
    async with open_session(headers) as session:
        await kind.run(session, lambda: url, began, lambda: time.monotonic() - began < seconds)
    return kind.outcome


class Traffic:
    """Clients of several kinds that ask on, in a thread, for the length of a `with`."""

    def __init__(self, address: str | Callable[[], str], kinds: Mapping[str, Kind]):
        """`address`: the server's, or what chooses one for each attempt."""
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
        """Stops sending, and waits for what is under way. Raises what a `done` raised."""
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def now(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self.began

    def wait_good(self, count: int, seconds: float = 120.0) -> None:
        """Waits until every kind has `count` good answers to what it sends from now on."""
        since = self.now()
        deadline = since + seconds
        waiting = dict(self.kinds)
        while waiting:
            for name, kind in list(waiting.items()):
                if _good_since(kind.outcome, since) >= count:
                    del waiting[name]
            if waiting and (self.now() > deadline or not self._thread.is_alive()):
                raise TimeoutError(f"{', '.join(waiting)}: no {count} answers in {seconds:.0f} s")
            time.sleep(0.05)

    def _run(self) -> None:
        try:
            asyncio.run(self._ask())
        except BaseException as error:
            self._error = error

    async def _ask(self) -> None:
        async with open_session() as session:
            await asyncio.gather(
                *(
                    kind.run(session, self._address, self.began, lambda: not self._stop.is_set())
                    for kind in self.kinds.values()
                )
            )


def _good_since(outcome: Outcome, since: float) -> int:
    found = 0
    for number in range(len(outcome.retry_after) - 1, -1, -1):
        if outcome.ends[number] < since:
            break
        sent = outcome.ends[number] - outcome.latencies[number]
        found += sent >= since and outcome.statuses[number] in GOOD
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads /v1/translate with sentences from standard input; prints the summary as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--per-second", type=float, default=None)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--texts", type=int, default=1, help="of a request")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print every request's outcome")
    given = parser.parse_args(arguments)
    sentences = [line.strip() for line in sys.stdin if line.strip()]

    def body(number: int) -> dict[str, Any]:
        first = number * given.texts
        texts = [sentences[(first + n) % len(sentences)] for n in range(given.texts)]
        return {"text": texts if given.texts > 1 else texts[0], "beam": given.beam}

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

"""Clients of several kinds that send requests from a thread."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Self

from serve.testing.clients import Kind, open_session


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
        """Seconds since the traffic began."""
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
        async with open_session() as session:
            await asyncio.gather(
                *(
                    kind.run(session, self._address, self.began, lambda: not self._stop.is_set())
                    for kind in self.kinds.values()
                )
            )

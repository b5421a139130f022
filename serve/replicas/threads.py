"""A limited number of threads for a replica's calls, which stop when nobody waits for the result.

Each call runs a function whose last argument is a `Deadline`, which the function checks now and
then. When the call's time is over, or its caller has gone, the deadline ends the function, and the
thread is free for the next call.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ray.serve.metrics import Counter

from seqvis.deadline import Deadline
from seqvis.errors import SearchTimeoutError


class CallThreads:
    """Threads for one kind of work. Use it from a single event loop."""

    def __init__(self, name: str, threads: int, most: int, timeout_s: float, cancelled: Counter):
        """
        Args:
            most: calls that may be under way or wait for a thread; more are refused at once.
            timeout_s: seconds that each has, its waiting included.
            cancelled: counts the calls whose caller has gone.
        """
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._timeout_s = most, timeout_s
        self._cancelled = cancelled
        self._under_way = 0

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments, deadline)`. Raises SearchTimeoutError, and what it raises."""
        if self._under_way >= self._most:
            # Not BusyError: the gateway would keep all calls from this deployment for a while.
            raise SearchTimeoutError(f"{self._most} searches that take long are under way already")
        deadline = Deadline(self._timeout_s)
        self._under_way += 1
        try:
            work = partial(function, *arguments, deadline)
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except asyncio.CancelledError:
            deadline.end()
            self._cancelled.inc()
            raise
        finally:
            self._under_way -= 1

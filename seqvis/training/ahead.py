"""Make what the training loop needs next while the model learns.

A plan is an iterator of small parts, each of which a function turns into a part of a batch. An
`Ahead` yields what it makes of them, in their order: here in threads of the worker, in `stream.py`
in tasks on a Ray cluster.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

Ahead = Callable[[Iterable[Any], Callable[[Any], Any]], Generator[Any, None, None]]

LEAST_THREADS = 4  # some wait for a disk or a network


def in_threads(plan: Iterable[Any], make: Callable[[Any], Any]) -> Generator[Any, None, None]:
    """Yield `make(part)` of each part of the plan, in order, the next ones being made meanwhile."""
    threads = max(LEAST_THREADS, torch.get_num_threads())
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Any]] = deque()
    try:
        for part in plan:
            waiting.append(pool.submit(make, part))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)

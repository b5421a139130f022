"""Independent pieces of work side by side, each with its part of PyTorch's threads.

In: a function and what to call it with. Out: what it returned, in order. Several threads that share
each small product wait for each other more than they gain; pieces of their own keep them busy.
What would surprise a reader: how many threads a product has is a setting of the process, so while
pieces run it is less for every thread that begins to use PyTorch.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_SETTING = threading.Lock()  # held by the one who changed the process's setting


def side_by_side(
    work: Callable[[Piece], Result], pieces: Sequence[Piece], threads: int, small: bool = False
) -> list[Result]:
    """Calls `work` with each piece, in at most so many threads.

    One after the other if there is one piece or one thread; then each has all of PyTorch's threads,
    or, if it is `small`, one. The same, with as many as there are, if another caller is at it.
    """
    threads = max(1, min(threads, len(pieces)))
    before = torch.get_num_threads()
    each = 1 if small else max(1, before // threads)
    if (threads, each) == (1, before) or not _SETTING.acquire(blocking=False):
        return [work(piece) for piece in pieces]
    try:
        torch.set_num_threads(each)
        if threads == 1:
            return [work(piece) for piece in pieces]
        with ThreadPoolExecutor(threads, thread_name_prefix="piece") as pool:
            return list(pool.map(work, pieces))
    finally:
        torch.set_num_threads(before)
        _SETTING.release()

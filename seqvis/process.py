"""This process's share of the machine: memory, as the C library manages it, and processors.

PyTorch takes a large tensor's memory from the C library. glibc returns it to the system as soon as
the tensor is freed, so the next tensor of the same size costs a page fault for every 4 KiB: up to a
seventh of the time of a training step. Kept by glibc, freed memory falls into pieces of which ever
fewer fit what is wanted next: a process that trains on batches of ever new shapes grows for hours.
jemalloc, which has few sizes of blocks, does not (`seqvis/training/ray_train.py`).

oneDNN makes a kernel for each shape of a product that it meets, some 0.3 MiB, and PyTorch keeps a
thousand of them, and oneDNN a thousand more.
"""

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = 1 << 30


def prepare_to_compute() -> None:
    """Set this process up for products of matrices, before it loads PyTorch; once is enough.

    OpenMP's threads spin while they wait for each other. With anything else on the machine that
    makes a training step tens of times slower. What the environment says stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let this process keep freed memory for what it needs next, if its C library is glibc."""
    _of_the_allocator("mallopt", _MMAP_THRESHOLD, _NEVER)
    _of_the_allocator("mallopt", _TRIM_THRESHOLD, _NEVER)


def release_freed_memory() -> None:
    """Give back what is free now, after work that needed more than what follows will."""
    _of_the_allocator("malloc_trim", 0)
    _of_the_allocator("mallctl", b"arena.4096.purge", None, None, None, 0)  # 4096: of all arenas


def _of_the_allocator(name: str, *arguments: int | bytes | None) -> None:
    """Call a function of glibc's malloc, or of jemalloc, if this process has it."""
    if sys.platform == "linux":
        function = getattr(ctypes.CDLL(None), name, None)
        if function is not None:
            function(*arguments)


def keep_few_kernels() -> None:
    """Let this process keep the last 64 kernels of products, in each of the two places.

    For work whose shapes hardly ever come again, such as batches of sentences: a training step uses
    about forty kernels, each some thirty times. Call it before the process multiplies anything;
    what the environment already says stays.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


def usable_processors() -> int:
    """Return how many processors this process may run on: all if the system does not say."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""The processes of a Ray that a test has started; other Rays of the machine are left in peace."""

import contextlib

import psutil


def children_named(name: str, of: psutil.Process | None = None) -> list[psutil.Process]:
    """Of this process or another, at any depth: those with `name` in the command line, by pid."""
    found = []
    for one in (of or psutil.Process()).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile, or is a zombie
            if name in " ".join(one.cmdline()):
                found.append(one)
    return sorted(found, key=lambda one: one.pid)


def end_family(pid: int) -> None:
    """Kills a process and all its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()

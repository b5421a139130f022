"""The processes of a Ray that a test has started; other Rays of the machine are left in peace."""

import contextlib

import psutil


def children_named(name: str, of: psutil.Process | None = None) -> list[psutil.Process]:
    """Of this process or another, at any depth: those with `name` in the command line, by pid."""
    children = []
    for process in (of or psutil.Process()).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile, or is a zombie
            if name in " ".join(process.cmdline()):
                children.append(process)
    return sorted(children, key=lambda process: process.pid)


def end_family(pid: int) -> None:
    """Kills a process and all its descendants."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for member in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()

"""Waiting for a condition, with a time limit; and the one that most tests of restarts wait for."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_until(true: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Ask many times a second; after so many seconds fail with `what`, the state that lasted."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def checkpoints(folder: Path) -> list[str]:
    """The names of the whole checkpoints in a folder, the newest last.

    An epoch is reported before its checkpoint is written, so a test that wants a run to go on waits
    for one of these before it ends the run.
    """
    return sorted(path.parent.name for path in folder.glob("step-*/manifest.json"))

"""The progress of a job in stages, on standard error: a bar for people, lines for logs."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 1.0


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yields `show(stage, done, total)`; each stage that ran stays on the screen."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _log_stages()
        return
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bars:
        tasks: list[tuple[str, int]] = []

        def show(stage: str, done: int, total: int) -> None:
            if done == 0 or not tasks or tasks[-1][0] != stage:
                tasks.append((stage, int(bars.add_task(stage, total=total))))
            bars.update(tasks[-1][1], completed=done)  # type: ignore[arg-type]

        yield show


def _log_stages() -> Callable[[str, int, int], None]:
    """A line when a stage begins and for each tenth of it, at most one a second."""
    tenth, last = 0, 0.0

    def show(stage: str, done: int, total: int) -> None:
        nonlocal tenth, last
        now = time.monotonic()
        reached = 10 * done // max(1, total)
        if done == 0:
            print(f"{stage} ({total:,})", file=sys.stderr, flush=True)
        elif done < total and reached > tenth and now - last >= _SECONDS_BETWEEN_LINES:
            print(f"{stage}: {done:,} of {total:,}", file=sys.stderr, flush=True)
        else:
            return
        tenth, last = reached, now

    return show

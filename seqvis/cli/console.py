"""The progress of a job: a bar, a table of epochs, messages.

In a terminal they are on standard error, in a notebook in the output of the cell, and a log has a
line now and then.
"""

import io
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from seqvis.errors import redacted
from seqvis.training.events import Report

_SECONDS_A_LINE = 30  # of progress in a log, where there is no bar

_COLUMNS = (
    ("train_loss", "train loss", "{:.3f}"),
    ("loss", "loss", "{:.3f}"),
    ("loss_with_padding", "padded", "{:.3f}"),
    ("forced_loss", "forced", "{:.3f}"),
    ("attention_entropy", "entropy", "{:.3f}"),
    ("accuracy", "accuracy", "{:.3f}"),
    ("bleu", "BLEU", "{:.1f}"),
    ("chrf", "chrF", "{:.1f}"),
    ("hit@1", "hit@1", "{:.3f}"),
    ("hit@5", "hit@5", "{:.3f}"),
    ("hit@10", "hit@10", "{:.3f}"),
    ("tokens_per_second", "tokens/s", "{:,.0f}"),
    ("pictures_per_second", "pictures/s", "{:,.0f}"),
    ("seconds", "seconds", "{:,.0f}"),
)


@dataclass(frozen=True)
class _Screen:
    """Lines of text, and bars below them."""

    console: Console
    bars: Progress
    has_bars: bool  # False in a log

    def refresh(self) -> None:
        """Show what was printed; a terminal has it already."""


@contextmanager
def _screen(*columns: ProgressColumn) -> Iterator[_Screen]:
    console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
    if console.is_jupyter:
        cell = _Cell.of(columns)
        try:
            yield cell
        finally:
            cell.draw()
        return
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield _Screen(console, bars, console.is_terminal)


_CELL_WIDTH = 110  # characters; a notebook does not say how many fit
_SECONDS_BETWEEN_DRAWINGS = 0.25


@dataclass(frozen=True)
class _Cell(_Screen):
    """The output of a notebook's cell, one text that is replaced as it changes.

    rich's own bars need ipywidgets there, and leave nothing in the file.
    """

    handle: Any  # of IPython's display
    drawn: list[float]  # when it was

    @classmethod
    def of(cls, columns: tuple[ProgressColumn, ...]) -> "_Cell":
        from IPython.display import DisplayHandle

        console = Console(  # kernels ask for colours, which not every viewer of the file shows
            file=io.StringIO(),
            width=_CELL_WIDTH,
            force_jupyter=False,
            color_system=None,
            highlight=False,
            soft_wrap=True,
        )
        handle = DisplayHandle()
        handle.display({"text/plain": ""}, raw=True)
        bars = Progress(*columns, console=console, disable=True)
        return cls(console, bars, True, handle, [0.0])

    def refresh(self) -> None:
        if time.monotonic() - self.drawn[0] > _SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    def draw(self) -> None:
        with self.console.capture() as bars:
            self.console.print(self.bars)
        text = self.console.file.getvalue() + bars.get()  # type: ignore[attr-defined]
        self.handle.update({"text/plain": text.rstrip()}, raw=True)
        self.drawn[0] = time.monotonic()


@contextmanager
def training_console() -> Iterator[Report]:
    """Yield a function that shows the events of `training.fit` as they come."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with _screen(*columns) as screen:
        yield _Display(screen).show


class _Display:
    def __init__(self, screen: _Screen):
        self.screen = screen
        self.console = screen.console
        self.bar: Any = None
        self.headed = False
        self.next_line = time.monotonic() + _SECONDS_A_LINE

    def show(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "progress":
            self._advance(event)
        elif kind == "finder":
            text = f"rate {event['rate']:.1e}  loss {event['loss']:.3f}"
            self._bar("learning rates", event["step"], event["steps"], text)
        elif kind == "epoch":
            self._epoch(event)
        elif kind == "note":
            self.console.print(redacted(event["text"]), markup=False)
        self.screen.refresh()

    def _advance(self, event: dict[str, Any]) -> None:
        unit = event["unit"]
        text = (
            f"loss {event['smoothed_train_loss']:.3f}  "
            f"{event[f'{unit}_per_second']:,.0f} {unit}/s  "
            f"{100 * event['model_flop_utilisation']:.0f} % MFU"
        )
        name = f"epoch {event['epoch']}/{event['epochs']}"
        if not self.screen.has_bars and time.monotonic() > self.next_line:
            self.next_line = time.monotonic() + _SECONDS_A_LINE
            place = f"{name}  {event['position']}/{event['steps']}"
            self.console.print(f"{place}  {text}", markup=False)
        self._bar(name, event["position"], event["steps"], text)

    def _bar(self, name: str, done: int, total: int, text: str) -> None:
        bars = self.screen.bars
        if self.bar is None:
            self.bar = bars.add_task(name, total=total, speed="")
        bars.update(self.bar, description=name, completed=done, total=total, speed=text)

    def _epoch(self, event: dict[str, Any]) -> None:
        row = event["history"][-1]
        shown = [(head, form.format(row[key])) for key, head, form in _COLUMNS if key in row]
        widths = [max(len(head), 6) for head, _ in shown]
        if not self.headed:
            names = "  ".join(head.rjust(w) for (head, _), w in zip(shown, widths, strict=True))
            self.console.print(f"epoch  {names}", markup=False)
            self.headed = True
        values = "  ".join(value.rjust(w) for (_, value), w in zip(shown, widths, strict=True))
        self.console.print(f"{row['epoch']:>5}  {values}", markup=False)
        for text in event.get("warnings", []):
            self.console.print(text, markup=False)
        for sample in event.get("samples", []):
            self.console.print(f"         source       {sample['source']}", markup=False)
            self.console.print(f"         reference    {sample['reference']}", markup=False)
            self.console.print(f"         translation  {sample['translation']}", markup=False)


_SECONDS_BETWEEN_LINES = 1.0


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield `show(stage, done, total)`; each stage that ran stays on the screen."""
    columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn())
    with _screen(*columns, TimeElapsedColumn()) as screen:
        if not screen.has_bars:
            yield _log_stages()
            return
        tasks: list[tuple[str, int]] = []

        def show(stage: str, done: int, total: int) -> None:
            if done == 0 or not tasks or tasks[-1][0] != stage:
                tasks.append((stage, int(screen.bars.add_task(stage, total=total))))
            screen.bars.update(tasks[-1][1], completed=done)  # type: ignore[arg-type]
            screen.refresh()

        yield show


def _log_stages() -> Callable[[str, int, int], None]:
    """Return a `show` that prints a line when a stage begins and at each tenth, one a second."""
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

"""What a search shows a person, on standard error: a live table, or lines where there is none."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tune.search.records import Trial
from tune.search.state import Search

_SHOWN = 12  # trials in the live table: those that run, then the best


@contextmanager
def search_display(search: Search) -> Iterator["Display"]:
    """Yields what is to be told that something happened."""
    console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
    display = Display(search, console)
    if not console.is_terminal:
        yield display
        return
    with Live(console=console, get_renderable=display.table, refresh_per_second=1):
        yield display


class Display:
    """The trials as a table, and what is new about them as lines."""

    def __init__(self, search: Search, console: Console):
        self.search, self.console = search, console
        self._told = {trial.name: _state(trial) for trial in search.records}

    def update(self) -> None:
        """Prints a line for each trial of which something is new, where there is no live table."""
        if self.console.is_terminal:
            return
        for trial in self.search.records:
            if self._told.get(trial.name) != _state(trial):
                self._told[trial.name] = _state(trial)
                self.console.print(self._line(trial), markup=False)

    def table(self) -> Table:
        """The trials that run and the best of the others."""
        search = self.search
        ends = [trial.status for trial in search.records]
        counts = [(name, ends.count(name)) for name in ("finished", "stopped", "failed")]
        title = f"{len(ends)} trials, {len(search.running)} running, "
        title += ", ".join(f"{count} {name}" for name, count in counts)
        table = Table(title=f"{title}, {search.seconds():,.0f} s", title_justify="left")
        for name in ("trial", "state", "epoch", search.settings.metric, "seconds", "settings"):
            table.add_column(name, justify="left" if name in ("state", "settings") else "right")
        for trial in self._shown():
            table.add_row(*self._cells(trial), _settings(trial))
        return table

    def _shown(self) -> list[Trial]:
        running = [one for one in self.search.records if one.name in self.search.running]
        others = [one for one in self.search.records if one.name not in self.search.running]
        mode = self.search.settings.mode
        others = [one for one in others if one.results]
        others.sort(key=lambda one: one.best(mode), reverse=mode == "max")
        return [*running, *others][: max(_SHOWN, len(running))]

    def _cells(self, trial: Trial) -> list[str]:
        state = trial.status
        if state == "open":
            state = "running" if trial.name in self.search.running else "waiting"  # type: ignore[assignment]
        metric = f"{trial.best(self.search.settings.mode):.4f}" if trial.results else ""
        return [trial.name, state, f"{trial.epoch}/{trial.epochs}", metric, f"{trial.seconds:,.0f}"]

    def _line(self, trial: Trial) -> str:
        name, state, epoch, metric, seconds = self._cells(trial)
        text = f"{name}  {state:8}  epoch {epoch}  {self.search.settings.metric} {metric or '-'}"
        if trial.errors and (trial.status == "failed" or state == "waiting"):
            text += f"  {trial.errors[-1].splitlines()[-1]}"
        return f"{text}  {seconds} s"


def _settings(trial: Trial) -> str:
    """Without the names' beginnings, which would not fit."""
    return "  ".join(f"{path.rsplit('.', 1)[-1]} {value}" for path, value in trial.config.items())


def _state(trial: Trial) -> tuple[int, str, int]:
    return trial.epoch, trial.status, len(trial.errors)

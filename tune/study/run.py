"""What a search leaves: a table of trials, the best configuration and model, the report.

`OUT/trials.parquet` is written anew after each trial's end; `best.yaml`, `best/` and the report at
the end. Of the trials' own directories the curves stay; checkpoints and models that nothing can
need any more are deleted as soon as their trial ended.

What the two search jobs share: from their settings to the result.

What a search shows a person, on standard error: a live table, or lines where there is none.
"""

import fcntl
import io
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console
from rich.live import Live
from rich.table import Table

from seqvis import artifacts
from seqvis.checks import require_extra
from seqvis.cluster import ray_session
from seqvis.config import JobSettings
from seqvis.errors import ConfigError, TrainingError
from seqvis.storage import Location, absolute, locate
from seqvis.training.launch import run_directory
from tune import report
from tune.report import write_report
from tune.study.ray_tune import prepare_environment, run_trials
from tune.study.records import Trial
from tune.study.settings import Kind, SearchSettings
from tune.study.space import load_space
from tune.study.study import Search


def write_tables(search: Search) -> None:
    """`trials.parquet`, a row for each trial that ended or has results, and `history.parquet`."""
    rows = [trial for trial in search.records if trial.status != "open" or trial.results]
    mode = search.settings.mode
    columns: dict[str, Any] = {
        "trial": pa.array([trial.name for trial in rows], pa.string()),
        "status": pa.array([_status(trial) for trial in rows], pa.string()),
        "epochs": pa.array([trial.epoch for trial in rows], pa.int64()),
        "seconds": pa.array([round(trial.seconds, 1) for trial in rows], pa.float64()),
        "metric": pa.array([_metric(trial, mode) for trial in rows], pa.float64()),
        "error": pa.array([_error(trial) for trial in rows], pa.string()),
        "parent": pa.array([one.origin.donor if one.origin else None for one in rows], pa.string()),
    }
    for parameter in search.space.parameters:
        values = [trial.config[parameter.path] for trial in rows]
        columns[f"config/{parameter.path}"] = _column(values)
    _write(search.out / "trials.parquet", columns)
    results = [(trial.name, one) for trial in rows for one in trial.results]
    columns = {
        "trial": pa.array([name for name, _ in results], pa.string()),
        "epoch": pa.array([one.epoch for _, one in results], pa.int64()),
        "metric": pa.array([one.metric for _, one in results], pa.float64()),
        "seconds": pa.array([one.seconds for _, one in results], pa.float64()),
    }
    _write(search.out / "history.parquet", columns)


def sweep(search: Search) -> None:
    """Deletes the checkpoints of trials that ended, and all models but the best."""
    best = search.best()
    for trial in search.records:
        if trial.status == "open" or trial.name in search.swept:
            continue
        model = search.records.model(trial.name)
        (run_directory(model) / "checkpoints").delete()
        (run_directory(model) / "ray").delete()
        if trial is not best:
            model.delete()
            search.swept.add(trial.name)


def finish(search: Search) -> dict[str, Any]:
    """Writes everything that a search ends with and returns the job's result.

    Raises TrainingError if no trial has a result.
    """
    search.swept.clear()  # a stopped trial may have written once more on its way out
    sweep(search)
    write_tables(search)
    best = search.best()
    if best is None or not best.results:
        errors = [trial.errors[-1] for trial in search.records if trial.errors]
        reason = (
            errors[-1].splitlines()[-1] if errors else "the budget ended before the first epoch"
        )
        raise TrainingError(f"{search.out.uri}: no trial has a result; the last error: {reason}")
    _write_best_settings(search, best)
    model = _copy_model(search, best)
    report = _write_report(search)
    ends = [trial.status for trial in search.records]
    return {
        "best_metric": best.best(search.settings.mode),
        "trials": len(ends),
        "finished": ends.count("finished"),
        "stopped": ends.count("stopped"),
        "failed": ends.count("failed"),
        "unfinished": ends.count("open"),
        "best_trial": best.name,
        "best_config": best.config,
        "best_model": model.uri if model else None,
        "settings": (search.out / "best.yaml").uri,
        **report,
        "out": search.out.uri,
    }


def _write_best_settings(search: Search, best: Trial) -> None:
    kind = search.kind
    settings = search.space.settings(kind, best.config, "out")
    tree = settings.model_dump(mode="json", exclude={"out", *kind.paths}, exclude_none=True)
    job = f"python -m jobs.train_{kind.artifact} --config {search.out.uri}/best.yaml"
    lines = [
        f"# Trial {best.name} of {len(search.records)}: {search.settings.metric} "
        f"{best.best(search.settings.mode):.4f} after {best.epoch} epochs.",
        f"#   {job} … --out OUT",
    ]
    lines += [f"# {path}: {value}" for path, value in best.config.items()]
    text = "\n".join(lines) + "\n" + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    (search.out / "best.yaml").replace(text.encode())


def _copy_model(search: Search, best: Trial) -> Location | None:
    """The best trial's artifact at `OUT/best`; nothing if the trial did not finish."""
    if best.status != "finished":
        return None
    kind, target = search.kind.artifact, search.out / "best"
    found = artifacts.load(search.records.model(best.name), kind)
    with artifacts.create(target, kind, found.config) as writer:
        writer.metrics.update(found.metrics)
        for name in found.files:
            writer.path(name).write_bytes(found.file(name).read_bytes())
    return target


def _write(place: Location, columns: dict[str, Any]) -> None:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    place.replace(content.getvalue())


def _write_report(search: Search) -> dict[str, Any]:
    """`report.html` and `report.json`; returns where, and what mattered or why it is not said."""
    title = f"What mattered in {search.out.name}"
    metric, mode = search.settings.metric, search.settings.mode
    found = write_report(search.out, search.out, metric=metric, mode=mode, title=title)
    return {name: found[name] for name in ("report", "important", "refused")}


def _status(trial: Trial) -> str:
    return "stopped" if trial.status == "open" else trial.status


def _metric(trial: Trial, mode: str) -> float:
    return math.nan if trial.status == "failed" else trial.best(mode)


def _error(trial: Trial) -> str | None:
    return trial.errors[-1] if trial.status == "failed" else None


def _column(values: list[Any]) -> pa.Array:
    """Numbers, switches or texts; a mixture of them as texts."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds != {int}:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([str(value) for value in values], pa.string())
    return pa.array(values)


def run_search(kind: Kind, flags: JobSettings) -> dict[str, Any]:
    """Runs the search that a job's flags describe, or goes on with it."""
    values = flags.model_dump()
    settings = SearchSettings.model_validate(_only(values, SearchSettings))
    # The report is written after all trials: what it needs is asked for before the first.
    require_extra("tune", *report.NEEDS, *(["optuna"] if settings.algorithm == "tpe" else []))
    base = _only(values, kind.settings)
    for name in kind.paths:
        if base[name] is not None:
            base[name] = absolute(base[name])
    space = load_space(settings.space, kind, base, settings.metric)
    out = locate(absolute(values["out"]))
    out.make_directory()
    with _alone(out):
        search = Search(settings, space, kind, out)
        sweep(search)
        prepare_environment()
        with ray_session(), search_display(search) as display:

            def notify() -> None:
                display.update()
                sweep(search)
                write_tables(search)

            run_trials(search, notify)
        return finish(search)


def _only(values: dict[str, Any], cls: Any) -> dict[str, Any]:
    return {name: values[name] for name in cls.model_fields}


@contextmanager
def _alone(out: Location) -> Iterator[None]:
    """Refuses a second search in the same local directory; the lock ends with the process."""
    if not out.is_local:
        yield
        return
    with (Path(out.path) / "search.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{out.uri}: another search runs here; wait for it") from error
        yield


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

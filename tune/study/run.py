"""Run a study as a job: from its flags to the best model, the tables and the report."""

import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
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
from seqvis.cli.job import RayJobSettings
from seqvis.disk import take_lock
from seqvis.errors import ConfigError, TrainingError
from seqvis.storage import Location, absolute, locate
from seqvis.training.launch import run_directory
from tune.report.writing import NEEDS, write_report
from tune.study.ray_tune import prepare_environment, run_trials
from tune.study.records import Trial
from tune.study.settings import StudySettings, TunableModel
from tune.study.space import load_space
from tune.study.study import Study

_SHOWN = 12  # trials in the live table


def run_study(model: TunableModel, flags: RayJobSettings) -> dict[str, Any]:
    """Run the study that a job's flags describe, or continue it, and return the job's result."""
    values = flags.model_dump()
    settings = flags.part(StudySettings)
    # The report comes after all trials, but what it needs is checked before the first.
    require_extra("tune", *NEEDS, "optuna")
    from tune.study.optuna_storage import optuna_storage

    base = {key: values[key] for key in model.settings.model_fields}
    for name in model.paths:
        if base[name] is not None:
            base[name] = absolute(base[name])
    space = load_space(settings.space, model, base, settings.metric)
    out = locate(absolute(values["out"]))
    out.make_directory()
    with _lock(out):
        study = Study(settings, space, model, out)
        sweep(study)
        prepare_environment()
        with flags.ray_session(), _display(study) as update, optuna_storage(study) as store:

            def notify() -> None:
                update()
                sweep(study)
                write_tables(study)
                store()

            run_trials(study, notify)
        return finish(study)


def _lock(out: Location) -> AbstractContextManager[Any]:
    """Refuse a second search in the same local directory; the lock ends with the process."""
    if not out.is_local:
        return nullcontext()
    text = f"{out.uri}: another search runs here; wait for it"
    return take_lock(Path(out.path) / "search.lock", ConfigError, text)


def write_tables(study: Study) -> None:
    """Write `trials.parquet`, a row for each trial that ended or has results, and its history."""
    rows = [trial for trial in study.trials if trial.status != "open" or trial.results]
    mode = study.settings.mode
    failed = {trial.name for trial in rows if trial.status == "failed"}
    best = [math.nan if row.name in failed else row.best(mode) for row in rows]
    errors = [row.errors[-1] if row.name in failed else None for row in rows]
    columns = {
        "trial": pa.array([row.name for row in rows], pa.string()),
        "status": pa.array([row.status.replace("open", "stopped") for row in rows], pa.string()),
        "epochs": pa.array([row.epoch for row in rows], pa.int64()),
        "seconds": pa.array([round(row.seconds, 1) for row in rows], pa.float64()),
        "metric": pa.array(best, pa.float64()),
        "error": pa.array(errors, pa.string()),
        "parent": pa.array([row.origin and row.origin.donor for row in rows], pa.string()),
    }
    for path in (parameter.path for parameter in study.space.parameters):
        columns[f"config/{path}"] = _column([row.config[path] for row in rows])
    _write(study.out / "trials.parquet", columns)
    results = [(row.name, result) for row in rows for result in row.results]
    columns = {
        "trial": pa.array([name for name, _ in results], pa.string()),
        "epoch": pa.array([result.epoch for _, result in results], pa.int64()),
        "metric": pa.array([result.metric for _, result in results], pa.float64()),
        "seconds": pa.array([result.seconds for _, result in results], pa.float64()),
    }
    _write(study.out / "history.parquet", columns)


def _column(values: list[Any]) -> pa.Array:
    """Numbers, switches or texts; a mixture of them becomes texts."""
    types = {type(value) for value in values if value is not None}
    if types <= {int, float} and types != {int}:
        return pa.array(values, pa.float64())
    return pa.array([str(value) for value in values] if len(types) > 1 else values)


def _write(place: Location, columns: dict[str, pa.Array]) -> None:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    place.replace(content.getvalue())


def sweep(study: Study) -> None:
    """Delete the checkpoints of trials that ended, and all models but the best."""
    best = study.best()
    for trial in study.trials:
        if trial.status == "open" or trial.name in study.swept:
            continue
        model = study.records.model(trial.name)
        (run_directory(model) / "checkpoints").delete()
        (run_directory(model) / "ray").delete()
        if trial is not best:
            model.delete()
            study.swept.add(trial.name)


def finish(study: Study) -> dict[str, Any]:
    """Write what a study leaves behind, the report last, and return the job's result.

    Raises TrainingError if no trial has a result.
    """
    study.swept.clear()  # a stopped trial may have written again while it was leaving
    sweep(study)
    write_tables(study)
    best, out, mode = study.best(), study.out, study.settings.mode
    if best is None or not best.results:
        errors = [trial.errors[-1] for trial in study.trials if trial.errors]
        reason = errors[-1].splitlines()[-1] if errors else "the budget ended before an epoch did"
        raise TrainingError(f"{out.uri}: no trial has a result; the last error: {reason}")
    _write_best_settings(study, best)
    if best.status == "finished":
        _copy_model(study, best)
    report = _write_report(study)
    ends = [trial.status for trial in study.trials]
    return {
        "best_metric": best.best(mode),
        "trials": len(ends),
        "finished": ends.count("finished"),
        "stopped": ends.count("stopped"),
        "failed": ends.count("failed"),
        "unfinished": ends.count("open"),
        "best_trial": best.name,
        "best_config": best.config,
        "best_model": (out / "best").uri if best.status == "finished" else None,
        "settings": (out / "best.yaml").uri,
        **{name: report[name] for name in ("report", "important", "refused")},
        "out": out.uri,
    }


def _write_report(study: Study) -> dict[str, Any]:
    """Write the report of which settings mattered, and return what it says.

    The search is complete without it: if the report fails, log the command that makes it again;
    raise nothing.
    """
    out, settings = study.out, study.settings
    title = f"What mattered in {out.name}"
    try:
        return write_report(out, out, metric=settings.metric, mode=settings.mode, title=title)
    except Exception as error:
        problem = (
            f"the search is complete, but its report could not be written "
            f"({type(error).__name__}: {error}); make it again: "
            f"seqvis tune-report --trials {out.uri}"
        )
        print(f"warning: {problem}", file=sys.stderr, flush=True)
        return {"report": None, "important": [], "refused": [problem]}


def _write_best_settings(study: Study, best: Trial) -> None:
    model, out = study.model, study.out
    settings = study.space.settings(model, best.config, "out")
    tree = settings.model_dump(mode="json", exclude={"out", *model.paths}, exclude_none=True)
    lines = [
        f"# Trial {best.name} of {len(study.records)}: {study.settings.metric} "
        f"{best.best(study.settings.mode):.4f} after {best.epoch} epochs.",
        f"#   seqvis train-{model.artifact} --config {out.uri}/best.yaml … --out OUT",
        *(f"# {path}: {value}" for path, value in best.config.items()),
        yaml.safe_dump(tree, sort_keys=False, allow_unicode=True),
    ]
    (out / "best.yaml").replace("\n".join(lines).encode())


def _copy_model(study: Study, best: Trial) -> None:
    kind = study.model.artifact
    trained = artifacts.load(study.records.model(best.name), kind)
    with artifacts.create(study.out / "best", kind, trained.config) as writer:
        writer.metrics.update(trained.metrics)
        for name in trained.files:
            writer.path(name).write_bytes(trained.file(name).read_bytes())


@contextmanager
def _display(study: Study) -> Iterator[Callable[[], None]]:
    """Show the trials on standard error: a live table, or in a log a line for each event.

    Yields a function to call after each event.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
    if console.is_terminal:
        with Live(
            console=console, get_renderable=partial(_trials_table, study), refresh_per_second=1
        ):
            yield lambda: None
        return
    printed = {trial.name: _progress(trial) for trial in study.trials}

    def update() -> None:
        for trial in study.trials:
            if printed.get(trial.name) != _progress(trial):
                printed[trial.name] = _progress(trial)
                console.print(_line(study, trial), markup=False)

    yield update


def _trials_table(study: Study) -> Table:
    """Return the trials that run and the best of the others."""
    mode, ends = study.settings.mode, [trial.status for trial in study.trials]
    counts = ", ".join(f"{ends.count(end)} {end}" for end in ("finished", "stopped", "failed"))
    title = f"{len(ends)} trials, {len(study.running)} running, {counts}"
    table = Table(title=f"{title}, {study.seconds():,.0f} s", title_justify="left")
    for name in ("trial", "state", "epoch", study.settings.metric, "seconds", "settings"):
        table.add_column(name, justify="left" if name in ("state", "settings") else "right")
    running = [study.records[name] for name in study.running]
    others = [trial for trial in study.trials if trial.results and trial not in running]
    others.sort(key=lambda trial: study.settings.sign * trial.best(mode))
    for trial in [*running, *others][: max(_SHOWN, len(running))]:
        values = (f"{path.rsplit('.', 1)[-1]} {value}" for path, value in trial.config.items())
        table.add_row(*_cells(study, trial), "  ".join(values))
    return table


def _cells(study: Study, trial: Trial) -> list[str]:
    running = "running" if trial.name in study.running else "waiting"
    state = trial.status.replace("open", running)
    metric = f"{trial.best(study.settings.mode):.4f}" if trial.results else "-"
    return [trial.name, state, f"{trial.epoch}/{trial.epochs}", metric, f"{trial.seconds:,.0f}"]


def _line(study: Study, trial: Trial) -> str:
    name, state, epoch, metric, seconds = _cells(study, trial)
    error = trial.errors[-1:] if state in ("failed", "waiting") else []
    reason = "".join(f"  {text.splitlines()[-1]}" for text in error)
    line = f"{name}  {state:8}  epoch {epoch}  {study.settings.metric} {metric}"
    return f"{line}{reason}  {seconds} s"


def _progress(trial: Trial) -> tuple[int, str, int]:
    return trial.epoch, trial.status, len(trial.errors)

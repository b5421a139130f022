"""What the two search jobs share: from their settings to the result."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.ray_session import ray_session
from seqvis.config import JobSettings
from seqvis.errors import ConfigError
from seqvis.extras import require_extra
from seqvis.storage import Location, absolute, locate
from tune import report
from tune.search.display import search_display
from tune.search.kinds import Kind
from tune.search.outcome import finish, sweep, write_tables
from tune.search.running import prepare_environment, run_trials
from tune.search.settings import SearchSettings
from tune.search.space import load_space
from tune.search.state import Search


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

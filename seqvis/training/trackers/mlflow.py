"""MLflow: the server, or the database, that MLFLOW_TRACKING_URI names."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow

from seqvis.training.trackers.tracking import Run, Status

# By default a server that is down is waited for four minutes, and a run's address is printed where
# a job prints its result.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowTracker:
    """A run of the experiment that MLFLOW_EXPERIMENT_NAME names, by default of "Default".

    MLflow keeps the active run for each thread, so a run of the caller's own goes on beside it.
    """

    def begin(self, run: Run, known: str | None) -> str:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        active = mlflow.active_run()  # of this thread: an attempt that failed halfway
        active = active or mlflow.start_run(run_id=known, run_name=None if known else run.name)
        logged = active.data.params
        settings = {name: str(value) for name, value in run.settings.items()}
        mlflow.log_params({name: settings[name] for name in settings if name not in logged})
        # MLflow's parameters cannot change: what a run goes on with instead is a tag.
        changed = (name for name in settings if logged.get(name, settings[name]) != settings[name])
        mlflow.set_tags({**run.tags, **{f"now.{name}": settings[name] for name in changed}})
        run_id: str = active.info.run_id
        return run_id

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        prefix = f"{stage}/" if stage else ""
        mlflow.log_metrics({_name(prefix + name): value for name, value in values.items()}, step)

    def end(
        self, status: Status, results: Mapping[str, Any], kind: str, folder: Path | None
    ) -> None:
        for name, value in results.items():
            if isinstance(value, str):
                mlflow.set_tag(_name(f"best/{name}"), value)
            else:
                mlflow.log_metric(_name(f"best/{name}"), float(value))
        if folder is not None:
            mlflow.log_artifacts(str(folder), kind.replace(" ", "-"))
        mlflow.end_run(status.upper())


def _name(name: str) -> str:
    """Return the name as MLflow takes it: without @, which hit@5 has."""
    return re.sub(r"[^\w/.\- ]", "_at_", name)

"""Run a `Study` on Ray Tune.

Tune starts the processes and moves the results; the study decides and remembers. Tune's own
records of the experiment are deleted at the end.
"""

import logging
import math
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from seqvis.config import settings_from
from seqvis.errors import ConfigError, SeqvisError
from seqvis.process import keep_freed_memory
from seqvis.training.events import EPOCH_EVENTS, StopTraining
from seqvis.training.workers import Resources as WorkerResources
from tune.study.settings import MODELS, StudySettings
from tune.study.study import Study

_TRIAL_BYTES = 800 << 20  # of a trial's own process with PyTorch loaded, beside its workers
_LEAVING_SECONDS = 600  # that Tune waits for a stopped trial before it uses its process again

# Read by Ray when a process starts, or by Tune when it begins.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each trial's run directory has its own records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a search like any job
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints to standard output even with verbose=0
    "MALLOC_ARENA_MAX": "1",  # a trial trains in a thread: docs/train/translators.md, "On a CPU"
}


def prepare_environment() -> None:
    """Set Ray's environment variables; call it before Ray is started."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def run_trials(study: Study, notify: Callable[[], None]) -> None:
    """Run trials until the study has no more, and call `notify` after each event.

    Raises ConfigError if the cluster cannot run a single trial.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    resources = Resources(study.settings, ray.cluster_resources())
    storage = study.out / "tune"
    storage.delete()
    tuner = tune.Tuner(
        tune.with_resources(run_trial, resources.trial),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=_Proposals(study, resources),
            scheduler=_Decisions(study, notify),
            # A worker group of Ray Train ends only with the process that began it.
            reuse_actors=study.settings.num_workers == 0,
            trial_dirname_creator=lambda trial: f"{trial.config['trial']}-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=storage.uri, stop=_Budget(study), verbose=0
        ),
    )
    tuner.fit()
    storage.delete()


class Resources:
    """What a trial gets of the cluster, from the settings and what the cluster has."""

    def __init__(self, settings: StudySettings, available: dict[str, float]):
        """Divide what is `available`. Raises ConfigError if one machine lacks it for one trial."""
        workers = max(1, settings.num_workers)
        cpus, gpus = available.get("CPU", 1.0), available.get("GPU", 0.0)
        fitting = cpus / (workers * max(1, settings.cpus_per_worker))
        if settings.use_gpu:
            fitting = min(fitting, gpus / settings.gpus_per_trial)
        self.concurrent = settings.max_concurrent or max(1, math.floor(fitting + 1e-9))
        share = math.floor(cpus / (workers * self.concurrent))
        cpus_per_worker = settings.cpus_per_worker or max(1, share)
        self.workers = {
            "workers": settings.num_workers,
            "gpu": settings.use_gpu,
            "cpus_per_worker": cpus_per_worker,
            "gpus_per_worker": settings.gpus_per_worker,
        }
        # The workers take the processors; the process that starts them needs memory only.
        self.trial: dict[str, float] = {"memory": _TRIAL_BYTES}
        if settings.num_workers == 0:
            self.trial = {"CPU": cpus_per_worker}
            if settings.use_gpu:
                self.trial["GPU"] = settings.gpus_per_worker
        for name, amount in self.trial.items():
            if amount > available.get(name, 0) and len(ray.nodes()) == 1:
                raise ConfigError(
                    f"a trial needs {amount:g} {name}, this Ray has {available.get(name, 0):g}"
                    + ("; leave out --use-gpu" if name == "GPU" else "; set --cpus-per-worker")
                )


class _NotSaved:
    """Gives Tune nothing to save: a study is restored from its own records."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Proposals(_NotSaved, Searcher):
    """Gives Tune the study's next trial, as long as fewer than `concurrent` run."""

    def __init__(self, study: Study, resources: Resources):
        super().__init__()
        self.study, self.resources = study, resources

    def suggest(self, trial_id: str) -> Any:
        """Return what `run_trial` needs, None for no trial at present, or Searcher.FINISHED."""
        study = self.study
        if len(study.running) >= self.resources.concurrent:
            return None
        trial = study.next()
        if trial is None:
            return None if study.running else Searcher.FINISHED
        return {
            "trial": trial.name,
            "model": study.model.artifact,
            "settings": study.space.tree(trial.config, study.records.model(trial.name).uri),
            "metric": study.settings.metric,
            "epoch": trial.epoch,
            "until": study.until(trial),
            "epochs": trial.epochs,
            "stage": study.model.stage,
            "workers": self.resources.workers,
        }

    def on_trial_complete(self, trial_id: str, *_: Any, **__: Any) -> None:
        """Do nothing: `_Decisions` has informed the study."""

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # Tune expects a file

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: Tune never calls it, because each session begins a new Tuner."""


class _Decisions(_NotSaved, FIFOScheduler):
    """Passes what trials report on to the study, and its decision back."""

    def __init__(self, study: Study, notify: Callable[[], None]):
        super().__init__()
        self.study, self.notify = study, notify

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name, event = trial.config["trial"], result.get("event")
        continues = False
        if event == "epoch":
            continues = self.study.result(name, *result["values"])
        elif event == "paused":
            self.study.paused(name)
        elif event == "finished":
            self.study.finished(name)
        else:
            self.study.failed(name, str(result.get("error")))
        self.notify()
        return str(TrialScheduler.CONTINUE if continues else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = str(trial.get_error() or "its process died")
        self.study.failed(trial.config["trial"], error.strip().splitlines()[-1])
        self.notify()


class _Budget(_NotSaved, Stopper):
    """Ends all trials when a budget is used up."""

    def __init__(self, study: Study):
        self.study = study

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.study.over()


def run_trial(config: dict[str, Any]) -> None:
    """Train a trial until it ends, pauses or is stopped: the function that Tune runs."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_LEAVING_SECONDS)
    process = _TrialProcess(config)
    try:
        process.train()
    except Exception as error:
        if not process.stopped:  # an error while leaving does not matter
            whole = "".join(traceback.format_exception(error)).strip()
            message = str(error) if isinstance(error, SeqvisError) else whole
            process.report({"event": "failed", "error": message})
    if process.stopped:
        raise SystemExit(0)  # which Tune expects of a function that it stopped


class _TrialProcess:
    """Trains and reports each epoch to Tune, which answers whether to continue.

    An error is reported as a result, because the study decides whether to try again.
    """

    def __init__(self, config: dict[str, Any]):
        self.config = config
        self.reported: int = config["epoch"]
        self.stopped = False
        self.last: dict[str, Any] | None = None  # the row at which the trial pauses

    def train(self) -> None:
        model, resources = MODELS[self.config["model"]], WorkerResources(**self.config["workers"])
        if resources.workers == 0:
            torch.set_num_threads(max(1, resources.cpus_per_worker))
            keep_freed_memory()
        settings = settings_from(model.settings, self.config["settings"], "the proposed settings")
        model.train(settings, self._listen, resources, stoppable=True)
        if self.last is not None:
            self._report_epoch(self.last)
            self.report({"event": "paused"})
        elif not self.stopped:
            self.report({"event": "finished"})

    def _listen(self, event: dict[str, Any]) -> None:
        if event["event"] not in EPOCH_EVENTS or event.get("stage", "") != self.config["stage"]:
            return
        until = self.config["until"]
        for row in event["history"]:
            if row["epoch"] >= until and until < self.config["epochs"]:
                self.last = row  # reported when its checkpoint is on the disk
                raise StopTraining
            self._report_epoch(row)
            if self.stopped:
                raise StopTraining

    def _report_epoch(self, row: dict[str, Any]) -> None:
        metric = self.config["metric"]
        if row["epoch"] > self.reported and metric in row:  # fit complains of an unknown metric
            self.reported = row["epoch"]
            values = (row["epoch"], float(row[metric]), float(row["seconds"]))
            self.report({"event": "epoch", "values": values})

    def report(self, result: dict[str, Any]) -> None:
        try:
            tune.report(result)
        except SystemExit:
            self.stopped = True

"""Ray Tune at work for a `Search`: its processes, its loop, nothing of its memory.

Tune asks `_Proposals` for trials and tells `_Judge` what they report; both only pass it on. Tune's
own records of the experiment are deleted at the end, since the search's are what it goes on from.
"""

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from seqvis.errors import ConfigError
from tune.search.settings import SearchSettings
from tune.search.state import Search
from tune.search.trial import Work, run_trial

Notify = Callable[[], None]

_TRIAL_BYTES = 800 << 20  # of a trial's own process, PyTorch loaded, beside its workers

# Read by Ray when a process starts, or by Tune when it begins.
_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # each trial's run directory has its own records
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends a search like any job
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # which prints to standard output even when told to be silent
    "MALLOC_ARENA_MAX": "1",  # a trial trains in a thread: docs/training.md, "On a CPU"
}


def prepare_environment() -> None:
    """To be called before Ray is started; a running one keeps what it was started with."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def run_trials(search: Search, notify: Notify) -> None:
    """Runs trials until the search has no more, calling `notify` after each thing that happens.

    Raises ConfigError if the cluster cannot run a single one.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    means = Means(search.settings, ray.cluster_resources())
    proposals = _Proposals(search, means)
    storage = search.out / "tune"
    storage.delete()
    tuner = tune.Tuner(
        tune.with_resources(run_trial, means.resources),
        tune_config=tune.TuneConfig(
            num_samples=-1,
            search_alg=proposals,
            scheduler=_Judge(search, notify),
            # A worker group of Ray Train ends only with the process that began it.
            reuse_actors=means.num_workers == 0,
            trial_dirname_creator=_directory_name,
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=storage.uri, stop=_Over(search), verbose=0
        ),
    )
    tuner.fit()
    storage.delete()


class Means:
    """The processes and processors of a trial, from the settings and what the cluster has."""

    def __init__(self, settings: SearchSettings, have: dict[str, float]):
        self.num_workers = settings.num_workers
        workers = max(1, settings.num_workers)
        self.use_gpu, self.gpus_per_worker = settings.use_gpu, settings.gpus_per_worker
        cpus, gpus = have.get("CPU", 1.0), have.get("GPU", 0.0)
        fitting = cpus / (workers * max(1, settings.cpus_per_worker))
        if settings.use_gpu:
            fitting = min(fitting, gpus / settings.gpus_per_trial)
        self.concurrent = settings.max_concurrent or max(1, math.floor(fitting + 1e-9))
        share = math.floor(cpus / (workers * self.concurrent))
        self.cpus_per_worker = settings.cpus_per_worker or max(1, share)
        # The workers take the processors; what begins them needs memory only.
        self.resources: dict[str, float] = {"memory": _TRIAL_BYTES}
        if settings.num_workers == 0:
            self.resources = {"CPU": self.cpus_per_worker}
            if settings.use_gpu:
                self.resources["GPU"] = settings.gpus_per_worker
        for name, amount in self.resources.items():
            if amount > have.get(name, 0) and len(ray.nodes()) == 1:
                raise ConfigError(
                    f"a trial needs {amount:g} {name}, this Ray has {have.get(name, 0):g}"
                    + ("; leave out --use-gpu" if name == "GPU" else "; set --cpus-per-worker")
                )


class _Proposals(Searcher):
    """Gives Tune the search's next trial, at most so many at a time."""

    def __init__(self, search: Search, means: Means):
        super().__init__()
        self.search, self.means = search, means

    def suggest(self, trial_id: str) -> Any:
        """The next trial, None for none at present, or Searcher.FINISHED."""
        search = self.search
        if len(search.running) >= self.means.concurrent:
            return None
        trial = search.next()
        if trial is None:
            return None if search.running else Searcher.FINISHED
        out = search.records.model(trial.name).uri
        work = Work(
            trial=trial.name,
            kind=search.kind.artifact,
            settings=search.space.tree(trial.config, out),
            metric=search.settings.metric,
            reported=trial.epoch,
            until=search.until(trial),
            epochs=trial.epochs,
            num_workers=self.means.num_workers,
            use_gpu=self.means.use_gpu,
            cpus_per_worker=self.means.cpus_per_worker,
            gpus_per_worker=self.means.gpus_per_worker,
        )
        return work.as_config()

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The judge knows."""

    def save(self, checkpoint_path: str) -> None:
        """Tune wants a file; the search's records are what counts."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a search begins a new Tuner each time."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Judge(FIFOScheduler):
    """Passes what trials report on to the search, and its decision back."""

    def __init__(self, search: Search, notify: Notify):
        super().__init__()
        self.search, self.notify = search, notify

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name, event = trial.config["trial"], result.get("event")
        go_on = False
        if event == "epoch":
            go_on = self.search.result(name, result["epoch"], result["metric"], result["seconds"])
        elif event == "paused":
            self.search.paused(name)
        elif event == "finished":
            self.search.finished(name)
        else:
            self.search.failed(name, str(result.get("error")))
        self.notify()
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        error = trial.get_error()
        lines = str(error).strip().splitlines() if error else ["its process died"]
        self.search.failed(trial.config["trial"], lines[-1])
        self.notify()

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Over(Stopper):
    """Ends everything when a budget is used up."""

    def __init__(self, search: Search):
        self.search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.search.over()

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _directory_name(trial: Any) -> str:
    return f"{trial.config['trial']}-{trial.trial_id}"

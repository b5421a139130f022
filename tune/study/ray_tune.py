"""Ray Tune at work for a `Search`: its processes, its loop, nothing of its memory.

Tune asks `_Proposals` for trials and tells `_Judge` what they report; both only pass it on. Tune's
own records of the experiment are deleted at the end, since the search's are what it goes on from.

What the process of one trial does: the training job's own function, reporting to Ray Tune.

Each epoch's row goes to Tune, which answers by letting the trial go on or not. An error is
reported as the trial's result: whether to try again is the search's to decide, which remembers it.
"""

import logging
import math
import os
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
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
from seqvis.training.fit import DECISIVE, RunStopped
from tune.study.settings import KINDS, SearchSettings
from tune.study.study import Search

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


# How long Tune waits for a stopped trial to leave a process that the next one is to use.
_LEAVING_SECONDS = 600


@dataclass(frozen=True)
class Work:
    """All that a trial's process is told."""

    trial: str
    kind: str
    settings: dict[str, Any]
    metric: str
    reported: int  # epochs that the search knows
    until: int  # epoch at which to pause
    epochs: int
    num_workers: int
    use_gpu: bool
    cpus_per_worker: int
    gpus_per_worker: float

    def as_config(self) -> dict[str, Any]:
        """For Tune, which passes plain dicts on."""
        return asdict(self)


def run_trial(config: dict[str, Any]) -> None:
    """Ray Tune's function: trains until the end, the pause or the stop."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_LEAVING_SECONDS)
    _Sitting(Work(**config)).run()


class _Sitting:
    def __init__(self, work: Work):
        self.work = work
        self.reported = work.reported
        self.stopped = False
        self.last: dict[str, Any] | None = None  # the row at which the trial pauses

    def run(self) -> None:
        try:
            self._train()
        except Exception as error:
            if not self.stopped:  # else what it did on its way out does not matter
                self._tell({"event": "failed", "error": _describe(error)})
        if self.stopped:
            raise SystemExit(0)  # what Tune expects of a function that it stopped

    def _train(self) -> None:
        work = self.work
        kind = KINDS[work.kind]
        if work.num_workers == 0:
            torch.set_num_threads(max(1, work.cpus_per_worker))
            keep_freed_memory()
        settings = settings_from(kind.settings, work.settings, "the proposed settings")
        kind.train(
            settings,
            self._listen,
            work.num_workers,
            work.use_gpu,
            work.cpus_per_worker,
            gpus_per_worker=work.gpus_per_worker,
            stoppable=True,
        )
        if self.last is not None:
            self._tell_epoch(self.last)
            self._tell({"event": "paused"})
        elif not self.stopped:
            self._tell({"event": "finished"})

    def _listen(self, event: dict[str, Any]) -> None:
        if event["event"] not in DECISIVE:
            return
        for row in event["history"]:
            if self.work.until < self.work.epochs and row["epoch"] >= self.work.until:
                self.last = row  # told when its checkpoint is on the disk
                raise RunStopped
            self._tell_epoch(row)
            if self.stopped:
                raise RunStopped

    def _tell_epoch(self, row: dict[str, Any]) -> None:
        if row["epoch"] > self.reported and self.work.metric in row:  # fit names a wrong one
            self.reported = row["epoch"]
            metric, seconds = float(row[self.work.metric]), float(row["seconds"])
            self._tell(
                {"event": "epoch", "epoch": row["epoch"], "metric": metric, "seconds": seconds}
            )

    def _tell(self, result: dict[str, Any]) -> None:
        try:
            tune.report(result)
        except SystemExit:
            self.stopped = True


def _describe(error: Exception) -> str:
    if isinstance(error, SeqvisError):
        return str(error)
    return "".join(traceback.format_exception(error)).strip()

"""What the process of one trial does: the training job's own function, reporting to Ray Tune.

Each epoch's row goes to Tune, which answers by letting the trial go on or not. An error is
reported as the trial's result: whether to try again is the search's to decide, which remembers it.
"""

import os
import traceback
from dataclasses import asdict, dataclass
from typing import Any

import torch
from ray import tune

from seqvis.allocator import keep_freed_memory
from seqvis.config import settings_from
from seqvis.errors import SeqvisError
from seqvis.training.fit import DECISIVE, RunStopped
from tune.search.kinds import KINDS

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

"""From settings to a trained artifact: what every kind of training does around its workers.

The files that a run needs to resume are next to the result, in `OUT.run/`: checkpoints,
metrics.csv, curves.png, tensorboard/. The records are rewritten from the whole history, so that a
resumed run has no gap and no duplicates. That takes one or two seconds, so it is done after an
epoch at most every twenty seconds, and at the end.
"""

import csv
import io
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqvis.artifacts import MANIFEST
from seqvis.checks import require_extra
from seqvis.cluster import Session
from seqvis.storage import Location
from seqvis.training.events import EPOCH_EVENTS, Report, StopTraining
from seqvis.training.trackers.tracking import TrackerName, tracked, tracker_names
from seqvis.training.workers import IN_THIS_PROCESS, Resources, Workers, this_worker

if TYPE_CHECKING:  # it loads Ray
    from seqvis.training.trial import Trial

WorkerFunction = Callable[[Any, Workers, Report], None]

SECONDS_BETWEEN = 20


class RunLog:
    """Writes the records of a run into its directory.

    `tensorboard`: also for TensorBoard, unless a tracker does.
    """

    def __init__(self, location: Location, tensorboard: bool = True):
        self.location, self.tensorboard = location, tensorboard
        self._history: list[dict[str, Any]] = []
        self._best_epoch: int | None = None
        self._written_at = time.monotonic()

    def note(self, history: list[dict[str, Any]], best_epoch: int | None) -> None:
        """Note the table of all epochs so far, and write it if the last time was long ago."""
        self._history, self._best_epoch = history, best_epoch
        if time.monotonic() - self._written_at > SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Write what was noted and not yet written."""
        if self._history:
            self._write(self._history)
            self._history = []
            self._written_at = time.monotonic()

    def _write(self, history: list[dict[str, Any]]) -> None:
        """Rewrite `metrics.csv`, `curves.png` and `tensorboard/`."""
        from seqvis.plots.figures import plot_curves  # matplotlib takes a second to load

        self.location.make_directory()
        (self.location / "metrics.csv").write_bytes(history_as_csv(history))
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "curves.png"
            plot_curves(picture, history, self._best_epoch)
            (self.location / "curves.png").write_bytes(picture.read_bytes())
            if self.tensorboard:
                self._write_tensorboard(Path(folder) / "tensorboard", history)

    def _write_tensorboard(self, folder: Path, history: list[dict[str, Any]]) -> None:
        if find_spec("tensorboard") is None:  # part of the extra `train`
            return
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        with SummaryWriter(str(folder)) as writer:
            for row in history:
                for name, value in row.items():
                    if name not in ("epoch", "step"):
                        writer.add_scalar(name, value, row["step"])
        place = self.location / "tensorboard"
        place.delete()
        place.make_directory()
        for file in folder.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        shutil.rmtree(folder)


def history_as_csv(history: list[dict[str, Any]]) -> bytes:
    """Return a line of names and a line for each epoch."""
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()


def launch(
    function: WorkerFunction,
    settings: Any,
    out: Location,
    report: Report,
    resources: Resources = IN_THIS_PROCESS,
    restart: bool = False,
    stoppable: bool = False,
    session: Session = nullcontext,
    trial: "Trial | None" = None,
    track: Sequence[TrackerName] = (),
) -> dict[str, Any]:
    """Train in the workers, keep the run's records, and return the model's metrics.

    Args:
        function: `function(settings, workers, report)` is called in each worker. The first one
            reports {"event": "done", "metrics": …} when the artifact is written.
        restart: delete the checkpoints of an earlier run.
        stoppable: `report` may raise StopTraining at an epoch, and the run then has no metrics.
            Ray Train's workers wait for `report` at each epoch's end.
        session: starts or joins Ray; without it, Ray must be initialised if there are workers.
        trial: tried where `resources` say no number of workers; `OUT.run` keeps what it finds.
        track: the experiment trackers that are shown the run.

    Raises:
        ConfigError: a tracker is unknown, or its package is not installed.
        Exception: what the workers raise.
    """
    run = run_directory(out)
    if restart:
        run.delete()
    elif (out / MANIFEST).exists() and not (run / "checkpoints").exists():
        text = f"{out.uri}: holds a finished model, which is replaced at the end; {run.uri} has no "
        report({"event": "note", "text": f"{text}checkpoint to go on from"})
    trackers = tracker_names(track)
    log = RunLog(run, "tensorboard" not in trackers)
    with tracked(trackers, settings, out, run, report) as report:

        def listen(event: dict[str, Any]) -> None:
            if event["event"] in EPOCH_EVENTS:
                log.note(event["history"], event["best_epoch"])
            report(event)

        try:
            done = in_workers(
                function, settings, run / "ray", listen, resources, stoppable, session, trial
            )
        except Exception:
            log.flush()
            raise
    # Not after an interruption: `ray job stop` leaves three seconds, and the next sitting, which
    # knows the whole history, writes them again.
    log.flush()
    return done


def in_workers(
    function: WorkerFunction,
    settings: Any,
    storage: Location,
    report: Report,
    resources: Resources,
    stoppable: bool,
    session: Session,
    trial: "Trial | None" = None,
) -> dict[str, Any]:
    """Call `function` in the workers and return the metrics that it reports to be done with.

    `storage` holds Ray Train's own records meanwhile; for the other arguments see `launch`.
    """
    done: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            done.update(event["metrics"])
        report(event)

    if resources.workers == 0:
        with suppress(StopTraining):
            function(settings, this_worker(resources.gpu), listen)
    else:
        alone = "; --num-workers 0 trains in this process, without Ray"
        require_extra("train", "ray", instead=alone)
        from seqvis.training.ray_train import run_workers  # importing Ray takes a second

        with session():
            if trial and resources.workers is None:
                from seqvis.training.trial import share_processors

                resources = share_processors(trial, resources, storage.parent(), report)
            run_workers(function, settings, listen, resources, storage, stoppable)
        storage.delete()
    return done


def run_directory(out: Location) -> Location:
    """Return `OUT.run`, beside the artifact."""
    return out.beside(".run")

"""Pass a training run on to experiment trackers: its settings, curves, and finally its artifact.

Each tracker works in a thread of its own: a slow server does not slow training down, and one that
fails does not end it. The run says so once, and rows of epochs that could not be sent are sent with
the next ones. `OUT.run/trackers/NAME.json` holds the id of the tracker's run and what it was sent,
so that a run that goes on continues there, without gaps or duplicates.
"""

import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from queue import Queue
from typing import Annotated, Any, Literal, Protocol, get_args

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from seqvis import __version__, artifacts
from seqvis.checks import require_extra
from seqvis.config import Settings
from seqvis.errors import ConfigError, DataError, redacted
from seqvis.storage import Location
from seqvis.training.events import EPOCH_EVENTS, Report

TrackerName = Literal["mlflow", "wandb", "tensorboard"]
TrackerNames = Annotated[
    tuple[TrackerName, ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]

Status = Literal["finished", "failed", "killed"]
SECONDS_BETWEEN = 5.0  # points of the curves within an epoch
SECONDS_TO_END = {"finished": 600.0, "failed": 30.0, "killed": 2.0}  # `ray job stop` leaves three


@dataclass(frozen=True)
class Run:
    """What a tracker is told about a run when it begins."""

    name: str
    settings: Mapping[str, Any]  # by dotted names, without those that are not set
    tags: Mapping[str, str]
    folder: Location  # OUT.run


class Tracker(Protocol):
    """An experiment tracker, which is used by one thread; any method may raise."""

    def begin(self, run: Run, known: str | None) -> str:
        """Begin a run, or go on with the one of the id `known`; return its id."""

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve. `stage`: of a training that has several, else ""."""

    def end(
        self, status: Status, results: Mapping[str, Any], kind: str, folder: Path | None
    ) -> None:
        """End the run. `results`: the best epoch's; `kind`, `folder`: the artifact, if there is
        one."""


def tracker_names(given: Any) -> tuple[TrackerName, ...]:
    """Return the names of trackers, of which one may stand alone. Raises ConfigError."""
    try:
        return TypeAdapter(TrackerNames).validate_python(given)
    except ValidationError as error:
        known = ", ".join(get_args(TrackerName))
        raise ConfigError(f"track: {given!r} is no tracker; choose from {known}") from error


def new_tracker(name: TrackerName) -> Tracker:
    """Raises ConfigError if the tracker's package is not installed."""
    require_extra("train" if name == "tensorboard" else "tracking", name)
    module = import_module(f"seqvis.training.trackers.{name}")
    tracker: Tracker = getattr(module, f"{name.capitalize()}Tracker")()
    return tracker


@contextmanager
def tracked(
    names: Sequence[TrackerName],
    settings: Settings,
    out: Location,
    folder: Location,
    report: Report,
) -> Iterator[Report]:
    """Yield a `report` whose events go to the trackers, too.

    Args:
        settings: of the run.
        out, folder: where the artifact will be, and OUT.run.

    Raises:
        ConfigError: an extra is missing.
    """
    if not names:
        yield report
        return
    tags = {"seqvis.version": __version__, "seqvis.out": redacted(out.uri)}
    run = Run(out.name, flattened(settings.model_dump(mode="json")), tags, folder)
    goes_on = (folder / "checkpoints").exists()
    feeds = [_Feed(name, new_tracker(name), run, goes_on) for name in dict.fromkeys(names)]
    results: dict[str, Any] = {}

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            results.update(flattened(event["metrics"]))
        for feed in feeds:
            feed.take(event)
            feed.complain(report)
        report(event)

    status: Status = "killed"  # also if `report` stops it at an epoch
    try:
        yield listen
        status = "finished" if results else "killed"
    except Exception:
        status = "failed"
        raise
    finally:
        with tempfile.TemporaryDirectory() as temporary:
            end = partial(_end, out, Path(temporary), status, results)
            for feed in feeds:
                feed.close(end, status)
            for feed in feeds:
                feed.wait(SECONDS_TO_END[status])
                feed.complain(report)


def _end(
    out: Location, temporary: Path, status: Status, results: Mapping[str, Any], tracker: Tracker
) -> None:
    if status != "finished":
        tracker.end(status, results, "", None)
        return
    artifact = artifacts.load(out, artifacts.kind_of(out), verify=False)
    copy = Path(tempfile.mkdtemp(dir=temporary))
    tracker.end(status, results, artifact.kind, artifact.local_copy(copy))


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree by dotted names: lists as JSON, without those that are None."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            values |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            values[prefix + name] = redacted(value)
        elif value is not None:
            plain = isinstance(value, (bool, int, float))
            values[prefix + name] = value if plain else json.dumps(value, ensure_ascii=False)
    return values


@dataclass
class _Sent:
    """What a tracker has of a run; by stage."""

    id: str | None = None
    epochs: dict[str, int] = field(default_factory=dict)  # how many
    steps: dict[str, int] = field(default_factory=dict)  # the last one


def _read(place: Location) -> _Sent:
    try:
        return TypeAdapter(_Sent).validate_json(place.read_bytes())
    except (DataError, ValidationError):  # there is none, or it is damaged
        return _Sent()


class _Feed:
    """The thread of one tracker, and what waits for it."""

    def __init__(self, name: TrackerName, tracker: Tracker, run: Run, goes_on: bool):
        self.name, self.tracker, self.run = name, tracker, run
        self._place = run.folder / "trackers" / f"{name}.json"
        self._sent = _read(self._place) if goes_on else _Sent()
        self._began = False
        self._problem = ""
        self._complained = False
        self._due = 0.0
        self._histories: dict[str, list[dict[str, Any]]] = {}  # of the stages
        self._calls: Queue[Callable[[], None] | None] = Queue()
        self._thread = threading.Thread(target=self._work, name=f"track-{name}", daemon=True)
        self._thread.start()

    def take(self, event: dict[str, Any]) -> None:
        """Queue what the tracker shows of an event."""
        stage = event.get("stage", "")
        if event["event"] in EPOCH_EVENTS:
            self._histories[stage] = list(event["history"])
            self._calls.put(self._send_epochs)
        elif event["event"] == "progress" and self._has_time_for(event):
            self._due = time.monotonic() + SECONDS_BETWEEN
            self._calls.put(partial(self._send_step, stage, event))

    def _has_time_for(self, progress: Mapping[str, Any]) -> bool:
        before_the_last = progress["position"] < progress["steps"]  # the epoch's row follows that
        return before_the_last and self._calls.empty() and time.monotonic() > self._due

    def complain(self, report: Report) -> None:
        """Report, once, that the tracker has failed."""
        if self._problem and not self._complained:
            self._complained = True
            report({"event": "note", "text": self._problem})

    def close(self, end: Callable[[Tracker], None], status: Status) -> None:
        """Let the tracker take what waits, unless time is short, and then end the run."""
        if status == "killed":
            with self._calls.mutex:
                self._calls.queue.clear()
        else:
            self._calls.put(self._send_epochs)
        self._calls.put(partial(end, self.tracker))
        self._calls.put(None)

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._problem = (
                f"--track {self.name}: has not taken everything within {seconds:g} s; it may lack "
                f"the last points, and the artifact"
            )

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                if not self._began:
                    self._sent.id = self.tracker.begin(self.run, self._sent.id)
                    self._began = True
                    self._save()
                call()
            except Exception as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                self._problem = (
                    f"--track {self.name}: {lines[0]:.300}; the training does not need it and goes "
                    f"on, and epochs that it lacks are sent again with the next one"
                )

    def _send_epochs(self) -> None:
        for stage, history in list(self._histories.items()):
            for row in history[self._sent.epochs.get(stage, 0) :]:
                values = {name: value for name, value in row.items() if name != "step"}
                self.tracker.log(stage, row["step"], values)
                self._sent.epochs[stage] = row["epoch"]
                self._save()

    def _send_step(self, stage: str, event: Mapping[str, Any]) -> None:
        step: int = event["step"]
        if step <= self._sent.steps.get(stage, 0):
            return  # it was sent before an interruption
        names = ("smoothed_train_loss", "learning_rate", f"{event['unit']}_per_second")
        self.tracker.log(stage, step, {name: event[name] for name in names})
        self._sent.steps[stage] = step
        self._save()

    def _save(self) -> None:
        self._place.parent().make_directory()
        self._place.replace(json.dumps(asdict(self._sent), indent=1).encode())

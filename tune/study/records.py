"""The records of a study: one JSON file a trial, from which all other state is rebuilt.

`OUT/trials/NAME/trial.json` holds a trial's configuration, its results and how it ended. Proposals,
results and ends are numbered in the order in which they happened over all trials, so that replaying
them gives a new scheduler and a new sampler the state of the lost ones. Each event replaces one
file in one step: after a kill at any moment the records are consistent.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from seqvis.disk import replace_synced
from seqvis.errors import ArtifactError
from seqvis.storage import Location, storage_errors

Status = Literal["open", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Result:
    """The result of an epoch of a trial."""

    order: int
    epoch: int
    metric: float
    seconds: float  # of training, over all sessions


@dataclass(frozen=True)
class Origin:
    """Where a member of a population comes from."""

    donor: str  # the trial whose checkpoint it continued
    epoch: int  # epochs that the donor had done
    replaces: str  # the member that it replaced


@dataclass
class Trial:
    """A configuration and what became of it."""

    name: str
    order: int
    config: dict[str, Any]  # searched settings by dotted name
    epochs: int  # to train in all
    origin: Origin | None = None
    results: list[Result] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    status: Status = "open"
    ended: int | None = None  # order of its end
    seconds: float = 0.0  # over all sessions, including the start of its process

    @property
    def epoch(self) -> int:
        """Epochs done."""
        if self.results:
            return self.results[-1].epoch
        return self.origin.epoch if self.origin else 0

    def best(self, mode: str) -> float:
        """Best value of the metric; NaN without results."""
        pick = min if mode == "min" else max
        return pick((result.metric for result in self.results), default=math.nan)


_FORMAT = TypeAdapter(Trial)


class Records(dict[str, Trial]):
    """All trials of the study in `out` by name, in the order of their names."""

    def __init__(self, out: Location):
        """Read the records. Raises ArtifactError if one of them cannot be read."""
        super().__init__()
        self.out = out
        for folder in (out / "trials").children():
            if (folder / "trial.json").exists():
                self[folder.name] = _read(folder / "trial.json")
        self._order = max((order for order, _, _ in self.history()), default=0)

    def next_order(self) -> int:
        self._order += 1
        return self._order

    def next_name(self) -> str:
        return f"t{len(self) + 1:04d}"

    def add(self, config: dict[str, Any], epochs: int, origin: Origin | None = None) -> Trial:
        """Record a new trial, named by its number."""
        trial = Trial(self.next_name(), self.next_order(), config, epochs, origin)
        self[trial.name] = trial
        self.save(trial)
        return trial

    def save(self, trial: Trial) -> None:
        self.folder(trial.name).make_directory()
        place = self.folder(trial.name) / "trial.json"
        content = _FORMAT.dump_json(trial, indent=1)
        if not place.is_local:
            place.replace(content)
            return
        with storage_errors(place.uri):  # the only file that must survive a power cut as well
            replace_synced(Path(place.path), content)

    def folder(self, name: str) -> Location:
        return self.out / "trials" / name

    def model(self, name: str) -> Location:
        """Where a trial's training writes its artifact, and beside it its run directory."""
        return self.folder(name) / "model"

    def history(self) -> list[tuple[int, Trial, Result | None]]:
        """Return all events in order; a trial's proposal and its end have no result."""
        events: list[tuple[int, Trial, Result | None]] = []
        for trial in self.values():
            events.append((trial.order, trial, None))
            events += [(result.order, trial, result) for result in trial.results]
            if trial.ended is not None:
                events.append((trial.ended, trial, None))
        return sorted(events, key=lambda event: event[0])


def _read(location: Location) -> Trial:
    try:
        return _FORMAT.validate_json(location.read_bytes())
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ArtifactError(
            f"{location.uri}: is not a trial's record ({reason}); restore it from a copy, or "
            f"start again with another --out"
        ) from error

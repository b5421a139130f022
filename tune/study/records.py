"""The memory of a search: one JSON file a trial, from which everything else is made anew.

`OUT/trials/NAME/trial.json` holds the trial's configuration, its results and how it ended. Each is
numbered in the order in which it happened over all trials, so that replaying them brings a fresh
scheduler and a fresh searcher into the state of the ones that were lost. A file is replaced in one
step, and each thing that happens changes one file: a kill at any moment leaves a state that was.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from seqvis.disk import replace_synced
from seqvis.errors import ArtifactError
from seqvis.storage import Location, storage_errors

Status = Literal["open", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Result:
    """What one epoch of a trial gave."""

    order: int
    epoch: int
    metric: float
    seconds: float  # of training, over all sittings


@dataclass(frozen=True)
class Origin:
    """Where a member of a population comes from."""

    donor: str  # whose checkpoint it went on from
    epoch: int  # that the donor had done
    replaces: str  # whose place it took


@dataclass
class Trial:
    """One configuration and what became of it."""

    name: str
    order: int
    config: dict[str, Any]  # searched settings by dotted name
    epochs: int  # that it trains in all
    origin: Origin | None = None
    results: list[Result] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    status: Status = "open"
    ended: int | None = None
    seconds: float = 0.0  # that it ran, over all sittings, its start included

    @property
    def epoch(self) -> int:
        """Epochs done."""
        if self.results:
            return self.results[-1].epoch
        return self.origin.epoch if self.origin else 0

    def best(self, mode: str) -> float:
        """Best value of the metric; NaN if there is none."""
        values = [one.metric for one in self.results]
        if not values:
            return math.nan
        return min(values) if mode == "min" else max(values)


class Records:
    """All trials of a search, by name, on disk or in an object store."""

    def __init__(self, location: Location):
        """Reads what is there. Raises ArtifactError if a record cannot be read."""
        self.location = location
        self.trials: dict[str, Trial] = {}
        for folder in location.children():
            if (folder / "trial.json").exists():
                trial = _read(folder / "trial.json")
                self.trials[trial.name] = trial
        self._order = max((order for order, _, _ in self.history()), default=0)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials.values())

    def __len__(self) -> int:
        return len(self.trials)

    def __getitem__(self, name: str) -> Trial:
        return self.trials[name]

    def next_order(self) -> int:
        self._order += 1
        return self._order

    def next_name(self) -> str:
        return f"t{len(self.trials) + 1:04d}"

    def add(self, config: dict[str, Any], epochs: int, origin: Origin | None = None) -> Trial:
        """A new trial, named by its number."""
        name = self.next_name()
        trial = Trial(name, self.next_order(), config, epochs, origin)
        self.trials[name] = trial
        self.save(trial)
        return trial

    def save(self, trial: Trial) -> None:
        folder = self.folder(trial.name)
        folder.make_directory()
        place, content = folder / "trial.json", json.dumps(asdict(trial), indent=1).encode()
        if not place.is_local:
            place.replace(content)
            return
        with storage_errors(place.uri):  # the one file that must outlive a power cut as well
            replace_synced(Path(place.path), content)

    def folder(self, name: str) -> Location:
        return self.location / name

    def model(self, name: str) -> Location:
        """Where the trial's training writes its artifact, and beside it its run directory."""
        return self.folder(name) / "model"

    def history(self) -> list[tuple[int, Trial, Result | None]]:
        """All that happened, in order: a trial's proposal and its end have no result."""
        found: list[tuple[int, Trial, Result | None]] = []
        for trial in self:
            found.append((trial.order, trial, None))
            found += [(result.order, trial, result) for result in trial.results]
            if trial.ended is not None:
                found.append((trial.ended, trial, None))
        return sorted(found, key=lambda one: one[0])


def _read(location: Location) -> Trial:
    try:
        tree = json.loads(location.read_bytes())
        origin = tree.pop("origin")
        results = tree.pop("results")
        return Trial(
            **tree,
            origin=Origin(**origin) if origin else None,
            results=[Result(**one) for one in results],
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{location.uri}: is no record of a trial ({error}); copy it again from where it "
            f"came from, or begin anew in another --out"
        ) from error

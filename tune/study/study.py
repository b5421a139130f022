"""What a search knows and decides, without Ray's processes: which trial next, and which to stop.

`Search` is told what happens and writes it down before it answers. A new one on the same records
replays them and goes on: finished trials stay, interrupted ones are run again (from their own
checkpoints), early stopping and the sampler are where they were.
"""

import json
import math
import time

from seqvis.errors import ArtifactError, ConfigError
from seqvis.storage import Location
from tune.study.algorithms import Halving, Population, RandomSampler, Sampler, TpeSampler
from tune.study.records import Records, Result, Status, Trial
from tune.study.settings import Kind, SearchSettings
from tune.study.space import Space

FIRST_FAILURES = 3  # a search whose first so many trials all fail is given up


class Search:
    """A search in `out`, from its records."""

    def __init__(self, settings: SearchSettings, space: Space, kind: Kind, out: Location):
        """Goes on with what is there.

        Raises ConfigError if it was begun with other settings, ArtifactError if it is damaged.
        """
        self.settings, self.space, self.kind, self.out = settings, space, kind, out
        self.records = Records(out / "trials")
        self.running: dict[str, float] = {}  # names, and since when by the clock
        self.sampler = self._sampler()
        self.epochs = int(space.fixed.get("epochs", space.base["epochs"]))
        for parameter in space.parameters:
            if parameter.path == "epochs":
                self.epochs = int(max(parameter.values))
        self.halving: Halving | None = None
        self.population: Population | None = None
        if settings.algorithm == "pbt":
            self.population = Population(settings, space, kind, self.records, out)
        elif settings.early_stopping:
            self.halving = Halving(settings.mode, self.epochs, settings.grace, settings.reduction)
        self.earlier_seconds = self._check_identity()
        self._began = time.monotonic()
        self.swept: set[str] = set()  # trials whose leftovers are deleted
        self._ended_now: list[Status] = []  # how trials ended in this sitting
        self._replay()
        self.write_down()

    def _sampler(self) -> Sampler:
        settings = self.settings
        if settings.algorithm == "tpe":
            return TpeSampler(self.space, settings.seed, settings.mode)
        return RandomSampler(self.space, settings.seed)

    # What to do

    def next(self) -> Trial | None:
        """A trial to run now, an interrupted one first; None: none, until one that runs ends."""
        if self.over():
            return None
        trial = next((one for one in self.records if self._can_run(one)), None)
        if trial is None and self.population and not self.running:
            self.population.select()
            trial = next((one for one in self.records if self._can_run(one)), None)
        if trial is None and self._proposed() < self.settings.trials:
            trial = self._propose()
        if trial is not None:
            self.running[trial.name] = time.monotonic()
        return trial

    def until(self, trial: Trial) -> int:
        """The epoch after which the trial's present sitting ends."""
        return self.population.until(trial) if self.population else trial.epochs

    def over(self) -> bool:
        """Whether a budget is used up, or all of this sitting's first trials failed."""
        settings = self.settings
        if settings.hours is not None and self.seconds() > 3600 * settings.hours:
            return True
        used = sum(trial.seconds for trial in self.records) * settings.gpus_per_trial / 3600
        if settings.gpu_hours is not None and used > settings.gpu_hours:
            return True
        return self.hopeless()

    def hopeless(self) -> bool:
        """Whether this sitting's first trials all failed."""
        ended = self._ended_now
        return len(ended) >= FIRST_FAILURES and set(ended) == {"failed"}

    def seconds(self) -> float:
        """That the search took, over all sittings."""
        return self.earlier_seconds + time.monotonic() - self._began

    def best(self) -> Trial | None:
        """The best of the finished trials, or if there is none, of all."""
        candidates = [trial for trial in self.records if trial.status == "finished"]
        candidates = candidates or [trial for trial in self.records if trial.results]
        sign = 1.0 if self.settings.mode == "min" else -1.0
        return min(
            candidates, key=lambda trial: sign * trial.best(self.settings.mode), default=None
        )

    # What happened

    def result(self, name: str, epoch: int, metric: float, seconds: float) -> bool:
        """Takes an epoch's result; False: the trial is to stop."""
        trial = self.records[name]
        if trial.status != "open":
            return False
        if epoch <= trial.epoch:
            return True  # done again after an interruption
        if not math.isfinite(metric):
            self.failed(name, f"{self.settings.metric} is {metric} after epoch {epoch}")
            return False
        trial.results.append(Result(self.records.next_order(), epoch, metric, seconds))
        self._clock(trial)
        if self.halving and epoch < trial.epochs and self.halving.stops(name, epoch, metric):
            self._end(trial, "stopped")
            return False
        self._save(trial)
        return True

    def finished(self, name: str) -> None:
        """The trial trained to its end and its model is written."""
        self._end(self.records[name], "finished")

    def paused(self, name: str) -> None:
        """The trial's sitting ended where it was to end."""
        self._clock(self.records[name])
        self.running.pop(name, None)
        self._save(self.records[name])

    def failed(self, name: str, error: str) -> None:
        """An attempt failed; the trial is run again unless it had enough of them."""
        trial = self.records[name]
        if trial.status != "open" or name not in self.running:
            return
        trial.errors.append(error)
        if len(trial.errors) > self.settings.retries:
            self._end(trial, "failed")
        else:
            self.paused(name)

    # Within

    def _can_run(self, trial: Trial) -> bool:
        if trial.status != "open" or trial.name in self.running:
            return False
        return self.population is None or self.population.can_run(trial)

    def _proposed(self) -> int:
        return sum(trial.origin is None for trial in self.records)

    def _propose(self) -> Trial:
        number = self._proposed()
        config = self.sampler.propose(self.records.next_name(), number)
        return self.records.add(config, int(config.get("epochs", self.epochs)))

    def _end(self, trial: Trial, status: Status) -> None:
        self._clock(trial)
        self.running.pop(trial.name, None)
        trial.status, trial.ended = status, self.records.next_order()
        self._ended_now.append(status)
        self._save(trial)
        self._learn(trial)

    def _learn(self, trial: Trial) -> None:
        failed = trial.status == "failed" or not trial.results
        self.sampler.learn(trial.name, None if failed else trial.best(self.settings.mode))

    def _clock(self, trial: Trial) -> None:
        now = time.monotonic()
        if trial.name in self.running:
            trial.seconds += now - self.running[trial.name]
            self.running[trial.name] = now

    def _save(self, trial: Trial) -> None:
        self.records.save(trial)
        self.write_down()

    def write_down(self) -> None:
        """Writes `search.json` and, with ASHA, `rungs.json`."""
        settings = self.settings
        content = {
            "kind": self.kind.artifact,
            "metric": settings.metric,
            "mode": settings.mode,
            "space": self.space.as_dict(),
            "identity": self._identity(),
            "seconds": round(self.seconds(), 1),
        }
        (self.out / "search.json").replace(json.dumps(content, indent=1).encode())
        if self.halving:
            rungs = json.dumps(self.halving.rungs(), indent=1)
            (self.out / "rungs.json").replace(rungs.encode())

    def _identity(self) -> dict[str, object]:
        kept = self.space.base.keys() - self.kind.paths - {"out"}
        base = {key: self.space.base[key] for key in sorted(kept)}
        return {**self.settings.identity(), "base": base}

    def _check_identity(self) -> float:
        """Seconds of earlier sittings. Raises ConfigError if this is another search."""
        place = self.out / "search.json"
        if not place.exists():
            if len(self.records):
                raise ArtifactError(f"{place.uri}: is missing beside trials; choose another --out")
            return 0.0
        try:
            stored = json.loads(place.read_bytes())
        except ValueError as error:
            raise ArtifactError(f"{place.uri}: is not valid JSON; choose another --out") from error
        wanted = {**self._identity(), "space": self.space.as_dict()}
        found = {**stored["identity"], "space": stored["space"]}
        wanted = json.loads(json.dumps(wanted))
        differing = sorted(key for key in wanted if wanted[key] != found.get(key))
        if differing:
            raise ConfigError(
                f"{self.out.uri}: holds a search with another {', '.join(differing)}; "
                f"choose another --out, or give what it was begun with"
            )
        return float(stored["seconds"])

    def _replay(self) -> None:
        number = 0
        for order, trial, result in self.records.history():
            if order == trial.order and trial.origin is None:
                again = self.sampler.propose(trial.name, number)
                number += 1
                if again != trial.config:
                    raise ConfigError(
                        f"{self.records.folder(trial.name).uri}: {self.settings.algorithm} now "
                        f"proposes other settings (another version of Optuna or NumPy?); go on "
                        f"with the versions that the search was begun with, or in another --out"
                    )
            elif result is not None and self.halving and result.epoch < trial.epochs:
                self.halving.stops(trial.name, result.epoch, result.metric)
            elif order == trial.ended:
                self._learn(trial)

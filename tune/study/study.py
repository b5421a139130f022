"""The state and decisions of a study, without Ray's processes: what runs next and what stops.

`Study` records each event before it answers. A new one on the same records replays them and
continues: trials that ended stay, interrupted ones run again from their own checkpoints, and the
sampler and early stopping are where they were.
"""

import json
import math
import time

from seqvis.errors import ArtifactError, ConfigError
from seqvis.storage import Location
from tune.study.algorithms import Halving, Population, RandomSampler, TpeSampler
from tune.study.records import Records, Result, Status, Trial
from tune.study.settings import StudySettings, TunableModel
from tune.study.space import Space

FIRST_FAILURES = 3  # a study ends if this many trials fail before any other has ended


class Study:
    """A search for settings in `out`."""

    def __init__(self, settings: StudySettings, space: Space, model: TunableModel, out: Location):
        """Continue from the records in `out`, if there are any.

        Raises ConfigError if they were begun with other settings, ArtifactError if they are
        damaged.
        """
        self.settings, self.space, self.model, self.out = settings, space, model, out
        self.records = Records(out)
        self.running: dict[str, float] = {}  # the time at which each began
        self.epochs = int(space.given(model.epochs))
        for parameter in space.parameters:
            if parameter.path == model.epochs:
                self.epochs = int(max(parameter.values))
        self.sampler = RandomSampler(space, settings.seed)
        self.halving: Halving | None = None
        self.population: Population | None = None
        if settings.algorithm == "tpe":
            self.sampler = TpeSampler(space, settings.seed, settings.mode)
        if settings.algorithm == "pbt":
            self.population = Population(settings, space, model, self.records)
        elif settings.early_stopping:
            self.halving = Halving(settings, self.epochs)
        self.earlier_seconds = self._check_identity()
        self._began = time.monotonic()
        self.swept: set[str] = set()  # trials whose checkpoints and models are deleted
        self._ends: list[Status] = []  # of the trials that ended in this session
        self._replay()
        self._write()

    @property
    def trials(self) -> list[Trial]:
        return list(self.records.values())

    def next(self) -> Trial | None:
        """Start the next trial, an interrupted one first; None if there is none at present."""
        if self.over():
            return None
        trial = self._waiting()
        if trial is None and self.population and not self.running:
            self.population.select()
            trial = self._waiting()
        if trial is None:
            number = sum(proposed.origin is None for proposed in self.trials)
            if number < self.settings.trials:
                config = self.sampler.propose(self.records.next_name(), number)
                trial = self.records.add(config, int(config.get(self.model.epochs, self.epochs)))
        if trial is not None:
            self.running[trial.name] = time.monotonic()
        return trial

    def until(self, trial: Trial) -> int:
        """Return the epoch at which the trial pauses next, or ends."""
        return self.population.until(trial) if self.population else trial.epochs

    def over(self) -> bool:
        """Return whether a budget is used up or the study cannot improve."""
        hours, gpu_hours = self.settings.hours, self.settings.gpu_hours
        used = sum(trial.seconds for trial in self.trials) * self.settings.gpus_per_trial
        return (
            (hours is not None and self.seconds() > 3600 * hours)
            or (gpu_hours is not None and used > 3600 * gpu_hours)
            or self.cannot_improve()
        )

    def cannot_improve(self) -> bool:
        """Return whether the first trials of this session all failed."""
        return len(self._ends) >= FIRST_FAILURES and set(self._ends) == {"failed"}

    def seconds(self) -> float:
        """Return how long the study has run, over all sessions."""
        return self.earlier_seconds + time.monotonic() - self._began

    def best(self) -> Trial | None:
        """Return the best of the finished trials, or of all trials if none has finished."""
        trials = [trial for trial in self.trials if trial.status == "finished"]
        trials = trials or [trial for trial in self.trials if trial.results]
        sign, mode = self.settings.sign, self.settings.mode
        return min(trials, key=lambda trial: sign * trial.best(mode), default=None)

    def result(self, name: str, epoch: int, metric: float, seconds: float) -> bool:
        """Record an epoch's result and return whether the trial continues."""
        trial = self.records[name]
        if trial.status != "open":
            return False
        if epoch <= trial.epoch:
            return True  # repeated after an interruption
        if not math.isfinite(metric):
            self.failed(name, f"{self.settings.metric} is {metric} after epoch {epoch}")
            return False
        trial.results.append(Result(self.records.next_order(), epoch, metric, seconds))
        if self.halving and epoch < trial.epochs and self.halving.stops(name, epoch, metric):
            self._end(trial, "stopped")
            return False
        self._save(trial)
        return True

    def finished(self, name: str) -> None:
        """Record that the trial trained to its end and wrote its model."""
        self._end(self.records[name], "finished")

    def paused(self, name: str) -> None:
        """Record that the trial stopped where it had to pause."""
        self._save(self.records[name])
        self.running.pop(name, None)

    def failed(self, name: str, error: str) -> None:
        """Record a failed attempt; the trial runs again unless its retries are used up."""
        trial = self.records[name]
        if trial.status != "open" or name not in self.running:
            return
        trial.errors.append(error)
        if len(trial.errors) > self.settings.retries:
            self._end(trial, "failed")
        else:
            self.paused(name)

    def _waiting(self) -> Trial | None:
        for trial in self.trials:
            can_run = self.population is None or self.population.can_run(trial)
            if trial.status == "open" and trial.name not in self.running and can_run:
                return trial
        return None

    def _end(self, trial: Trial, status: Status) -> None:
        trial.status, trial.ended = status, self.records.next_order()
        self._ends.append(status)
        self._save(trial)
        self.running.pop(trial.name, None)
        self._learn(trial)

    def _learn(self, trial: Trial) -> None:
        failed = trial.status == "failed" or not trial.results
        self.sampler.learn(trial.name, None if failed else trial.best(self.settings.mode))

    def _save(self, trial: Trial) -> None:
        if trial.name in self.running:
            now = time.monotonic()
            trial.seconds += now - self.running[trial.name]
            self.running[trial.name] = now
        self.records.save(trial)
        self._write()

    def _write(self) -> None:
        """Write `search.json` and, with ASHA, `rungs.json`."""
        content = {
            "kind": self.model.artifact,
            "metric": self.settings.metric,
            "mode": self.settings.mode,
            "space": self.space.as_dict(),
            "identity": self._identity(),
            "seconds": round(self.seconds(), 1),
        }
        (self.out / "search.json").replace(json.dumps(content, indent=1).encode())
        if self.halving:
            rungs = json.dumps(self.halving.rungs(), indent=1)
            (self.out / "rungs.json").replace(rungs.encode())

    def _identity(self) -> dict[str, object]:
        kept = self.space.base.keys() - self.model.paths - {"out"}
        base = {key: self.space.base[key] for key in sorted(kept)}
        return {**self.settings.identity(), "base": base}

    def _check_identity(self) -> float:
        """Return the seconds of earlier sessions. Raises ConfigError if this is another study."""
        place = self.out / "search.json"
        if not place.exists():
            if len(self.records):
                raise ArtifactError(f"{place.uri}: is missing beside trials; choose another --out")
            return 0.0
        try:
            stored = json.loads(place.read_bytes())
        except ValueError as error:
            raise ArtifactError(f"{place.uri}: is not valid JSON; choose another --out") from error
        now = json.loads(json.dumps({**self._identity(), "space": self.space.as_dict()}))
        before = {**stored["identity"], "space": stored["space"]}
        differing = sorted(key for key in now if now[key] != before.get(key))
        if differing:
            raise ConfigError(
                f"{self.out.uri}: holds a search with another {', '.join(differing)}; "
                f"choose another --out, or use the values that it was begun with"
            )
        return float(stored["seconds"])

    def _replay(self) -> None:
        number = 0
        for order, trial, result in self.records.history():
            if order == trial.order and trial.origin is None:
                if self.sampler.propose(trial.name, number) != trial.config:
                    raise ConfigError(
                        f"{self.records.folder(trial.name).uri}: {self.settings.algorithm} now "
                        f"proposes other settings (another version of Optuna or NumPy?); continue "
                        f"with the versions that the search was begun with, or in another --out"
                    )
                number += 1
            elif result is not None and self.halving and result.epoch < trial.epochs:
                self.halving.stops(trial.name, result.epoch, result.metric)
            elif order == trial.ended:
                self._learn(trial)

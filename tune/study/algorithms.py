"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846), on the loop's checkpoints.

Ray Tune's own looks for checkpoints reported to Tune, and finds none: the loop keeps its own. Here
all members train `interval` epochs and pause. Then the worst are replaced: each by a new trial that
goes on from a copy of the checkpoint of one of the best, with settings moved a little. So a trial
has one configuration from its first epoch to its last, as with the other algorithms.

Members are compared only when all have paused: what is selected is a function of the seed and of
the results, not of which trial was faster. `population.json` holds who the members are; a selection
that was interrupted is done again, to the same effect.

Where new configurations come from: chance, or Optuna's tree-structured Parzen estimator.

Both are functions of the seed and of what they were told before, so that replaying a search's
records gives a sampler in the state of the one that was lost.

Early stopping by asynchronous successive halving (ASHA, Li et al. 2018, arXiv 1810.05934).

The decisions are Ray Tune's scheduler's. It is fed from the records, the old ones first, so that a
search that goes on has the rungs that it had: `Tuner.restore` would begin with empty ones.
"""

import json
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from seqvis.storage import Location
from tune.study.records import Origin, Records, Trial
from tune.study.settings import Kind, SearchSettings
from tune.study.space import Config, Parameter, Space

_RESAMPLED = 0.25  # probability that a setting is drawn anew instead of being moved
_FACTORS = (0.8, 1.2)  # that a number is multiplied by


class Population:
    """The members of a population and their selection."""

    def __init__(
        self, settings: SearchSettings, space: Space, kind: Kind, records: Records, out: Location
    ):
        self.settings, self.space, self.kind, self.records = settings, space, kind, records
        self._place = out / "population.json"
        self.generation = 0
        self.members: list[str] = []
        if self._place.exists():
            stored = json.loads(self._place.read_bytes())
            self.generation, self.members = stored["generation"], stored["members"]

    def until(self, trial: Trial) -> int:
        """The epoch at which the trial pauses, or ends."""
        return min(trial.epochs, (self.generation + 1) * self.settings.interval)

    def can_run(self, trial: Trial) -> bool:
        """Whether the trial has not yet paused in this generation, or can end."""
        if self.members and trial.name not in self.members:
            return False
        return trial.epoch < self.until(trial) or self.until(trial) == trial.epochs

    def select(self) -> None:
        """Begins the next generation, if all members have paused and it is not the last."""
        founders = [trial.name for trial in self.records if trial.origin is None]
        if len(founders) < self.settings.trials:
            return
        members = [self.records[name] for name in self.members or founders]
        if not any(trial.status == "open" for trial in members):
            return
        alive = [trial for trial in members if trial.status in ("open", "stopped")]
        by_rank = sorted(alive, key=self._rank)
        count = min(len(alive) // 2, max(1, round(len(members) * self.settings.quantile)))
        best = by_rank[: max(1, count)]
        worst = by_rank[len(by_rank) - count :]
        worst += [trial for trial in members if trial.status == "failed"]
        generator = np.random.default_rng([self.settings.seed, 1 << 20, self.generation])
        after = [trial.name for trial in members]
        for loser in worst:
            donor = best[int(generator.integers(len(best)))]
            config = self._moved(donor.config, generator)
            child = self._child(loser, donor, config)
            after[after.index(loser.name)] = child.name
        self.generation, self.members = self.generation + 1, after
        content = {"generation": self.generation, "members": after}
        self._place.replace(json.dumps(content).encode())

    def _rank(self, trial: Trial) -> float:
        metric = trial.results[-1].metric
        return metric if self.settings.mode == "min" else -metric

    def _child(self, loser: Trial, donor: Trial, config: Config) -> Trial:
        """The trial in the place of `loser`; the same one if the selection is done again."""
        origin = Origin(donor.name, donor.epoch, loser.name)
        child = next((trial for trial in self.records if trial.origin == origin), None)
        if child is None:
            name = self.records.next_name()
            out = self.records.model(name)
            settings = self.space.settings(self.kind, config, out.uri)
            checkpoints = self.kind.checkpoints(out)
            donors = self.kind.checkpoints(self.records.model(donor.name))
            checkpoints.adopt(donors, settings.identity())  # type: ignore[attr-defined]
            child = self.records.add(config, donor.epochs, origin)
        if loser.status == "open":
            loser.status, loser.ended = "stopped", self.records.next_order()
            self.records.save(loser)
        return child

    def _moved(self, config: Config, generator: np.random.Generator) -> Config:
        """`config` with each setting that a checkpoint allows moved a little, or drawn anew."""
        moved = dict(config)
        for parameter in self.space.parameters:
            if self.kind.can_change(parameter.path):
                moved[parameter.path] = _move(parameter, config[parameter.path], generator)
        return moved


def _move(parameter: Parameter, value: object, generator: np.random.Generator) -> object:
    if generator.random() < _RESAMPLED:
        return parameter.sample(generator)
    if parameter.form == "choice":  # the one before or after it
        place = parameter.values.index(value) + int(generator.choice((-1, 1)))
        return parameter.values[min(len(parameter.values) - 1, max(0, place))]
    assert isinstance(value, (int, float))
    return parameter.clean(value * float(generator.choice(_FACTORS)))


class Sampler(Protocol):
    """Proposes configurations and learns how trials ended."""

    def propose(self, name: str, number: int) -> Config:
        """The configuration of the `number`th trial, from 0."""

    def learn(self, name: str, metric: float | None) -> None:
        """A trial's best metric when it ended; None if it failed."""


class RandomSampler:
    """Independent draws; the `number`th is the same whatever happened before."""

    def __init__(self, space: Space, seed: int):
        self.space, self.seed = space, seed

    def propose(self, name: str, number: int) -> Config:
        return self.space.random(self.seed, number)

    def learn(self, name: str, metric: float | None) -> None:
        """Chance learns nothing."""


class TpeSampler:
    """Optuna's TPE through Ray Tune's OptunaSearch."""

    def __init__(self, space: Space, seed: int, mode: str):
        import optuna  # of the extra `tune`
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        domains: dict[str, Any] = {one.path: one.domain() for one in space.parameters}
        self.space = space
        self._search = OptunaSearch(
            OptunaSearch.convert_search_space(domains), metric="metric", mode=mode, seed=seed
        )

    def propose(self, name: str, number: int) -> Config:
        proposed = self._search.suggest(name)
        assert proposed is not None
        return {one.path: one.clean(proposed[one.path]) for one in self.space.parameters}

    def learn(self, name: str, metric: float | None) -> None:
        result = None if metric is None else {"metric": metric}
        self._search.on_trial_complete(name, result, error=metric is None)


class Halving:
    """ASHA over epochs."""

    def __init__(self, mode: str, epochs: int, grace: int, reduction: float):
        """`epochs`: the most that a trial trains."""
        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="metric",
            mode=mode,
            max_t=epochs + 1,  # a trial ends by itself, after writing its model
            grace_period=min(grace, epochs),
            reduction_factor=reduction,
        )
        self._known: dict[str, Any] = {}
        self._controller: Any = None  # Tune's, of which ASHA makes no use

    def stops(self, name: str, epoch: int, metric: float) -> bool:
        """Takes a trial's result and says whether the trial is to stop."""
        if name not in self._known:
            self._known[name] = SimpleNamespace(trial_id=name)
            self._scheduler.on_trial_add(self._controller, self._known[name])
        result = {"epoch": epoch, "metric": metric}
        decision = self._scheduler.on_trial_result(self._controller, self._known[name], result)
        return bool(decision == TrialScheduler.STOP)

    def rungs(self) -> dict[str, dict[str, float]]:
        """For each milestone, in epochs, the trials that reached it; greater is better."""
        bracket = self._scheduler._brackets[0]
        return {f"{milestone:g}": dict(recorded) for milestone, recorded in bracket._rungs}

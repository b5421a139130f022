"""How a study proposes trials and which it stops: samplers, ASHA and population-based training.

All of it is a function of the seed and of what it was given before, so that replaying a study's
records restores its state.
"""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from seqvis.ray_internals import asha_rungs
from tune.study.records import Origin, Records, Trial
from tune.study.settings import StudySettings, TunableModel
from tune.study.space import Config, Parameter, Space

_RESAMPLED = 0.25  # probability that a setting is drawn again instead of being moved
_FACTORS = (0.8, 1.2)  # for numbers that are moved


class RandomSampler:
    """Independent draws; the `number`th does not depend on the others."""

    def __init__(self, space: Space, seed: int):
        self.space, self.seed = space, seed

    def propose(self, name: str, number: int) -> Config:
        """Return the configuration of the `number`th trial, from 0."""
        return self.space.random(self.seed, number)

    def learn(self, name: str, metric: float | None) -> None:
        """Take the best metric of a trial that ended; None if it failed."""


class TpeSampler(RandomSampler):
    """Optuna's tree-structured Parzen estimator through Ray Tune's OptunaSearch."""

    def __init__(self, space: Space, seed: int, mode: str):
        import optuna  # part of the extra `tune`
        from ray.tune.search.optuna import OptunaSearch

        super().__init__(space, seed)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        domains: dict[str, Any] = {each.path: each.domain() for each in space.parameters}
        optuna_space = OptunaSearch.convert_search_space(domains)
        self._search = OptunaSearch(optuna_space, metric="metric", mode=mode, seed=seed)

    def propose(self, name: str, number: int) -> Config:
        proposed = self._search.suggest(name)
        assert proposed is not None
        return {each.path: each.clean(proposed[each.path]) for each in self.space.parameters}

    def learn(self, name: str, metric: float | None) -> None:
        result = None if metric is None else {"metric": metric}
        self._search.on_trial_complete(name, result, error=metric is None)


class Halving:
    """Asynchronous successive halving over epochs (ASHA, Li et al. 2018, arXiv 1810.05934).

    Ray Tune's scheduler decides. It is called directly instead of by Tune, because
    `Tuner.restore` would begin with empty rungs.
    """

    def __init__(self, settings: StudySettings, epochs: int):
        """Prepare the rungs of a study whose trials train at most `epochs` epochs."""
        self._scheduler = ASHAScheduler(
            time_attr="epoch",
            metric="metric",
            mode=settings.mode,
            max_t=epochs + 1,  # a trial ends by itself, after writing its model
            grace_period=min(settings.grace, epochs),
            reduction_factor=settings.reduction,
        )
        self._trials: dict[str, Any] = {}
        self._controller: Any = None  # Tune's, which ASHA does not use

    def stops(self, name: str, epoch: int, metric: float) -> bool:
        """Record a trial's result and return whether the trial must stop."""
        if name not in self._trials:
            self._trials[name] = SimpleNamespace(trial_id=name)
            self._scheduler.on_trial_add(self._controller, self._trials[name])
        result = {"epoch": epoch, "metric": metric}
        decision = self._scheduler.on_trial_result(self._controller, self._trials[name], result)
        return bool(decision == TrialScheduler.STOP)

    def rungs(self) -> dict[str, dict[str, float]]:
        """Return for each milestone in epochs the trials that reached it; greater is better."""
        return asha_rungs(self._scheduler)


class Population:
    """Population-based training (Jaderberg et al. 2017, arXiv 1711.09846).

    Ray Tune's scheduler moves checkpoints that were reported to Tune, but the training loop keeps
    its own. Here all members train `interval` epochs and pause. Then each of the worst is replaced
    by a new trial that continues from a copy of the checkpoint of one of the best, with settings
    moved a little. So a trial keeps one configuration, as with the other algorithms.

    Members are compared when all have paused, so that the selection does not depend on which was
    faster. `population.json` holds the members. A selection that was interrupted is repeated with
    the same result.
    """

    def __init__(
        self, settings: StudySettings, space: Space, model: TunableModel, records: Records
    ):
        self.settings, self.space, self.model, self.records = settings, space, model, records
        self._place = records.out / "population.json"
        self.generation = 0
        self.members: list[str] = []
        if self._place.exists():
            stored = json.loads(self._place.read_bytes())
            self.generation, self.members = stored["generation"], stored["members"]

    def until(self, trial: Trial) -> int:
        """Return the epoch at which the trial pauses, or ends."""
        return min(trial.epochs, (self.generation + 1) * self.settings.interval)

    def can_run(self, trial: Trial) -> bool:
        """Return whether the trial has not yet paused in this generation, or can end."""
        if self.members and trial.name not in self.members:
            return False
        return trial.epoch < self.until(trial) or self.until(trial) == trial.epochs

    def select(self) -> None:
        """Begin the next generation if all members have paused and it is not the last."""
        founders = [trial.name for trial in self.records.values() if trial.origin is None]
        members = [self.records[name] for name in self.members or founders]
        paused = [trial for trial in members if trial.status == "open"]
        if len(founders) < self.settings.trials or not paused:
            return
        alive = [trial for trial in members if trial.status in ("open", "stopped")]
        by_rank = sorted(alive, key=lambda trial: self.settings.sign * trial.results[-1].metric)
        count = min(len(alive) // 2, max(1, round(len(members) * self.settings.quantile)))
        best = by_rank[: max(1, count)]
        worst = by_rank[len(by_rank) - count :]
        worst += [trial for trial in members if trial.status == "failed"]
        generator = np.random.default_rng([self.settings.seed, 1 << 20, self.generation])
        names = [trial.name for trial in members]
        for loser in worst:
            donor = best[int(generator.integers(len(best)))]
            config = self._moved(donor.config, generator)
            names[names.index(loser.name)] = self._replace(loser, donor, config).name
        self.generation, self.members = self.generation + 1, names
        content = {"generation": self.generation, "members": names}
        self._place.replace(json.dumps(content).encode())

    def _replace(self, loser: Trial, donor: Trial, config: Config) -> Trial:
        """Stop `loser` and return the new trial in its place, or the one that already has it."""
        origin = Origin(donor.name, donor.epoch, loser.name)
        child = next((trial for trial in self.records.values() if trial.origin == origin), None)
        if child is None:
            out = self.records.model(self.records.next_name())
            settings: Any = self.space.settings(self.model, config, out.uri)
            donated = self.model.checkpoints(self.records.model(donor.name))
            self.model.checkpoints(out).adopt(donated, settings.identity())
            child = self.records.add(config, donor.epochs, origin)
        if loser.status == "open":
            loser.status, loser.ended = "stopped", self.records.next_order()
            self.records.save(loser)
        return child

    def _moved(self, config: Config, generator: np.random.Generator) -> Config:
        """Move each setting that a checkpoint is not bound to a little, or draw it again."""
        moved = dict(config)
        for parameter in self.space.parameters:
            if self.model.can_change(parameter.path):
                moved[parameter.path] = _move(parameter, config[parameter.path], generator)
        return moved


def _move(parameter: Parameter, value: Any, generator: np.random.Generator) -> Any:
    if generator.random() < _RESAMPLED:
        return parameter.sample(generator)
    if parameter.form == "choice":  # the one before or after it
        place = parameter.values.index(value) + int(generator.choice((-1, 1)))
        return parameter.values[min(len(parameter.values) - 1, max(0, place))]
    return parameter.clean(value * float(generator.choice(_FACTORS)))

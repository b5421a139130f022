"""Where new configurations come from: chance, or Optuna's tree-structured Parzen estimator.

Both are functions of the seed and of what they were told before, so that replaying a search's
records gives a sampler in the state of the one that was lost.
"""

from typing import Any, Protocol

from tune.search.space import Config, Space


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

"""Early stopping by asynchronous successive halving (ASHA, Li et al. 2018, arXiv 1810.05934).

The decisions are Ray Tune's scheduler's. It is fed from the records, the old ones first, so that a
search that goes on has the rungs that it had: `Tuner.restore` would begin with empty ones.
"""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler


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

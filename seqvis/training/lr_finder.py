"""The learning-rate finder: one short run whose rate grows from step to step.

It follows Smith 2015 (arXiv 1506.01186) in the form of fast.ai: the rate grows exponentially, the
loss is smoothed, and the run ends where the loss explodes. The suggestion is the rate at which the
smoothed loss falls fastest.
"""

import math
from dataclasses import replace
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from seqvis.cluster import Session
from seqvis.config import Settings
from seqvis.errors import TrainingError
from seqvis.storage import Location
from seqvis.training.events import Report
from seqvis.training.fit import FitSettings
from seqvis.training.launch import WorkerFunction, in_workers, run_directory
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import Task, TrainingStep
from seqvis.training.workers import Resources, Workers

_SMOOTHING = 0.95
_EXPLODED = 3.0  # times the best smoothed loss


class FinderSettings(Settings):
    """The rates that --find-lr tries, from the lowest to the highest by equal factors."""

    lowest: float = Field(1e-5, gt=0)
    """Rate of the first step."""
    highest: float = Field(1.0, gt=0)
    """Rate of the last step; the run ends before it where the loss explodes."""
    steps: int = Field(100, ge=10)
    """Steps, each on a batch."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.lowest >= self.highest:
            raise ValueError("lowest must be below highest")
        return self

    def rate(self, step: int) -> float:
        """Return the rate of a step, from 0."""
        return self.lowest * (self.highest / self.lowest) ** (step / (self.steps - 1))


def plot_rate_search(
    task: Task[Any],
    optimizer: OptimizerSettings,
    settings: FitSettings,
    finder: FinderSettings,
    workers: Workers,
    run: Location,
    report: Report,
) -> None:
    """Look for a learning rate, as the only worker, and draw the losses into the directory `run`.

    Reports {"event": "done"} with the suggested rate and the place of the plot as metrics. Raises
    TrainingError if the loss never falls.
    """
    training = TrainingStep(task, optimizer, settings.precision, settings.seed, workers)
    rates: list[float] = []
    losses: list[float] = []  # mean per token of each step
    smoothed: list[float] = []
    average = 0.0
    epoch, batches = 0, task.batches(0, 0, workers)
    for step in range(finder.steps):
        batch = next(batches, None)
        if batch is None:
            epoch += 1
            batches = task.batches(epoch, 0, workers)
            batch = next(batches)
        rate = finder.rate(step)
        result = training.step(batch, step, epoch, rate, optimizer.beta1)
        loss = float(result.total) / max(1, result.tokens)
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        corrected = average / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or (smoothed and corrected > _EXPLODED * min(smoothed)):
            break
        rates.append(rate)
        losses.append(loss)
        smoothed.append(corrected)
        shown = {"step": step + 1, "steps": finder.steps, "rate": rate, "loss": loss}
        report({"event": "finder", **shown})
    suggestion = _steepest(rates, smoothed)
    from seqvis.plots.figures import plot_learning_rates  # matplotlib takes a second to load

    run.make_directory()
    plot = run / "learning_rates.png"
    with plot.local_output() as path:
        plot_learning_rates(path, rates, losses, smoothed, suggestion)
    report({"event": "done", "metrics": {"learning_rate": suggestion, "plot": plot.uri}})


def find_in_worker(
    function: WorkerFunction,
    settings: Any,
    out: Location,
    report: Report,
    resources: Resources,
    session: Session,
) -> dict[str, Any]:
    """Call `function`, which calls `plot_rate_search`, where the first worker of a training would
    run; return the suggested rate and the place of the plot."""
    if resources.workers != 0:
        resources = replace(resources, workers=1, min_workers=0)
    storage = run_directory(out) / "finder"
    return in_workers(function, settings, storage, report, resources, False, session)


def _steepest(rates: list[float], smoothed: list[float]) -> float:
    if len(rates) < 3 or min(smoothed) >= smoothed[0]:
        raise TrainingError("the loss fell at no learning rate; check the data and the model")
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(np.array(smoothed[: max(3, lowest + 1)]))
    return float(f"{rates[int(np.argmin(slopes))]:.2g}")

"""The learning-rate finder: one short run whose rate grows from step to step.

It follows Smith 2015 (arXiv 1506.01186) in the form of fast.ai: the rate grows exponentially, the
loss is smoothed, and the run ends where the loss explodes. The suggestion is the rate at which the
smoothed loss falls fastest.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqvis.errors import TrainingError
from seqvis.storage import Location
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import Stepper, Task
from seqvis.training.workers import Workers, this_worker

_SMOOTHING = 0.95
_EXPLODED = 3.0  # times the best smoothed loss


@dataclass(frozen=True)
class RateSearch:
    """The rates and losses of a finder's run, and its suggestion."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]  # mean loss per token of each step
    smoothed: NDArray[np.float64]
    suggestion: float


def find_learning_rate(
    task: Task[Any],
    optimizer: OptimizerSettings,
    precision: str,
    seed: int,
    workers: Workers,
    report: Callable[[dict[str, Any]], None],
    lowest: float = 1e-5,
    highest: float = 1.0,
    steps: int = 100,
) -> RateSearch:
    """Trains for at most `steps` steps and suggests a learning rate.

    Raises TrainingError if the loss never falls.
    """
    stepper = Stepper(task, optimizer, precision, seed, workers)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    epoch, batches = 0, task.batches(0, 0, workers)
    for step in range(steps):
        batch = next(batches, None)
        if batch is None:
            epoch += 1
            batches = task.batches(epoch, 0, workers)
            batch = next(batches)
        rate = lowest * (highest / lowest) ** (step / (steps - 1))
        result = stepper.step(batch, step, epoch, rate, optimizer.beta1)
        loss = float(result.total) / max(1, result.tokens)
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        corrected = average / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or (smoothed and corrected > _EXPLODED * min(smoothed)):
            break
        rates.append(rate)
        losses.append(loss)
        smoothed.append(corrected)
        report({"event": "finder", "step": step + 1, "steps": steps, "rate": rate, "loss": loss})
    return RateSearch(
        np.array(rates), np.array(losses), np.array(smoothed), _steepest(rates, smoothed)
    )


def plot_rate_search(
    task: Task[Any],
    optimizer: OptimizerSettings,
    precision: str,
    seed: int,
    use_gpu: bool,
    run: Location,
    report: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Look for a learning rate in this process and draw what was seen into the directory `run`.

    Returns the suggested rate and where the plot is.
    """
    found = find_learning_rate(task, optimizer, precision, seed, this_worker(use_gpu), report)
    from seqvis.plots.training import plot_learning_rates  # matplotlib takes a second to load

    run.make_directory()
    plot = run / "learning_rates.png"
    with plot.local_output() as path:
        plot_learning_rates(path, found.rates, found.losses, found.smoothed, found.suggestion)
    return {"learning_rate": found.suggestion, "plot": plot.uri}


def _steepest(rates: list[float], smoothed: list[float]) -> float:
    if len(rates) < 3 or min(smoothed) >= smoothed[0]:
        raise TrainingError("the loss fell at no learning rate; check the data and the model")
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(np.array(smoothed[: max(3, lowest + 1)]))
    return float(f"{rates[int(np.argmin(slopes))]:.2g}")

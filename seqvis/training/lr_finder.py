"""The learning-rate finder: one short run whose rate grows from step to step.

It follows Smith 2015 (arXiv 1506.01186) in the form of fast.ai: the rate grows exponentially, the
loss is smoothed, and the run ends where the loss explodes. The suggestion is the rate at which the
smoothed loss falls fastest.
"""

import math
from typing import Any

import numpy as np

from seqvis.errors import TrainingError
from seqvis.storage import Location
from seqvis.training.events import Report
from seqvis.training.fit import FitSettings
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import Task, TrainingStep
from seqvis.training.workers import this_worker

_LOWEST, _HIGHEST, _STEPS = 1e-5, 1.0, 100
_SMOOTHING = 0.95
_EXPLODED = 3.0  # times the best smoothed loss


def plot_rate_search(
    task: Task[Any],
    optimizer: OptimizerSettings,
    settings: FitSettings,
    use_gpu: bool,
    run: Location,
    report: Report,
) -> dict[str, Any]:
    """Look for a learning rate in this process and draw the losses into the directory `run`.

    Returns the suggested rate and where the plot is. Raises TrainingError if the loss never falls.
    """
    workers = this_worker(use_gpu)
    training = TrainingStep(task, optimizer, settings.precision, settings.seed, workers)
    rates: list[float] = []
    losses: list[float] = []  # mean per token of each step
    smoothed: list[float] = []
    average = 0.0
    epoch, batches = 0, task.batches(0, 0, workers)
    for step in range(_STEPS):
        batch = next(batches, None)
        if batch is None:
            epoch += 1
            batches = task.batches(epoch, 0, workers)
            batch = next(batches)
        rate = _LOWEST * (_HIGHEST / _LOWEST) ** (step / (_STEPS - 1))
        result = training.step(batch, step, epoch, rate, optimizer.beta1)
        loss = float(result.total) / max(1, result.tokens)
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        corrected = average / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or (smoothed and corrected > _EXPLODED * min(smoothed)):
            break
        rates.append(rate)
        losses.append(loss)
        smoothed.append(corrected)
        report({"event": "finder", "step": step + 1, "steps": _STEPS, "rate": rate, "loss": loss})
    suggestion = _steepest(rates, smoothed)
    from seqvis.plots.figures import plot_learning_rates  # matplotlib takes a second to load

    run.make_directory()
    plot = run / "learning_rates.png"
    with plot.local_output() as path:
        plot_learning_rates(path, rates, losses, smoothed, suggestion)
    return {"learning_rate": suggestion, "plot": plot.uri}


def _steepest(rates: list[float], smoothed: list[float]) -> float:
    if len(rates) < 3 or min(smoothed) >= smoothed[0]:
        raise TrainingError("the loss fell at no learning rate; check the data and the model")
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(np.array(smoothed[: max(3, lowest + 1)]))
    return float(f"{rates[int(np.argmin(slopes))]:.2g}")

"""The progress of a run, which of its epochs is the best, and messages about its course."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from seqvis.errors import ConfigError
from seqvis.training.schedules import OptimizerSettings, learning_rate

SMOOTHING = 0.98  # a step: fast.ai's
Row = dict[str, Any]  # what is known of an epoch: its number, step and metrics


@dataclass
class Progress:
    """A run's position in its data and schedule, and its table of epochs.

    It is saved in each checkpoint.
    """

    schedule_epochs: int = 0  # the learning rate's cycle is laid out for; later ones run at its end
    step: int = 0  # optimiser steps done
    epoch: int = 0
    position: int = 0  # batches of this epoch done
    seconds: float = 0.0  # spent so far, over all sittings
    epoch_total: float = 0.0  # sum of the training loss in this epoch
    epoch_tokens: float = 0.0
    smoothed_sum: float = 0.0  # of the losses of all steps, each worth less the longer ago it was
    smoothed_weight: float = 0.0
    history: list[Row] = field(default_factory=list)
    best_step: int | None = None
    bad_epochs: int = 0  # since the last better one

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Progress":
        """Read a checkpoint's; names that other versions wrote are passed over."""
        names = {known.name for known in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in names})

    @property
    def best(self) -> Row | None:
        """The row of the best epoch; None before the first epoch has ended."""
        return next((row for row in self.history if row["step"] == self.best_step), None)

    def count(self, losses: Tensor, tokens: Sequence[int]) -> None:
        """Count further steps: the sums of their losses (steps,) over so many tokens."""
        self.epoch_total += float(losses.sum())
        self.epoch_tokens += sum(tokens)
        for loss, of_tokens in zip(losses.tolist(), tokens, strict=True):
            mean = loss / max(1, of_tokens)
            self.smoothed_sum += (1 - SMOOTHING) * (mean - self.smoothed_sum)
            self.smoothed_weight += (1 - SMOOTHING) * (1 - self.smoothed_weight)

    @property
    def smoothed_loss(self) -> float:
        """The moving average of the training loss over steps, as fast.ai shows it."""
        return self.smoothed_sum / max(1 - SMOOTHING, self.smoothed_weight)

    def wanted_steps(self, averaged: int) -> set[int]:
        """Return the steps of the best epoch and of the last `averaged` ones."""
        last = {row["step"] for row in self.history[-averaged:] if averaged > 1}
        return last if self.best_step is None else {*last, self.best_step}

    def add(self, row: Row, monitor: str) -> None:
        """Append an epoch's row, and make it the best if no earlier one is better.

        Of equal scores the lower loss is better. An epoch that equals the best in both takes its
        place, but does not count as better for early stopping.
        """
        best = self.best
        self.history.append(row)
        score = merit(row, monitor)
        is_better = best is None or score > merit(best, monitor)
        self.bad_epochs = 0 if is_better else self.bad_epochs + 1
        if best is None or score >= merit(best, monitor):
            self.best_step = row["step"]


def check_monitor(monitor: str, known: set[str]) -> None:
    """Raise ConfigError if the monitor is none of the metrics that are known of an epoch, nor its
    number."""
    if monitor not in known | {"epoch"}:
        names = ", ".join(sorted(known))
        raise ConfigError(
            f"--fit.monitor: {monitor} is not a validation metric; choose from {names}, or epoch, "
            f"which keeps the last"
        )


def merit(row: Row, monitor: str) -> tuple[float, float]:
    """Return what epochs are compared by: greater is better, and not finite is worst."""
    score = -row[monitor] if "loss" in monitor else row[monitor]
    loss = row.get("loss", 0.0)
    return (
        score if math.isfinite(score) else -math.inf,
        -loss if math.isfinite(loss) else -math.inf,
    )


@dataclass(frozen=True)
class Names:
    """The names of a run's settings, which differ between the stages of a job."""

    epochs: str = "epochs"
    learning_rate: str = "optimizer.learning_rate"


NAMES = Names()


def diverged(
    step: int, optimizer: OptimizerSettings, product_type: torch.dtype, names: Names
) -> str:
    """Say that the training loss is not finite, and what may help."""
    text = f"the training loss is not finite at step {step}; "
    if step == 1:  # no weight was changed yet
        return text + (
            "it was so before any weight changed, so look for numbers that are not finite, or far "
            "too large, in what the model is trained on or begins with"
        )
    text += f"lower {_flag(names.learning_rate)} (now {optimizer.learning_rate:g})"
    if product_type != torch.float32:
        text += ", take --fit.precision float32"
    if optimizer.clip_norm:
        text += f" or lower --optimizer.clip-norm (now {optimizer.clip_norm:g})"
    else:
        text += " or clip the gradient, as with --optimizer.clip-norm 1 (now 0: not clipped)"
    return f"{text} and start again with --restart"


def lengthened(
    before: int, epochs: int, progress: Progress, optimizer: OptimizerSettings, names: Names
) -> str:
    """Say that a run has more epochs than it had, and what the learning rate is in them."""
    return (
        f"{_flag(names.epochs)} was {before}, is {epochs}: the learning rate's cycle ends with "
        f"epoch {progress.schedule_epochs} as it was begun, and further epochs run at its last "
        f"rate, {learning_rate(optimizer, 1.0):.2g}; for a longer cycle give --restart"
    )


def ending(progress: Progress, epochs: int, monitor: str) -> list[str]:
    """Say what matters when a run ends: that it stopped early, that the monitor was blind."""
    texts = []
    if progress.epoch < epochs:
        texts.append(
            f"stopped early: no better {monitor} in {progress.bad_epochs} epochs; a greater "
            f"--fit.patience, or 0, goes on"
        )
    best, count = progress.best, len(progress.history)
    if best is not None and count > 1 and len({str(row[monitor]) for row in progress.history}) == 1:
        texts.append(
            f"--fit.monitor {monitor}: was {best[monitor]:g} after each of {count} epochs and "
            f"cannot tell them apart; epoch {best['epoch']} was kept for its loss. Take another "
            f"metric as the monitor"
        )
    return texts


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")

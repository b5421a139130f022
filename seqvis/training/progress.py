"""The progress of a run, and which of its epochs is the best so far."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from seqvis.errors import ConfigError

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
    history: list[Row] = field(default_factory=list)
    best_step: int | None = None
    bad_epochs: int = 0  # since the last better one

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Progress":
        """Read a checkpoint's; names that other versions wrote are passed over."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in names})

    @property
    def best(self) -> Row | None:
        """The row of the best epoch; None before the first epoch has ended."""
        return next((row for row in self.history if row["step"] == self.best_step), None)

    def add(self, row: Row, monitor: str) -> None:
        """Append an epoch's row, and make it the best if no earlier one is better.

        Of equal scores the lower loss is better. An epoch that equals the best in both takes its
        place, but does not count as better for early stopping.
        """
        best = self.best
        self.history.append(row)
        merit = _merit(row, monitor)
        is_better = best is None or merit > _merit(best, monitor)
        self.bad_epochs = 0 if is_better else self.bad_epochs + 1
        if best is None or merit >= _merit(best, monitor):
            self.best_step = row["step"]


def check_monitor(monitor: str, known: set[str]) -> None:
    """Raise ConfigError if the monitor is none of the metrics that are known of an epoch."""
    if monitor not in known:
        names = ", ".join(sorted(known))
        raise ConfigError(f"--fit.monitor: {monitor} is no validation metric; there are {names}")


def _merit(row: Row, monitor: str) -> tuple[float, float]:
    """What epochs are compared by, the greater the better; a value that is not finite is worst."""
    score = -row[monitor] if "loss" in monitor else row[monitor]
    loss = row.get("loss", 0.0)
    return (
        score if math.isfinite(score) else -math.inf,
        -loss if math.isfinite(loss) else -math.inf,
    )

"""Messages about the course of a training run, for the people who read its output."""

from dataclasses import dataclass

import torch

from seqvis.training.progress import Progress
from seqvis.training.schedules import OptimizerSettings, learning_rate


@dataclass(frozen=True)
class Names:
    """The names of a run's settings, which differ between the stages of a job."""

    epochs: str = "epochs"
    learning_rate: str = "optimizer.learning_rate"


NAMES = Names()


def diverged(
    step: int, optimizer: OptimizerSettings, product_type: torch.dtype, names: Names
) -> str:
    """That the training loss is not finite, and what may mend it, given the run's settings."""
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
    return f"{text} and start anew with --restart"


def lengthened(
    before: int, epochs: int, progress: Progress, optimizer: OptimizerSettings, names: Names
) -> str:
    """That a run has more epochs than it had, and what the learning rate is in them."""
    return (
        f"{_flag(names.epochs)} was {before}, is {epochs}: the learning rate's cycle ends with "
        f"epoch {progress.schedule_epochs} as it was begun, and further epochs run at its last "
        f"rate, {learning_rate(optimizer, 1.0):.2g}; for a longer cycle give --restart"
    )


def ending(progress: Progress, epochs: int, monitor: str) -> list[str]:
    """What is worth knowing when a run ends: that it stopped early, that the monitor was blind."""
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

"""The one training loop.

A `Task` brings the model, the batches, the loss of a batch and the validation; `fit` trains it:
mixed precision, clipping, 1cycle, early stopping, checkpoints, exact resume, throughput and
model-flop utilisation. It knows nothing of Ray; `ray_trainer` runs it in many processes.

What would surprise a reader: all randomness is a function of seed, step and worker. Before each
step the random generator is seeded anew, so a run that is resumed in the middle of an epoch
draws what an uninterrupted one would have drawn, and no worker's state must be collected.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from seqvis.config import Settings
from seqvis.errors import ConfigError, TrainingError
from seqvis.training.checkpoints import (
    CheckpointStore,
    Snapshot,
    check_identity,
    model_tensors,
    optimizer_tensors,
    restore_model,
    restore_optimizer,
)
from seqvis.training.schedules import OptimizerSettings, learning_rate, momentum
from seqvis.training.stepper import StepLoss, Stepper, Task
from seqvis.training.throughput import Throughput
from seqvis.training.workers import Workers

NOTICE_SECONDS = 10.0  # between checkpoints once a node is about to be taken away

B = TypeVar("B")
Report = Callable[[dict[str, Any]], None]
WorkerFunction = Callable[[Any, Workers, Report], None]

# Events with the table of all epochs so far, at which a listener may raise RunStopped.
DECISIVE = ("epoch", "resumed")


class RunStopped(BaseException):
    """Raised by a listener, and then by `fit` in every worker: the run ends here for now.

    The last epoch's checkpoint is on the disk when `fit` raises it; a later call goes on there.
    """


def until_stopped(
    function: WorkerFunction, argument: Any, workers: Workers, report: Report
) -> None:
    """Calls a worker's function; it may be ended by RunStopped."""
    with suppress(RunStopped):
        function(argument, workers, report)


class FitSettings(Settings):
    """How long and how a model is trained."""

    seed: int = Field(42, ge=0)
    """Seed of initial weights, batches and dropout."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the matrix products; auto: bfloat16 where the hardware has it."""
    monitor: str = "bleu"
    """Validation metric that picks the best epoch; names with loss: lower is better."""
    patience: int = Field(0, ge=0)
    """Stop after this many epochs without a better one; 0: never."""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """Minutes between checkpoints within an epoch."""


@dataclass
class Progress:
    """Where a run stands; saved in each checkpoint."""

    step: int = 0  # optimiser steps done
    epoch: int = 0
    position: int = 0  # batches of this epoch done
    seconds: float = 0.0  # spent so far, over all sittings
    epoch_total: float = 0.0  # sum of the training loss in this epoch
    epoch_tokens: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_step: int | None = None
    best_score: float | None = None
    bad_epochs: int = 0
    finished: bool = False


@dataclass(frozen=True)
class FitResult:
    """The best epoch's weights and what led to them."""

    tensors: dict[str, Tensor]
    history: list[dict[str, Any]]
    best: dict[str, Any]
    seconds: float


def fit(
    task: Task[B],
    epochs: int,
    settings: FitSettings,
    optimizer: OptimizerSettings,
    checkpoints: CheckpointStore,
    workers: Workers,
    report: Report,
    identity: dict[str, Any],
) -> FitResult:
    """Trains from the newest checkpoint, or from the beginning, to the end.

    Args:
        epochs: passes over the training data.
        identity: what must not change between sittings of a run (settings, fingerprints).
        report: is given an event, a dict with "event", for each thing worth showing.

    Raises:
        RunStopped: `report` raised it at an epoch.
        ConfigError: the checkpoint belongs to a run with another identity.
        TrainingError: the loss is not finite.
        StorageError: a checkpoint cannot be written.
    """
    return _Run(task, epochs, settings, optimizer, checkpoints, workers, report, identity).run()


class _Run(Generic[B]):
    def __init__(
        self,
        task: Task[B],
        epochs: int,
        settings: FitSettings,
        optimizer: OptimizerSettings,
        checkpoints: CheckpointStore,
        workers: Workers,
        report: Report,
        identity: dict[str, Any],
    ):
        self.task, self.epochs, self.settings, self.optimizer = task, epochs, settings, optimizer
        self.checkpoints, self.workers, self.identity = checkpoints, workers, identity
        self.report = report if workers.is_first else _ignore
        self.stepper = Stepper(task, optimizer, settings.precision, settings.seed, workers)
        self.progress = Progress()
        self.saved_at = time.monotonic()
        self.warned = False  # that a node is about to be taken away
        self._resume()

    def run(self) -> FitResult:
        progress = self.progress
        while progress.epoch < self.epochs and not progress.finished:
            self._train_epoch()
            self._finish_epoch()
        self.checkpoints.wait()
        best = self._best_snapshot()
        tensors = {
            name.removeprefix("model."): tensor
            for name, tensor in best.tensors.items()
            if name.startswith("model.")
        }
        row = next(row for row in progress.history if row["step"] == progress.best_step)
        return FitResult(tensors, progress.history, row, progress.seconds)

    def _train_epoch(self) -> None:
        progress, stepper = self.progress, self.stepper
        steps = self.task.steps_in_epoch(progress.epoch)
        meter = Throughput(stepper.product_type, self.workers, self.task.unit)
        started = time.monotonic()
        before = progress.seconds
        pending: list[StepLoss] = []
        for batch in self.task.batches(progress.epoch, progress.position, self.workers):
            at = progress.epoch + progress.position / steps
            share = at / self.epochs
            rate = learning_rate(self.optimizer, share)
            loss = stepper.step(batch, progress.step, at, rate, momentum(self.optimizer, share))
            pending.append(loss)
            progress.step += 1
            progress.position += 1
            meter.add(loss.tokens, self.task.flops(stepper.model, batch))
            progress.seconds = before + time.monotonic() - started
            if progress.position % 10 == 0 or progress.position in (1, steps):
                self._note(pending, rate, steps, meter)
            if progress.position < steps and self._checkpoint_is_due():
                self._add(pending)
                self._save()
        self._add(pending)
        progress.seconds = before + time.monotonic() - started
        self.speed = meter.summary()

    def _note(self, pending: list[StepLoss], rate: float, steps: int, meter: Throughput) -> None:
        self._add(pending)
        progress = self.progress
        self.report(
            {
                "event": "progress",
                "epoch": progress.epoch + 1,
                "epochs": self.epochs,
                "unit": self.task.unit,
                "position": progress.position,
                "steps": steps,
                "train_loss": progress.epoch_total / max(1.0, progress.epoch_tokens),
                "learning_rate": rate,
                **meter.summary(),
            }
        )

    def _add(self, pending: list[StepLoss]) -> None:
        """Adds losses to the epoch's sum; this is where the device is waited for."""
        if not pending:
            return
        total = float(torch.stack([loss.total for loss in pending]).sum())
        if not torch.isfinite(torch.tensor(total)):
            raise TrainingError(
                f"the training loss is not finite at step {self.progress.step}; lower "
                f"--optimizer.learning-rate or --optimizer.clip-norm and start anew with --restart"
            )
        self.progress.epoch_total += total
        self.progress.epoch_tokens += sum(loss.tokens for loss in pending)
        pending.clear()

    def _finish_epoch(self) -> None:
        progress, stepper = self.progress, self.stepper
        started = time.monotonic()
        stepper.model.eval()
        with torch.no_grad(), stepper.autocast():
            metrics = self.task.evaluate(stepper.model, self.workers)
        sums = self.workers.gather((progress.epoch_total, progress.epoch_tokens))
        progress.seconds += time.monotonic() - started
        shown = {key: value for key, value in metrics.items() if not isinstance(value, float)}
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": sum(total for total, _ in sums) / max(1.0, sum(n for _, n in sums)),
            **{key: value for key, value in metrics.items() if isinstance(value, float)},
            "learning_rate": learning_rate(self.optimizer, (progress.epoch + 1) / self.epochs),
            "seconds": round(progress.seconds, 1),
            **self.speed,
        }
        progress.history.append(row)
        self._judge(row)
        progress.epoch += 1
        progress.position = 0
        progress.epoch_total = progress.epoch_tokens = 0.0
        self._save()
        self._announce({"event": "epoch", "history": progress.history, **shown})

    def _announce(self, event: dict[str, Any]) -> None:
        """Reports a decisive event; all workers stop if the listener says so."""
        stopped = False
        try:
            self.report(event)
        except RunStopped:
            stopped = True
        if self.workers.from_first(stopped):
            self.checkpoints.wait()
            raise RunStopped

    def _judge(self, row: dict[str, Any]) -> None:
        progress, monitor = self.progress, self.settings.monitor
        if monitor not in row:
            known = ", ".join(sorted(key for key in row if key not in ("epoch", "step")))
            raise ConfigError(
                f"--fit.monitor: {monitor} is no validation metric; there are {known}"
            )
        score = -row[monitor] if "loss" in monitor else row[monitor]
        if progress.best_score is None or score > progress.best_score:
            progress.best_score, progress.best_step, progress.bad_epochs = score, progress.step, 0
            return
        progress.bad_epochs += 1
        if self.settings.patience and progress.bad_epochs >= self.settings.patience:
            progress.finished = True
            self.report(
                {
                    "event": "note",
                    "text": f"stopped early: no better {monitor} in {progress.bad_epochs} epochs",
                }
            )

    def _checkpoint_is_due(self) -> bool:
        # The workers need not agree: the first one alone saves, and nothing is collected.
        if not self.workers.is_first:
            return False
        waited = time.monotonic() - self.saved_at
        if not self.workers.leaving():
            return waited > 60 * self.settings.checkpoint_minutes
        if not self.warned:
            self.warned = True
            text = "a node is about to be taken away: saving a checkpoint at step"
            self.report({"event": "note", "text": f"{text} {self.progress.step}"})
            return True
        return waited > NOTICE_SECONDS

    def _save(self) -> None:
        if not self.workers.is_first:
            return
        progress, model = self.progress, self.stepper.model
        weights = {f"model.{name}": tensor for name, tensor in model_tensors(model).items()}
        # The other workers' sums of an unfinished epoch are taken to be like this one's.
        sums = {
            "epoch_total": progress.epoch_total * self.workers.count,
            "epoch_tokens": progress.epoch_tokens * self.workers.count,
        }
        state = {
            "progress": vars(progress) | sums | {"history": list(progress.history)},
            "identity": self.identity,
            "fingerprint": self.task.fingerprint(),
            # The generator is seeded before each step from these two and the worker's rank.
            "random": {"seed": self.settings.seed, "step": progress.step},
        }
        snapshot = Snapshot({**weights, **self._optimizer_tensors()}, state)
        self.checkpoints.save(snapshot, progress.step, progress.best_step)
        self.saved_at = time.monotonic()

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        tensors = optimizer_tensors(self.stepper.model, self.stepper.optimizer)
        return {f"optimizer.{name}": tensor for name, tensor in tensors.items()}

    def _resume(self) -> None:
        location = self.checkpoints.latest()
        if location is None:
            return
        snapshot = self.checkpoints.read(location)
        check_identity(snapshot, self.identity, self.task.fingerprint(), location.uri)
        self._restore(snapshot, location.uri)
        self.progress = Progress(**snapshot.state["progress"])
        if not self.workers.is_first:  # the first one has the sums of all
            self.progress.epoch_total = self.progress.epoch_tokens = 0.0
        text = f"going on from {location.uri} (epoch {self.progress.epoch + 1}, batch "
        self.report({"event": "note", "text": f"{text}{self.progress.position + 1})"})
        self._announce({"event": "resumed", "history": self.progress.history})

    def _restore(self, snapshot: Snapshot, where: str) -> None:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for name, tensor in snapshot.tensors.items():
            kind, rest = name.split(".", 1)
            parts[kind][rest] = tensor
        restore_model(self.stepper.model, parts["model"], where)
        restore_optimizer(self.stepper.model, self.stepper.optimizer, parts["optimizer"])

    def _best_snapshot(self) -> Snapshot:
        assert self.progress.best_step is not None
        wanted = self.workers.from_first(self.progress.best_step)
        return self.checkpoints.read(self.checkpoints.at(wanted))


def _ignore(event: dict[str, Any]) -> None:
    """Only the first worker reports."""

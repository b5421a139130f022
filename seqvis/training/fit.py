"""The one training loop.

A `Task` brings the model, the batches, the loss of a batch and the validation. `fit` trains it:
mixed precision, clipping, 1cycle, early stopping, checkpoints, exact resume, throughput and
model-flop utilisation. It knows nothing of Ray; `ray_train` runs it in many processes.

All randomness is a function of seed, step and worker: the random generator is seeded again before
each step. So a run that resumes in the middle of an epoch draws the same numbers as an
uninterrupted one, and no worker's random state has to be collected.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Annotated, Any, Generic, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from seqvis.config import MayChange, Settings
from seqvis.errors import TrainingError
from seqvis.process import release_freed_memory
from seqvis.training.averaging import mean_of, trained_weights
from seqvis.training.checkpoints import (
    CheckpointStore,
    Identity,
    Snapshot,
    check_fingerprint,
    check_identity,
    planned_epochs,
    restore_model,
)
from seqvis.training.events import Report, StopTraining
from seqvis.training.progress import (
    NAMES,
    Names,
    Progress,
    check_monitor,
    diverged,
    ending,
    lengthened,
    merit,
)
from seqvis.training.schedules import OptimizerSettings, learning_rate, momentum
from seqvis.training.step import StepLoss, Task, Throughput, TrainingStep
from seqvis.training.workers import Workers

NOTICE_SECONDS = 10.0  # between checkpoints once a node is about to be taken away

B = TypeVar("B")


class FitSettings(Settings):
    """How long and how a model is trained."""

    seed: int = Field(42, ge=0)
    """Seed of initial weights, batches and dropout."""
    precision: Annotated[Literal["auto", "float32", "bfloat16"], MayChange.FREELY] = "auto"
    """Type of the matrix products; auto: bfloat16 where the hardware has it."""
    monitor: str = "bleu"
    """Validation metric that picks the best epoch; names with loss: lower is better. Of equal ones
    the epoch with the lower loss is taken, then the later one. epoch: the last one is kept."""
    patience: Annotated[int, MayChange.FREELY] = Field(0, ge=0)
    """Stop after this many epochs without a better one; 0: never."""
    checkpoint_minutes: Annotated[float, MayChange.FREELY] = Field(5.0, gt=0)
    """Minutes between checkpoints within an epoch."""
    moving_average: Annotated[float, MayChange.FREELY] = Field(0.0, ge=0, lt=1)
    """Validate and keep an exponential moving average of the weights, with this decay a step, such
    as 0.999; 0: the weights as they are."""
    average: Annotated[int, MayChange.FREELY] = Field(1, ge=1)
    """At the end try the mean of the last so many epochs' weights; the better of it and the best
    epoch is kept."""
    allow_changes: Annotated[bool, MayChange.FREELY] = False
    """Go on with another learning rate, schedule, forcing, loss or regularisation than before."""


@dataclass(frozen=True)
class FitResult:
    """The best epoch's weights, and the history that led to them."""

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
    identity: Identity,
    names: Names = NAMES,
) -> FitResult:
    """Train from the newest checkpoint, or from the beginning, to the end.

    Args:
        epochs: passes over the training data. More than before lengthen a run: the learning rate's
            cycle ends where it was to end at first, and the further epochs run at its final rate.
        identity: what must not change between sittings of a run unless it is asked for, but for
            `names.epochs`, which may grow.
        report: is given an event, a dict with "event", for each thing worth showing.

    Raises:
        StopTraining: `report` raised it at an epoch.
        ConfigError: the checkpoint belongs to a run with another identity, or the monitor is no
            metric of the task's.
        TrainingError: the loss is not finite.
        StorageError: a checkpoint cannot be written.
    """
    return _Run(
        task, epochs, settings, optimizer, checkpoints, workers, report, identity, names
    ).run()


@dataclass
class _Run(Generic[B]):
    task: Task[B]
    epochs: int
    settings: FitSettings
    optimizer: OptimizerSettings
    checkpoints: CheckpointStore
    workers: Workers
    report: Report
    identity: Identity
    names: Names

    def __post_init__(self) -> None:
        if not self.workers.is_first:
            self.report = lambda event: None
        settings = self.settings
        self.training = TrainingStep(
            self.task, self.optimizer, settings.precision, settings.seed, self.workers,
            settings.moving_average,
        )  # fmt: skip
        self.progress = Progress(schedule_epochs=self.epochs)
        self.saved_at = time.monotonic()
        self.warned = False  # that a node is about to be taken away
        self._resume()

    def run(self) -> FitResult:
        progress, patience = self.progress, self.settings.patience or math.inf
        while progress.epoch < self.epochs and progress.bad_epochs < patience:
            self._train_epoch()
            self._finish_epoch()
        self.checkpoints.wait()
        for text in ending(progress, self.epochs, self.settings.monitor):
            self._say(text)
        weights = trained_weights(self._best_snapshot())
        assert progress.best is not None
        result = FitResult(weights, progress.history, progress.best, progress.seconds)
        return self._average(result) if self.settings.average > 1 else result

    def _train_epoch(self) -> None:
        progress, training = self.progress, self.training
        steps = self.task.steps_in_epoch(progress.epoch)
        meter = Throughput(training.product_type, self.workers, self.task.unit)
        started = time.monotonic()
        before = progress.seconds
        pending: list[StepLoss] = []
        for batch in self.task.batches(progress.epoch, progress.position, self.workers):
            at = progress.epoch + progress.position / steps
            share = at / progress.schedule_epochs
            rate = learning_rate(self.optimizer, share)
            loss = training.step(batch, progress.step, at, rate, momentum(self.optimizer, share))
            pending.append(loss)
            progress.step += 1
            progress.position += 1
            meter.add(loss.tokens, self.task.flops(training.model, batch))
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
                "step": progress.step,
                "position": progress.position,
                "steps": steps,
                "train_loss": progress.epoch_total / max(1.0, progress.epoch_tokens),
                "smoothed_train_loss": progress.smoothed_loss,
                "learning_rate": rate,
                **meter.summary(),
            }
        )

    def _add(self, pending: list[StepLoss]) -> None:
        """Add losses to the epoch's sum; this is where the device is waited for."""
        if not pending:
            return
        losses = torch.stack([loss.total for loss in pending]).cpu()
        if not math.isfinite(float(losses.sum())):
            kind, step = self.training.product_type, self.progress.step
            raise TrainingError(diverged(step, self.optimizer, kind, self.names))
        self.progress.count(losses, [loss.tokens for loss in pending])
        pending.clear()

    def _finish_epoch(self) -> None:
        progress, training = self.progress, self.training
        started = time.monotonic()
        metrics = self._evaluate(training.validated)
        sums = self.workers.gather((progress.epoch_total, progress.epoch_tokens))
        progress.seconds += time.monotonic() - started
        shown = {key: value for key, value in metrics.items() if not isinstance(value, float)}
        share = (progress.epoch + 1) / progress.schedule_epochs
        row = {
            "epoch": progress.epoch + 1,
            "step": progress.step,
            "train_loss": sum(total for total, _ in sums) / max(1.0, sum(n for _, n in sums)),
            "smoothed_train_loss": progress.smoothed_loss,
            **{key: value for key, value in metrics.items() if isinstance(value, float)},
            "learning_rate": learning_rate(self.optimizer, share),
            "momentum": momentum(self.optimizer, share),
            **self.task.schedules(progress.epoch),
            "seconds": round(progress.seconds, 1),
            **self.speed,
        }
        check_monitor(self.settings.monitor, {"train_loss", *metrics} - shown.keys())
        progress.add(row, self.settings.monitor)
        progress.epoch += 1
        progress.position = 0
        progress.epoch_total = progress.epoch_tokens = 0.0
        self._save()
        release_freed_memory()  # what validation left, and the holes between what is in use
        self._announce("epoch", shown)

    def _evaluate(self, model: nn.Module) -> dict[str, Any]:
        model.eval()
        with torch.no_grad(), self.training.autocast():
            return self.task.evaluate(model, self.workers)

    def _average(self, result: FitResult) -> FitResult:
        """Return the mean of the last epochs' weights if it is better than the best epoch."""
        stored, last = self.checkpoints.steps(), self.progress.history[-self.settings.average :]
        rows = [row for row in last if row["step"] in stored]
        if len(rows) < 2:
            return result
        snapshots = (self.checkpoints.read(self.checkpoints.at(row["step"])) for row in rows)
        weights, monitor = mean_of(map(trained_weights, snapshots)), self.settings.monitor
        restore_model(self.training.model, weights, "the mean of the weights")
        metrics = self._evaluate(self.training.model)
        floats = {key: value for key, value in metrics.items() if isinstance(value, float)}
        mean = {**rows[-1], **floats, "averaged_epochs": len(rows)}
        is_better = merit(mean, monitor) > merit(result.best, monitor)
        self._say(
            f"mean of the weights of {len(rows)} epochs: {monitor} {mean[monitor]:.4g}; epoch "
            f"{result.best['epoch']} alone: {result.best[monitor]:.4g}; "
            f"{'the mean' if is_better else 'the epoch'} is kept"
        )
        return replace(result, tensors=weights, best=mean) if is_better else result

    def _announce(self, event: str, shown: dict[str, Any]) -> None:
        """Report an event of `EPOCH_EVENTS`; all workers stop if the listener says so."""
        best = self.progress.best
        content = {"history": self.progress.history, "best_epoch": best["epoch"] if best else None}
        stopped = False
        try:
            self.report({"event": event, **content, **shown})
        except StopTraining:
            stopped = True
        if self.workers.from_first(stopped):
            self.checkpoints.wait()
            raise StopTraining

    def _say(self, text: str) -> None:
        self.report({"event": "note", "text": text})

    def _checkpoint_is_due(self) -> bool:
        # The workers need not agree: the first one alone saves, and nothing is collected.
        waited = time.monotonic() - self.saved_at
        if not self.workers.leaving():
            return waited > 60 * self.settings.checkpoint_minutes
        if not self.warned:
            self.warned = True
            text = "a node is about to be taken away: saving a checkpoint at step"
            self._say(f"{text} {self.progress.step}")
            return True
        return waited > NOTICE_SECONDS

    def _save(self) -> None:
        """Save a checkpoint as the first worker; as another one only give back freed memory."""
        self.saved_at = time.monotonic()
        if not self.workers.is_first:
            release_freed_memory()
            return
        progress = self.progress
        # The other workers' sums of an unfinished epoch are taken to be like this one's.
        sums = {
            "epoch_total": progress.epoch_total * self.workers.count,
            "epoch_tokens": progress.epoch_tokens * self.workers.count,
        }
        state = {
            "progress": vars(progress) | sums | {"history": list(progress.history)},
            "identity": self.identity.values,
            "fingerprint": self.task.fingerprint(),
            # The generator is seeded before each step from these two and the worker's rank.
            "random": {"seed": self.settings.seed, "step": progress.step},
        }
        snapshot = Snapshot(self.training.tensors(), state)
        wanted = progress.wanted_steps(self.settings.average)
        self.checkpoints.save(snapshot, progress.step, wanted)

    def _resume(self) -> None:
        location = self.checkpoints.latest()
        if location is None:
            return
        snapshot = self.checkpoints.read(location)
        allowed = self.settings.allow_changes
        changed = check_identity(snapshot, self.identity, self.names.epochs, allowed, location.uri)
        data = "another corpus" if self.task.unit == "tokens" else "other pictures, labels or words"
        check_fingerprint(snapshot, self.task.fingerprint(), data, location.uri)
        self.training.restore(snapshot.tensors, location.uri)
        progress = self.progress = Progress.of(snapshot.state["progress"])
        if not self.workers.is_first:  # the first one has the sums of all
            progress.epoch_total = progress.epoch_tokens = 0.0
        place = f"(epoch {progress.epoch + 1}, batch {progress.position + 1})"
        settings = f", from here on with other settings: {changed}" if changed else ""
        self._say(f"going on from {location.uri} {place}{settings}")
        self._lengthen(planned_epochs(snapshot, self.names.epochs))
        self._announce("resumed", {})

    def _lengthen(self, before: int) -> None:
        """Take on more epochs than the run had `before`."""
        progress = self.progress
        # Earlier versions did not lengthen runs, so their checkpoints do not say this.
        progress.schedule_epochs = progress.schedule_epochs or before
        if self.epochs > before:
            progress.bad_epochs = 0  # who asks for more epochs wants some to be tried
            self._say(lengthened(before, self.epochs, progress, self.optimizer, self.names))

    def _best_snapshot(self) -> Snapshot:
        assert self.progress.best_step is not None
        wanted = self.workers.from_first(self.progress.best_step)
        return self.checkpoints.read(self.checkpoints.at(wanted))

"""One training step, which the training loop and the learning-rate finder share, and its speed.

A `Task` is what a model brings to be trained. A `TrainingStep` holds the model and its optimiser,
and trains on a batch: forward pass in mixed precision, backward pass, clipping, update. All
randomness of a step is a function of seed, step and worker.

Throughput is measured in tokens or pictures a second, and as the share of the machine's arithmetic
that is used. Model-flop utilisation (PaLM, Chowdhery et al. 2022) compares the operations that the
model needs, not those that an implementation spends, with the fastest matrix product of this
machine in the same type. On a CPU that peak is measured; for known GPUs it is the vendor's figure.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from seqvis.errors import ConfigError
from seqvis.graphs import Graphs, Tensors
from seqvis.training.averaging import moving_average
from seqvis.training.checkpoints import (
    model_tensors,
    optimizer_tensors,
    restore_model,
    restore_optimizer,
)
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.workers import Workers

# Dense bfloat16 and float32 (TF32 off) operations a second, from NVIDIA's data sheets.
_PEAKS = {
    "H100": (989e12, 67e12),
    "H200": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L4": (121e12, 30.3e12),
    "T4": (65e12, 8.1e12),
    "V100": (125e12, 15.7e12),
}


class Throughput:
    """Counts an epoch's operations and its items (in the task's `unit`: tokens, pictures)."""

    def __init__(self, product_type: torch.dtype, workers: Workers, unit: str):
        self.workers = workers
        self.unit = unit
        self.peak = peak_flops(product_type, workers.device) * workers.count
        self.started = time.monotonic()
        self.items = 0.0
        self.flops = 0.0

    def add(self, items: int, flops: float) -> None:
        """Add one step of this worker; the others' are taken to be alike."""
        self.items += items * self.workers.count
        self.flops += flops * self.workers.count

    def summary(self) -> dict[str, float]:
        """Return the items a second of all workers, and the utilisation (0 to 1)."""
        seconds = max(1e-9, time.monotonic() - self.started)
        return {
            f"{self.unit}_per_second": round(self.items / seconds, 1),
            "model_flop_utilisation": round(self.flops / seconds / self.peak, 4),
        }


@cache
def peak_flops(product_type: torch.dtype, device: torch.device) -> float:
    """Return the operations a second of the device's fastest matrix product in this type."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for key, peaks in _PEAKS.items():
            if key in name:
                return peaks[0] if product_type == torch.bfloat16 else peaks[1]
    size = 1024 if device.type == "cpu" else 8192
    left = torch.randn(size, size, device=device, dtype=product_type)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        result = left @ left
        float(result[0, 0])  # waits for a GPU
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


B = TypeVar("B")


@dataclass(frozen=True)
class StepLoss:
    """The loss of a worker's share of a batch."""

    loss: Tensor  # scalar; the mean over workers is the batch's loss
    total: Tensor  # scalar without gradient: sum over this worker's tokens, for the log
    tokens: int  # this worker's tokens (of devise: pictures)


@dataclass(frozen=True)
class Recordable:
    """A step that depends on nothing but these inputs, their shapes and the key."""

    inputs: tuple[Tensor, ...]
    batch: Callable[..., Any]  # returns the batch of other inputs
    tokens: int  # of this batch, as StepLoss has them
    key: Hashable = ()


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are trained alike."""

    parameters: list[nn.Parameter]
    factor: float = 1.0  # of the learning rate
    frozen_epochs: float = 0.0  # during which they stay as they are


class Task(Protocol[B]):
    """What a model brings to be trained."""

    @property
    def unit(self) -> str:
        """What a loss is of and speed is counted in: "tokens", "pictures"."""

    def build_model(self) -> nn.Module: ...

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        """Return all parameters that are trained."""

    def fingerprint(self) -> str:
        """Return what changes with the data; a checkpoint of other data is refused."""

    def steps_in_epoch(self, epoch: int) -> int: ...

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[B]:
        """Yield this worker's share of the batches of an epoch, from number `first` on."""

    def loss(self, model: nn.Module, batch: B, epoch: float) -> StepLoss: ...

    def recordable(self, batch: B, epoch: float) -> Recordable | None:
        """Return what a CUDA graph of the step on the batch reads; None if it cannot be recorded.
        Asked only where graphs are on."""

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        """Return validation metrics, floats; strings and lists (samples) go to the report."""

    def schedules(self, epoch: int) -> dict[str, float]:
        """Return what the task varies over training, at this epoch, for the table of epochs."""

    def flops(self, model: nn.Module, batch: B) -> float:
        """Return the floating-point operations of a training step on the batch."""


class TrainingStep(Generic[B]):
    """A model, its optimiser, and the step that trains it on a batch."""

    def __init__(
        self,
        task: Task[B],
        optimizer: OptimizerSettings,
        precision: str,
        seed: int,
        workers: Workers,
        average_decay: float = 0.0,
    ):
        torch.manual_seed(seed)
        self.task, self.settings, self.seed, self.workers = task, optimizer, seed, workers
        self.model = task.build_model().to(workers.device)
        self.average = moving_average(self.model, average_decay)
        self.groups = task.parameter_groups(self.model)
        self.optimizer = _optimizer(optimizer, self.groups)
        self.product_type = product_type(precision, workers.device)
        self._wrapped = workers.wrap(_TaskLoss(task, self.model))
        self.graphs = Graphs()

    def step(self, batch: B, number: int, epoch: float, rate: float, momentum: float) -> StepLoss:
        """Make an optimiser step. `number`, from 0, seeds it; `epoch` may be fractional."""
        self.model.train()
        torch.manual_seed(_mix(self.seed, number, self.workers.rank))
        for options, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            options["lr"] = rate * group.factor if epoch >= group.frozen_epochs else 0.0
            if "betas" in options:
                options["betas"] = (momentum, options["betas"][1])
            else:
                options["momentum"] = momentum
        loss = self._differentiate(batch, epoch)
        if self.settings.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.n_averaged.fill_(number)
            self.average.update_parameters(self.model)
        return loss

    @property
    def validated(self) -> nn.Module:
        """The model that is validated and kept: with averaged weights where they are averaged."""
        return self.model if self.average is None else self.average.module

    def tensors(self) -> dict[str, Tensor]:
        """Copy the weights, their average and the optimiser's state to the CPU, by their names."""
        parts = {
            "model": model_tensors(self.model),
            "optimizer": optimizer_tensors(self.model, self.optimizer),
            "average": {} if self.average is None else model_tensors(self.average.module),
        }
        return {f"{part}.{name}": tensor for part in parts for name, tensor in parts[part].items()}

    def restore(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Go on from what `tensors` returned. Raises ArtifactError for another model's."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
        restore_model(self.model, parts["model"], where)
        restore_optimizer(self.model, self.optimizer, parts["optimizer"])
        if self.average is not None:  # a run may be given an average late
            restore_model(self.average.module, parts["average"] or parts["model"], where)

    def _differentiate(self, batch: B, epoch: float) -> StepLoss:
        """Return the loss; its gradients are those of the parameters."""
        recordable = None
        if self.graphs.on and self.workers.count == 1:
            recordable = self.task.recordable(batch, epoch)
        if recordable is None:
            return self._run(batch, epoch)
        again = recordable.batch

        def run(*inputs: Tensor) -> Tensors:
            step = self._run(again(*inputs), epoch)
            return step.loss, step.total

        loss, total = self.graphs.run(run, recordable.inputs, recordable.key)
        return StepLoss(loss, total, recordable.tokens)

    def _run(self, batch: B, epoch: float) -> StepLoss:
        # Recordings add to the gradients that were there when they were made.
        self.optimizer.zero_grad(set_to_none=not self.graphs.on)
        with self.autocast():
            loss: StepLoss = self._wrapped(batch, epoch)
        loss.loss.backward()
        return replace(loss, loss=loss.loss.detach())

    def autocast(self) -> torch.autocast:
        device = self.workers.device.type
        return torch.autocast(device, self.product_type, enabled=self.product_type != torch.float32)


def _optimizer(
    settings: OptimizerSettings, groups: Sequence[ParameterGroup]
) -> torch.optim.Optimizer:
    parameters = [{"params": group.parameters} for group in groups]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.algorithm == "sgd":
        return torch.optim.SGD(
            parameters, rate, momentum=settings.beta1, weight_decay=decay, fused=True
        )
    betas = settings.beta1, settings.beta2
    return torch.optim.AdamW(
        parameters, rate, betas, settings.epsilon, weight_decay=decay, fused=True
    )


class _TaskLoss(nn.Module):
    """The task's loss as a module's forward pass, so that DistributedDataParallel can wrap it."""

    def __init__(self, task: Task[Any], model: nn.Module):
        super().__init__()
        self.task = task
        self.model = model

    def forward(self, batch: Any, epoch: float) -> StepLoss:
        return self.task.loss(self.model, batch, epoch)


def product_type(precision: str, device: torch.device) -> torch.dtype:
    """Return the type that matrix products run in. Raises ConfigError if the hardware lacks it."""
    if precision == "float32":
        return torch.float32
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    if precision == "bfloat16" and not has:
        raise ConfigError(
            "--fit.precision: bfloat16 is not supported by this hardware; use float32"
        )
    return torch.bfloat16 if has else torch.float32


def _mix(seed: int, step: int, rank: int) -> int:
    return (seed * 1_000_003 + step) * 4099 + rank

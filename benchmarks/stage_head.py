"""Training DeViSE's head on stored features, beside a plain PyTorch loop over them in memory.

ImageNet's form: 2,048 features, two layers to 300 numbers, cosine loss (the lesson's head). The
plain loop draws shuffled batches by index from one tensor; both do the same steps of Adam.
"""

import copy
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.instrument import Row, Side, WrongResultError, compare, rate_over
from benchmarks.material import SEED, Material
from seqvis.devise.head import HeadSettings
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.task import HeadTask, Pictures
from seqvis.training.fit import FitSettings
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import TrainingStep
from seqvis.training.workers import Workers

PICTURES, FEATURES, LABELS, DIMENSION, BATCH = 40_000, 2048, 1000, 300, 512
SECONDS = 5.0
_RATE, _BETAS = 1e-3, (0.9, 0.99)


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """One row."""
    draw = np.random.default_rng(0)
    matrix = np.maximum(draw.standard_normal((PICTURES, FEATURES), dtype=np.float32), 0)
    labels = draw.integers(LABELS, size=PICTURES)
    targets = draw.standard_normal((LABELS, DIMENSION), dtype=np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    pictures = Pictures(matrix, np.arange(PICTURES), labels)
    settings = DeviseSettings(
        features="", vectors="", out="", loss="cosine", head=HeadSettings(), batch_size=BATCH,
        fit=FitSettings(seed=SEED),
    )  # fmt: skip
    task = HeadTask(pictures, pictures.where(np.arange(1000)), targets, settings)
    # Whatever precision is asked for, the head is trained in float32.
    training = TrainingStep(task, OptimizerSettings(), "float32", SEED, Workers())
    plain = _Plain(training.model, matrix, labels, targets)
    checks = {"loss, ours and the plain loop's": _same(task, training.model, plain)}
    sides = [
        Side("plain loop", lambda: rate_over(SECONDS, plain.step)),
        Side("seqvis", lambda: rate_over(SECONDS, _stepping(task, training)), 1.5),
    ]
    yield compare("DeViSE head", "pictures/s", sides, rounds, checks)


class _Plain:
    """The usual loop: an index permutation, a Sequential, Adam."""

    def __init__(
        self, ours: nn.Module, matrix: np.ndarray, labels: np.ndarray, targets: np.ndarray
    ):
        self.features, self.labels = torch.from_numpy(matrix), torch.from_numpy(labels)
        self.targets = torch.from_numpy(targets)
        self.model = copy.deepcopy(ours)
        self.optimizer = torch.optim.Adam(self.model.parameters(), _RATE, _BETAS)
        self.batches = self._shuffled()

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        wanted = self.targets[self.labels[rows]]
        return (1 - functional.cosine_similarity(self.model(self.features[rows]), wanted)).mean()

    def step(self) -> int:
        self.model.train()
        rows = next(self.batches)
        loss = self.loss(rows)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return len(rows)

    def _shuffled(self) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(SEED)
        while True:
            yield from torch.randperm(len(self.features), generator=generator).split(BATCH)


def _stepping(task: HeadTask, training: TrainingStep) -> Callable[[], int]:
    """A function that makes the next step of epoch after epoch; pictures of its batch."""
    batches = (batch for _ in itertools.count() for batch in task.batches(0, 0, Workers()))

    def step() -> int:
        batch = next(batches)
        training.step(batch, 1, 0.0, _RATE, _BETAS[0])
        return len(batch.labels)

    return step


def _same(task: HeadTask, model: nn.Module, plain: _Plain) -> list[float]:
    """The loss of the first batch by both; they must agree."""
    batch = next(iter(task.batches(0, 0, Workers())))
    order = np.random.default_rng((SEED, 0)).permutation(PICTURES)
    rows = np.array_split(order, task.steps_in_epoch(0))[0]
    model.eval()
    plain.model.eval()
    with torch.no_grad():
        ours = float(task.loss(model, batch, 0.0).loss)
        theirs = float(plain.loss(torch.from_numpy(rows)))
    if abs(ours - theirs) > 1e-4 * abs(theirs):
        raise WrongResultError(f"the loss is {ours}, the plain loop's {theirs}")
    return [round(ours, 6), round(theirs, 6)]

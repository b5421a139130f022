"""Training a head on stored features, as a task of the one training loop.

A batch consists of rows of stored features and the numbers of their labels. The features are
float16, mapped into memory and shared by all processes of a node (`FeatureTable.features`), and a
batch reads its own rows alone. So the features are stored once, however many parts of them are used
for training and validation; so is the vector of a label, however many pictures have it. A GPU that
has room for all of them gets them before the first batch, and then only numbers of rows.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqvis.devise.head import Head, rowwise_loss
from seqvis.devise.settings import DeviseSettings
from seqvis.errors import DataError
from seqvis.training.checkpoints import restore_model
from seqvis.training.step import ParameterGroup, Recordable, StepLoss
from seqvis.training.workers import Workers
from seqvis.vision.feature_table import FeatureTable

SHOWN_HITS = (1, 5, 10)
BLOCK = 8192  # pictures that are read at once where all are
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    features: Tensor
    labels: Tensor
    weight: float  # of a picture's loss, so that the mean over workers is the mean over pictures


@dataclass(frozen=True)
class Pictures:
    """Pictures with known labels, as rows of a table that others may share."""

    table: FeatureTable
    rows: np.ndarray  # int64 [n], of the table
    labels: np.ndarray  # int64 [n], rows of the targets

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: np.ndarray | slice) -> "Pictures":
        """Return the pictures of the chosen places (numbers, or a bool for each)."""
        return Pictures(self.table, self.rows[chosen], self.labels[chosen])

    def batch(
        self, places: np.ndarray | slice, device: torch.device = CPU, weight: float = 1.0
    ) -> Batch:
        """Read the features of the pictures at these places, float32 [places, dimension]."""
        stored = send(self.table.features[self.rows[places]], device)
        return Batch(stored.float(), send(self.labels[places], device), weight)

    def blocks(self, device: torch.device = CPU) -> Iterator[Batch]:
        """Read all pictures, some thousands at a time."""
        for begin in range(0, len(self), BLOCK):
            yield self.batch(slice(begin, begin + BLOCK), device)

    def fingerprint(self) -> str:
        """Return a hash that changes with the table, the rows and the labels."""
        digest = hashlib.sha256(self.table.artifact.fingerprint().encode())
        for numbers in (self.rows, self.labels):
            digest.update(np.ascontiguousarray(numbers).data)
        return digest.hexdigest()


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """Copy to a device; a GPU copies while this process goes on."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def send_all(table: FeatureTable, device: torch.device) -> Tensor:
    """Copy a table's features [n, dimension] to a device; this process holds one block at most."""
    features = torch.empty((len(table), table.dimension), dtype=torch.float16, device=device)
    for begin in range(0, len(table), BLOCK):
        block = slice(begin, begin + BLOCK)
        features[block] = send(np.array(table.features[block]), device)
    return features


def free_memory(device: torch.device) -> int:
    """Return how many bytes a GPU has left; 0 for a CPU, which reads features where they lie."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


class HeadTask:
    """Brings a head, its batches and its loss to `training.fit`."""

    unit = "pictures"

    def __init__(
        self,
        train: Pictures,
        valid: Pictures,
        targets: np.ndarray,
        settings: DeviseSettings,
        initial: Mapping[str, Tensor] | None = None,
    ):
        """Take what to train on.

        Args:
            targets: float32 unit vectors of the labels to tell apart, [labels, dimension].
            initial: weights of a head to start from.
        """
        self.train, self.valid, self.targets = train, valid, targets
        self.initial = initial
        self.settings = settings
        self._targets: dict[torch.device, Tensor] = {}
        self._resident: dict[FeatureTable, Tensor | None] = {}

    def build_model(self) -> nn.Module:
        head = Head(self.settings.head, self.train.table.dimension, self.targets.shape[1])
        if self.initial is not None:
            restore_model(head, self.initial, f"--init {self.settings.init}")
        return head

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        return [ParameterGroup(list(model.parameters()))]

    def fingerprint(self) -> str:
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.targets).data)
        for part in (self.train, self.valid):
            digest.update(part.fingerprint().encode())
        return digest.hexdigest()[:16]

    def steps_in_epoch(self, epoch: int) -> int:
        return max(1, round(len(self.train) / self.settings.batch_size))

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[Batch]:
        order = np.random.default_rng((self.settings.fit.seed, epoch)).permutation(len(self.train))
        steps = self.steps_in_epoch(epoch)
        if len(order) // steps < 2 * workers.count:
            raise DataError(
                f"{len(order)} pictures in {steps} batches are fewer than two for each of "
                f"{workers.count} workers, which batch norm needs; take more pictures, fewer "
                f"workers or a larger --batch-size"
            )
        # Batches of even size: none is so small that batch norm would learn from chance.
        for rows in np.array_split(order, steps)[first:]:
            share = rows[workers.rank :: workers.count]
            yield self._read(self.train, share, workers.device, workers.count / len(rows))

    def validation(self, workers: Workers) -> Iterator[Batch]:
        """Return this worker's share of the validation pictures."""
        own = self.valid.where(slice(workers.rank, None, workers.count))
        for begin in range(0, len(own), BLOCK):
            yield self._read(own, slice(begin, begin + BLOCK), workers.device, 1.0)

    def project(self, model: nn.Module, features: Tensor) -> Tensor:
        """Return the points of a batch's pictures, float32 [pictures, dimension].

        `auto` stays with float32: a head takes seconds, and its results are those of any machine.
        """
        rounded = self.settings.fit.precision == "bfloat16"
        with torch.autocast(features.device.type, torch.bfloat16, enabled=rounded):
            projected: Tensor = model(features)
        return projected.float()

    def loss(self, model: nn.Module, batch: Batch, epoch: float) -> StepLoss:
        total = self._losses(self.project(model, batch.features), batch.labels).sum()
        return StepLoss(total * batch.weight, total.detach(), len(batch.labels))

    def recordable(self, batch: Batch, epoch: float) -> Recordable | None:
        def again(features: Tensor, labels: Tensor) -> Batch:
            return replace(batch, features=features, labels=labels)

        inputs = (batch.features, batch.labels)
        return Recordable(inputs, again, len(batch.labels), batch.weight)

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        """Measure loss and hit@k of the validation pictures among the labels of training.

        Each worker takes a share of them. Batch norm's statistics are those of the first worker,
        which the checkpoint keeps, so that all of them measure the model that is kept.

        Raises ArtifactError if the features were replaced or deleted during the epoch.
        """
        for part in (self.train, self.valid):
            part.table.artifact.check_unchanged()
        workers.share_buffers(model)
        sums = torch.zeros(1 + len(SHOWN_HITS), dtype=torch.float64, device=workers.device)
        pictures = 0
        for batch in self.validation(workers):
            projected = self.project(model, batch.features)
            with torch.autocast(projected.device.type, enabled=False):
                scores = F.normalize(projected) @ self._targets_on(projected.device).T
            rank = (scores >= scores.gather(1, batch.labels[:, None])).sum(1)
            losses = self._losses(projected, batch.labels).double()
            hits = [(rank <= k).double().sum() for k in SHOWN_HITS]
            sums += torch.stack([losses.sum(), *hits])
            pictures += len(batch.labels)
        gathered = workers.gather(np.array([pictures, *sums.tolist()]))
        count, loss, *hits_at = np.sum(gathered, axis=0)
        metrics = {f"hit@{k}": float(n / count) for k, n in zip(SHOWN_HITS, hits_at, strict=True)}
        return {"loss": float(loss / count), **metrics}

    def schedules(self, epoch: int) -> dict[str, float]:
        return {}

    def flops(self, model: nn.Module, batch: Batch) -> float:
        weights = sum(parameter.numel() for parameter in model.parameters())
        scores = self.targets.size if self.settings.loss != "cosine" else 0
        return 6.0 * (weights + scores) * len(batch.labels)

    def _read(
        self, pictures: Pictures, places: np.ndarray | slice, device: torch.device, weight: float
    ) -> Batch:
        """Return the batch of these places, of features that are on the device if it has room."""
        table = pictures.table
        if table not in self._resident:
            size = 2 * len(table) * table.dimension
            fits = size < free_memory(device) / 2
            self._resident[table] = send_all(table, device) if fits else None
        resident = self._resident[table]
        if resident is None:
            return pictures.batch(places, device, weight)
        stored = resident[send(pictures.rows[places], device)]
        return Batch(stored.float(), send(pictures.labels[places], device), weight)

    def _losses(self, projected: Tensor, labels: Tensor) -> Tensor:
        targets, settings = self._targets_on(projected.device), self.settings
        with torch.autocast(projected.device.type, enabled=False):
            return rowwise_loss(settings.loss, settings.losses, projected, targets, labels)

    def _targets_on(self, device: torch.device) -> Tensor:
        if device not in self._targets:
            self._targets[device] = torch.from_numpy(self.targets).to(device)
        return self._targets[device]

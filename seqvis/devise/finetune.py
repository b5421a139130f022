"""Fine-tune the backbone together with a trained head, on the pictures themselves.

As in lesson 11, the early half of the backbone learns with a thousandth of the head's rate and the
late half with a hundredth, batch norm's statistics are frozen, and each epoch sees a different view
of each picture. The result is the head's and the backbone's weights of the best epoch. Features
from the old backbone do not fit it: embed the pictures again, with
`--weights MODEL/backbone.safetensors`.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from seqvis.devise.data import TrainingData
from seqvis.devise.head import Head
from seqvis.devise.settings import AugmentSettings, DeviseSettings
from seqvis.devise.task import SHOWN_HITS, Batch, HeadTask
from seqvis.errors import DataError
from seqvis.storage import Location, locate
from seqvis.training.checkpoints import CheckpointStore, check_identity
from seqvis.training.events import Report
from seqvis.training.fit import FitResult, fit
from seqvis.training.launch import run_directory
from seqvis.training.progress import Names
from seqvis.training.step import StepLoss
from seqvis.training.workers import Workers
from seqvis.vision.backbones import FeatureExtractor, load_recorded
from seqvis.vision.feature_table import FeatureTable
from seqvis.vision.images import BadImage, decode, enough, square
from seqvis.vision.listing import list_images

FACTORS = (1 / 1000, 1 / 100, 1.0)  # early half, late half, head
NAMES = Names("finetune.epochs", "finetune.learning_rate")
READERS = 4  # least number of threads that read and decode files ahead of the network


@dataclass(frozen=True)
class Tuned:
    """Head and backbone after fine-tuning."""

    result: FitResult
    head: dict[str, Tensor]
    backbone: dict[str, Tensor]  # names of the network without its last layer


def finetune(
    settings: DeviseSettings,
    data: TrainingData,
    head: dict[str, Tensor],
    workers: Workers,
    report: Report,
) -> Tuned:
    """Train backbone and head together, from the pretrained backbone and the given head.

    Raises DataError if the pictures are no longer where the features say.
    """
    checkpoints = _checkpoints(settings)
    task = _FinetuneTask(settings, data, head)
    rates = settings.optimizer.model_copy(update={"learning_rate": settings.finetune.learning_rate})
    result = fit(
        task,
        settings.finetune.epochs,
        settings.fit,
        rates,
        checkpoints,
        workers,
        report,
        _identity(settings),
        NAMES,
    )
    parts: dict[str, dict[str, Tensor]] = {"head": {}, "network": {}}
    for name, tensor in result.tensors.items():
        part, _, rest = name.partition(".")
        if rest:  # not the colours' mean and deviation, which the backbone brings itself
            parts[part][rest] = tensor
    return Tuned(result, parts["head"], parts["network"])


def check_earlier(settings: DeviseSettings) -> None:
    """Raise ConfigError if an earlier fine-tuning of this run was begun with other settings.

    To be called before the head is trained: a head that is trained further is another one, which
    what was fine-tuned from the earlier head cannot go on with.
    """
    checkpoints = _checkpoints(settings)
    if (location := checkpoints.latest()) is not None:
        check_identity(checkpoints.read(location), _identity(settings), NAMES.epochs, location.uri)


def _checkpoints(settings: DeviseSettings) -> CheckpointStore:
    return CheckpointStore(run_directory(locate(settings.out)) / "checkpoints" / "finetune")


def _identity(settings: DeviseSettings) -> dict[str, Any]:
    return settings.identity() | {"finetune": settings.finetune.model_dump(exclude={"images"})}


class _Together(FeatureExtractor):
    """Backbone and head; batch norm keeps the statistics of pretraining."""

    def __init__(self, backbone: FeatureExtractor, head: Head):
        mean, deviation = backbone.mean.flatten().tolist(), backbone.deviation.flatten().tolist()
        super().__init__(backbone.network, mean, deviation)
        self.head = head

    def train(self, mode: bool = True) -> "_Together":
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.eval()
        return self

    def forward(self, pictures: Tensor) -> Tensor:
        projected: Tensor = self.head(super().forward(pictures).float())
        return projected


class _FinetuneTask(HeadTask):
    """Brings backbone and head, batches of augmented pictures and their loss to `training.fit`."""

    def __init__(self, settings: DeviseSettings, data: TrainingData, head: dict[str, Tensor]):
        super().__init__(data.train, data.valid, data.targets, settings)
        self.table, self.head = data.table, head
        where = data.table.artifact.location.uri
        self.backbone = load_recorded(data.table.artifact.config["backbone"], where)
        self.train_files = _files(settings, data.table, data.train.rows)
        self.valid_files = _files(settings, data.valid_table, data.valid.rows)
        self._transform = augmenter(settings.finetune.augment, self.backbone.image_size)
        self._groups = self.backbone.layer_groups()

    def build_model(self) -> nn.Module:
        head = Head(self.settings.head, self.backbone.dimension, self.targets.shape[1])
        head.load_state_dict(self.head)
        for parameter in self.backbone.module.parameters():
            parameter.requires_grad_(True)
        return _Together(self.backbone.module, head)

    def parameter_groups(self, model: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
        assert isinstance(model, _Together)
        groups = [*self._groups, list(model.head.parameters())]
        return list(zip(groups, FACTORS, strict=True))

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.table.artifact.fingerprint().encode())
        for _, tensor in sorted(self.head.items()):  # safetensors loads them in any order
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def steps_in_epoch(self, epoch: int) -> int:
        return max(1, len(self.train) // self.settings.finetune.batch_size)

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[Batch]:
        seed = self.settings.fit.seed
        order = np.random.default_rng((seed, epoch)).permutation(len(self.train))
        size = self.settings.finetune.batch_size
        numbers = range(first, self.steps_in_epoch(epoch))
        shares = [
            order[number * size : (number + 1) * size][workers.rank :: workers.count]
            for number in numbers
        ]
        # On a GPU machine the worker's processors decode more slowly than the network learns.
        with ThreadPoolExecutor(max(READERS, torch.get_num_threads())) as pool:
            ahead = [pool.submit(self._read, row) for row in shares[0]] if shares else []
            for place, rows in enumerate(shares):
                waiting, ahead = ahead, []
                if place + 1 < len(shares):
                    ahead = [pool.submit(self._read, row) for row in shares[place + 1]]
                views = [
                    augment(picture.result(), self._transform, _view_seed(seed, epoch, int(row)))
                    for picture, row in zip(waiting, rows, strict=True)
                ]
                together = min(size, len(order) - numbers[place] * size)
                yield Batch(
                    _as_tensor(views).to(workers.device),
                    torch.from_numpy(self.train.labels[rows]).to(workers.device),
                    workers.count / together,
                )

    def loss(self, model: nn.Module, batch: Batch, epoch: float) -> StepLoss:
        total = self._losses(model(batch.features), batch.labels).sum()
        return StepLoss(total * batch.weight, total.detach(), len(batch.labels))

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        """Measure loss and hit@k of the validation pictures; each worker takes a share of them."""
        rows = np.arange(len(self.valid))[workers.rank :: workers.count]
        size = self.settings.finetune.batch_size
        sums = np.zeros(2 + len(SHOWN_HITS))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            pictures = [self._square(self.valid_files[row]) for row in part]
            labels = torch.from_numpy(self.valid.labels[part]).to(workers.device)
            projected = model(_as_tensor(pictures).to(workers.device)).float()
            scores = F.normalize(projected) @ self._targets_on(projected.device).T
            rank = (scores >= scores.gather(1, labels[:, None])).sum(1)
            sums[0] += len(part)
            sums[1] += float(self._losses(projected, labels).sum())
            sums[2:] += [float((rank <= k).sum()) for k in SHOWN_HITS]
        total = np.sum(workers.gather(sums), axis=0)
        hits = {f"hit@{k}": float(n / total[0]) for k, n in zip(SHOWN_HITS, total[2:], strict=True)}
        return {"loss": float(total[1] / total[0]), **hits}

    def flops(self, model: nn.Module, batch: Batch) -> float:
        weights = sum(parameter.numel() for parameter in model.parameters())
        # A convolution's weight is used at every position: this counts what is certain, once.
        return 6.0 * weights * len(batch.labels)

    def _read(self, row: int) -> Any:
        return _decoded(self.train_files[row], self.backbone.image_size)

    def _square(self, file: Location) -> np.ndarray:
        size = self.backbone.image_size
        return square(_decoded(file, size), size, self.backbone.fit)


def _files(settings: DeviseSettings, table: FeatureTable, rows: np.ndarray) -> list[Location]:
    """Return where the pictures of these rows lie. Raises DataError if one is not there."""
    config = table.artifact.config
    images = locate(settings.finetune.images or str(config["images"]))
    listing = list_images(images, config["label_from"])
    paths = listing.table["path"].to_pylist()
    places = dict(zip(paths, listing.table["place"].to_pylist(), strict=True))
    missing = [table.paths[row] for row in rows if table.paths[row] not in places]
    if missing:
        raise DataError(
            f"{images.uri}: does not hold {missing[0]} ({len(missing)} such pictures), which "
            f"{table.artifact.location.uri} was made from; give --finetune.images"
        )
    return [
        Location(listing.filesystem, places[table.paths[row]], table.paths[row]) for row in rows
    ]


def _decoded(file: Location, image_size: int) -> Any:
    try:
        return decode(file.read_bytes(), enough(image_size), max_pixels=None).picture
    except BadImage as error:
        raise DataError(
            f"{file.uri}: {error}, though it was sound when its features were made; put it "
            f"back, or embed the images anew"
        ) from error


def _as_tensor(pictures: list[np.ndarray]) -> Tensor:
    """Return uint8 [n, 3, size, size] over channels-last memory."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _view_seed(seed: int, epoch: int, row: int) -> int:
    return ((seed * 1_000_003 + epoch) * 1_000_003 + row) % (1 << 62)


def augmenter(settings: AugmentSettings, size: int) -> v2.Transform:
    """Return the transform of `augment`, made once for many pictures."""
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(size, scale=(settings.smallest_share, 1.0), ratio=(3 / 4, 4 / 3))
    ]
    if settings.mirror:
        steps.append(v2.RandomHorizontalFlip())
    if settings.lighting:
        steps.append(v2.ColorJitter(brightness=settings.lighting, contrast=settings.lighting))
    return v2.Compose(steps)


def augment(picture: Image.Image, transform: v2.Transform, seed: int) -> np.ndarray:
    """Return a view of an RGB picture, uint8 [size, size, 3].

    torchvision draws from torch's global generator: it is seeded for the call and put back, so
    that the views depend on nothing else and change nothing else. Not for several threads at once.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return np.asarray(transform(picture))

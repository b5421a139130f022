"""Fine-tune the backbone together with a trained head, on the pictures themselves.

As in lesson 11, the early half of the backbone learns with a thousandth of the head's rate and the
late half with a hundredth, batch norm's statistics are frozen, and each epoch sees a different view
of each picture. The result is the head's and the backbone's weights of the best epoch. Features
from the old backbone do not fit it: embed the pictures again, with
`--weights MODEL/backbone.safetensors`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor, nn

from seqvis.devise.data import TrainingData
from seqvis.devise.head import Head
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.task import Batch, HeadTask, Pictures, send
from seqvis.devise.views import MakeViews, Plan, Step, ViewReader
from seqvis.errors import DataError
from seqvis.storage import locate
from seqvis.training.checkpoints import CheckpointStore, check_identity
from seqvis.training.events import Report
from seqvis.training.fit import FitResult, fit
from seqvis.training.launch import run_directory
from seqvis.training.progress import Names
from seqvis.training.step import ParameterGroup
from seqvis.training.workers import Workers
from seqvis.vision.backbones import FeatureExtractor, load_recorded
from seqvis.vision.listing import WHERE, Listing, list_images

FACTORS = (1 / 1000, 1 / 100, 1.0)  # early half, late half, head
NAMES = Names("finetune.epochs", "finetune.learning_rate")


@dataclass(frozen=True)
class PictureFiles:
    """Where the pictures are that fine-tuning reads; rows as in `TrainingData`."""

    train: Listing
    valid: Listing


@dataclass(frozen=True)
class Tuned:
    """Head and backbone after fine-tuning."""

    result: FitResult
    head: dict[str, Tensor]
    backbone: dict[str, Tensor]  # names of the network without its last layer


def finetune(
    settings: DeviseSettings,
    data: TrainingData,
    files: PictureFiles,
    head: dict[str, Tensor],
    workers: Workers,
    report: Report,
) -> Tuned:
    """Train backbone and head together, from the pretrained backbone and the given head.

    Raises DataError if too many pictures turn out to be damaged or gone.
    """
    rates = settings.optimizer.model_copy(update={"learning_rate": settings.finetune.learning_rate})
    with closing(_FinetuneTask(settings, data, files, head, workers, report)) as task:
        result = fit(
            task,
            settings.finetune.epochs,
            settings.fit,
            rates,
            _checkpoints(settings),
            workers,
            report,
            settings.identity("finetune"),
            NAMES,
        )
    parts: dict[str, dict[str, Tensor]] = {"head": {}, "network": {}}
    for name, tensor in result.tensors.items():
        part, _, rest = name.partition(".")
        if rest:  # not the colours' mean and deviation, which the backbone brings itself
            parts[part][rest] = tensor
    return Tuned(result, parts["head"], parts["network"])


def find_pictures(settings: DeviseSettings, data: TrainingData) -> PictureFiles:
    """List the pictures to fine-tune on. Raises DataError if one is not where the features say."""
    given, parts = settings.finetune.images, (data.train, data.valid)
    places = [given or str(part.table.artifact.config["images"]) for part in parts]
    try:
        listings = {place: list_images(place, "none") for place in set(places)}
    except DataError as error:
        raise DataError(f"{error}; if the pictures have moved, give --finetune.images") from error
    train, valid = (
        _rows_of(listings[place], part) for place, part in zip(places, parts, strict=True)
    )
    return PictureFiles(train, valid)


def check_earlier(settings: DeviseSettings) -> None:
    """Raise ConfigError if an earlier fine-tuning of this run was begun with other settings.

    Call it before the head is trained: training changes the head, and what was fine-tuned from the
    earlier one could not go on.
    """
    checkpoints = _checkpoints(settings)
    if (location := checkpoints.latest()) is not None:
        identity, allowed = settings.identity("finetune"), settings.fit.allow_changes
        check_identity(checkpoints.read(location), identity, NAMES.epochs, allowed, location.uri)


def _checkpoints(settings: DeviseSettings) -> CheckpointStore:
    return CheckpointStore(run_directory(locate(settings.out)) / "checkpoints" / "finetune")


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

    def __init__(
        self,
        settings: DeviseSettings,
        data: TrainingData,
        files: PictureFiles,
        head: dict[str, Tensor],
        workers: Workers,
        report: Report,
    ):
        super().__init__(data.train, data.valid, data.targets, settings)
        self.head, self.report = head, report
        features = data.train.table.artifact
        self.backbone = load_recorded(features.config["backbone"], features.location.uri)
        self._groups = self.backbone.layer_groups()
        chosen, size = settings.finetune, self.backbone.image_size
        self.plan = Plan(
            files.train.table, files.valid.table, chosen.batch_size, chosen.epochs,
            settings.fit.seed, workers.rank, workers.count,
        )  # fmt: skip
        make = MakeViews(
            files.train.filesystem, files.valid.filesystem, size, self.backbone.fit, chosen.augment
        )
        self._reader = ViewReader(self.plan, make, workers.ahead)
        self._told: set[str] = set()  # files that could not be read

    def close(self) -> None:
        """Stop reading pictures."""
        self._reader.close()

    def build_model(self) -> nn.Module:
        head = Head(self.settings.head, self.backbone.dimension, self.targets.shape[1])
        head.load_state_dict(self.head)
        for parameter in self.backbone.module.parameters():
            parameter.requires_grad_(True)
        return _Together(self.backbone.module, head)

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        assert isinstance(model, _Together)
        groups = [*self._groups, list(model.head.parameters())]
        return [ParameterGroup(*pair) for pair in zip(groups, FACTORS, strict=True)]

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.train.table.artifact.fingerprint().encode())
        for _, tensor in sorted(self.head.items()):  # safetensors loads them in any order
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    def steps_in_epoch(self, epoch: int) -> int:
        return self.plan.steps

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[Batch]:
        self._epoch, self._unreadable = epoch, 0
        self._reader.start(epoch, first)
        size = self.plan.batch_size
        for step in self.plan.training(epoch, first):
            together = min(size, len(self.train) - step.number * size)
            yield self._batch(step, self.train, workers, workers.count / together)

    def validation(self, workers: Workers) -> Iterator[Batch]:
        for step in self.plan.validation(self._epoch):
            yield self._batch(step, self.valid, workers, 1.0)

    def project(self, model: nn.Module, features: Tensor) -> Tensor:
        projected: Tensor = model(features)  # in mixed precision
        return projected

    def recordable(self, batch: Batch, epoch: float) -> None:
        return None  # the network's operations are large: to start them costs little

    def flops(self, model: nn.Module, batch: Batch) -> float:
        weights = sum(parameter.numel() for parameter in model.parameters())
        # A convolution's weight is used at every position: this counts what is certain, once.
        return 6.0 * weights * len(batch.labels)

    def _batch(self, step: Step, pictures: Pictures, workers: Workers, weight: float) -> Batch:
        """Return the next step's batch. Raises DataError if too many pictures cannot be read."""
        views, share = self._reader.take(step), self.settings.finetune.unreadable_share
        self._unreadable += len(views.failures)
        for path, reason in views.failures.items():
            if self._unreadable > share * self.plan.pictures:
                raise DataError(
                    f"{path}: {reason}; {self._unreadable} of the {self.plan.pictures} pictures "
                    f"that a worker sees in an epoch could not be read, more than "
                    f"--finetune.unreadable-share {share:g}: put them back, or embed the images "
                    f"anew"
                )
            if path not in self._told:
                self._told.add(path)
                self.report({"event": "note", "text": f"{path}: {reason}; it is skipped"})
        features = send(views.pictures, workers.device).permute(0, 3, 1, 2)
        return Batch(features, send(pictures.labels[views.rows], workers.device), weight)


def _rows_of(listing: Listing, pictures: Pictures) -> Listing:
    """Return the rows of these pictures in their order. Raises DataError if one is not there."""
    there = listing.table.filter(pc.greater_equal(listing.table["size"], 0))
    paths = pictures.table.columns(["path"])["path"].combine_chunks()
    wanted = paths.take(pa.array(pictures.rows))
    rows = pc.index_in(wanted, there["path"].combine_chunks())
    if rows.null_count:
        missing = wanted.filter(rows.is_null())
        raise DataError(
            f"{listing.uri}: does not hold {missing[0]} ({len(missing)} such pictures), which "
            f"{pictures.table.artifact.location.uri} was made from; give --finetune.images"
        )
    return replace(listing, table=there.select(["path", *WHERE]).take(rows).combine_chunks())

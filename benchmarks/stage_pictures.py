"""Embedding pictures, and training DeViSE's head on their features.

Embedding stands beside what decoding and the network alone would allow: the limit is all processors
at once, each with pictures of its own in memory, which it decodes as fast as it can and then embeds
as fast as it can, with our network or timm's of the same form. The job's rate is that of the
pictures by which a longer run exceeds a shorter one, so that the start of Ray and its workers is
not in it.

The head has ImageNet's form (2,048 features, two layers to 300 numbers, cosine loss) and stands
beside a plain PyTorch loop that draws shuffled batches by index from one float32 tensor in memory,
where ours reads mapped float16; both do the same steps of Adam.
"""

import copy
import itertools
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.instrument import Row, Side, WrongResultError, agreed, compare, possible, rate_over
from benchmarks.material import (
    DIMENSION,
    LABELS,
    SEED,
    Material,
    photograph,
    run_job,
    write_features,
    write_files,
)
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.task import HeadTask, Pictures
from seqvis.process import usable_processors
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import TrainingStep
from seqvis.training.workers import Workers
from seqvis.vision.backbones import Backbone, load_backbone
from seqvis.vision.feature_table import FeatureTable
from seqvis.vision.images import decode, enough, square, thumbnail

FEW, MANY, SIZE, BATCH = 128, 512, 224, 64
NAME = "efficientnet_lite0"
PICTURES, HEAD_BATCH = 40_000, 512
SECONDS = 5.0
_RATE, _BETAS = 1e-3, (0.9, 0.99)


def measure_embedding(material: Material, rounds: int) -> Iterator[Row]:
    """Embed photographs."""
    import timm

    cores = usable_processors()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contents = [photograph(number) for number in range(MANY)]
        for kind, count in (("few", FEW), ("many", MANY)):
            write_files(folder / kind / "x", contents[:count])
        backbone = load_backbone(NAME, "default", SIZE)
        copies = [copy.deepcopy(backbone) for _ in range(cores)]  # not safe between threads
        peer = timm.create_model(NAME).eval().to(memory_format=torch.channels_last)
        alone: dict[str, list[float]] = defaultdict(list)

        def at_once(part: str, step: Callable[[int], object]) -> float:
            """Return the seconds in which each core makes the step."""
            with ThreadPoolExecutor(
                cores, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                began = time.perf_counter()
                list(pool.map(step, range(cores)))
                seconds = time.perf_counter() - began
            alone[part].append(cores * BATCH / seconds)
            return seconds

        def embed_by_peer(_: int) -> None:
            with torch.inference_mode():
                peer(_as_tensor(pictures))

        pictures = _decoded(contents[:BATCH])
        for core in range(cores):  # the first pictures take longer
            copies[core].embed(pictures)
            embed_by_peer(core)

        def ideal() -> float:
            decoding = at_once("decoding", lambda core: _decoded(contents[:BATCH]))
            ours = at_once("network", lambda core: copies[core].embed(pictures))
            theirs = at_once("timm's network", embed_by_peer)
            return cores * BATCH / (decoding + min(ours, theirs))

        def job() -> float:
            seconds = [_job(folder, kind, cores) for kind in ("few", "many")]
            return (MANY - FEW) / (seconds[1] - seconds[0])

        sides = [Side("decoding and network alone", ideal), Side("embed_images", job, 0.9)]
        row = compare(f"embedding, {NAME}", "pictures/s", sides, rounds)
        for part, rates in alone.items():
            row.checks[f"{part} alone, all cores"] = round(float(np.median(rates)), 1)
        row.checks["largest difference of a feature"] = _difference(folder, backbone, contents)
        yield row


def _decoded(contents: list[bytes]) -> np.ndarray:
    """Do what a decoding task does for each picture; return them as the network takes them."""
    squares = []
    for content in contents:
        picture = decode(content, enough(SIZE)).picture
        squares.append(square(picture, SIZE, "crop"))
        thumbnail(picture)
    return np.stack(squares)


def _as_tensor(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def _job(folder: Path, kind: str, workers: int) -> float:
    """Return the seconds in which the job, with as many workers for each, embedded a folder."""
    out = folder / f"features-{kind}"
    shutil.rmtree(out, ignore_errors=True)
    result = run_job(
        "embed_images", "--images", folder / kind, "--out", out, "--backbone", NAME,
        "--image-size", SIZE, "--batch-size", BATCH, "--num-workers", workers,
    )  # fmt: skip
    return float(result["embedded"]) / float(result["images_per_second"])


def _difference(folder: Path, backbone: Backbone, contents: list[bytes]) -> float:
    """Between the features of the job and of the network alone, which float16 rounds."""
    stored = FeatureTable.open(str(folder / "features-few")).features[:BATCH]
    wanted = backbone.embed_files(contents[:BATCH]).features
    largest = float(np.abs(stored - wanted).max() / np.abs(wanted).max())
    if largest > 2e-3:
        raise WrongResultError(f"a feature differs by {largest:.1%} of the largest")
    return round(largest, 5)


def measure_head(material: Material, rounds: int) -> Iterator[Row]:
    """Train the head on stored features."""
    with tempfile.TemporaryDirectory() as folder:
        yield _measure_head(Path(folder) / "features", rounds)


def _measure_head(place: Path, rounds: int) -> Row:
    write_features(place, PICTURES)
    table = FeatureTable.open(str(place))
    draw = np.random.default_rng(0)
    labels = draw.integers(LABELS, size=PICTURES)
    targets = draw.standard_normal((LABELS, DIMENSION), dtype=np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    pictures = Pictures(table, np.arange(PICTURES), labels)
    sides: list[Side] = []
    checks = {}
    for precision, goal in possible({"float32": 1.0, "bfloat16": 2.0}).items():
        settings = DeviseSettings.model_validate(
            {
                "features": "", "vectors": "", "out": "", "loss": "cosine",
                "batch_size": HEAD_BATCH, "fit": {"seed": SEED, "precision": precision},
            }
        )  # fmt: skip
        task = HeadTask(pictures, pictures.where(np.arange(1000)), targets, settings)
        training = TrainingStep(task, OptimizerSettings(), precision, SEED, Workers())
        if not sides:
            plain = _Plain(training.model, table.features.astype(np.float32), labels, targets)
            checks["loss, ours and the plain loop's"] = _same_loss(task, training.model, plain)
            sides.append(Side("plain loop, float32", partial(rate_over, SECONDS, plain.step)))
        step = _stepping(task, training)
        sides.append(Side(f"seqvis, {precision}", partial(rate_over, SECONDS, step), goal))
    return compare("DeViSE head", "pictures/s", sides, rounds, checks)


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
            yield from torch.randperm(len(self.features), generator=generator).split(HEAD_BATCH)


def _stepping(task: HeadTask, training: TrainingStep) -> Callable[[], int]:
    """Return a function that makes the next step, epoch after epoch, and counts its pictures."""
    batches = (batch for _ in itertools.count() for batch in task.batches(0, 0, Workers()))

    def step() -> int:
        batch = next(batches)
        training.step(batch, 1, 0.0, _RATE, _BETAS[0])
        return len(batch.labels)

    return step


def _same_loss(task: HeadTask, model: nn.Module, plain: _Plain) -> list[float]:
    """Return the loss of the first batch by both; they must agree."""
    batch = next(iter(task.batches(0, 0, Workers())))
    order = np.random.default_rng((SEED, 0)).permutation(PICTURES)
    rows = np.array_split(order, task.steps_in_epoch(0))[0]
    model.eval()
    plain.model.eval()
    with torch.no_grad():
        ours = float(task.loss(model, batch, 0.0).loss)
        theirs = float(plain.loss(torch.from_numpy(rows)))
    return agreed(ours, theirs, 1e-4)

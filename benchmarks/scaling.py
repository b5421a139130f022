"""What 1, 2 and 4 workers do on this machine, and what averaging gradients sends.

For each number N of workers, a Ray of N logical processors of its own: `prepare_corpus` on
generated pairs, `embed_images` on made-up photographs, and training. Then two processes joined by
gloo train a translator with vocabularies as large as Multi30k's, with gradients averaged as
DistributedDataParallel does by itself and as `seqvis.training.workers` does. Prints two tables
and, last, one JSON line. With more workers than cores it is overhead that shows, not speed.

    python -m benchmarks.scaling --pairs 30000 --pictures 240
"""

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.instrument import as_table, in_a_process, rate
from benchmarks.material import photograph, write_files, write_pairs
from benchmarks.scaling_model import translator
from seqvis.cluster import ray_session
from seqvis.corpus.prepare import prepare
from seqvis.corpus.settings import PrepareSettings
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.losses import SequenceLoss
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.state import SourceBatch
from seqvis.training.workers import BUCKET_MB, Reduction, Resources, average
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.vision.augment import AugmentSettings, view
from seqvis.vision.embed import EmbedSettings, embed_images
from seqvis.vision.images import decode, enough, square

COUNTS = (1, 2, 4)
VOCABULARIES = (6_469, 5_892)  # Multi30k's words that occur twice
LENGTH, WORDS = 15, 1_600  # of a sentence; of a batch, all workers together
STEPS = 8


def measure_jobs(workers: int, folder: Path) -> dict[str, float]:
    """Measure the three jobs in a Ray of `workers` processors, without its start."""
    text = PrepareSettings(
        source=str(folder / "text.fr"),
        target=str(folder / "text.en"),
        source_lang="fr",
        target_lang="en",
        out=str(folder / f"corpus-{workers}"),
        lines_per_block=2_000,
    )
    pictures = EmbedSettings(
        images=str(folder / "images"),
        out=str(folder / f"features-{workers}"),
        backbone="efficientnet_lite0",
        batch_size=16,
    )
    training = TrainSettings.model_validate(
        {
            "corpus": text.out,
            "out": str(folder / f"model-{workers}"),
            "epochs": 1,
            "batches": {"size": WORDS, "unit": "tokens"},
            "samples": 0,
        }
    )
    with ray_session(workers):
        times = [time.monotonic()]
        prepared = prepare(text)
        times.append(time.monotonic())
        features = embed_images(pictures)
        times.append(time.monotonic())
        metrics = train(training, lambda event: None, Resources(workers, cpus_per_worker=1))
        times.append(time.monotonic())
    seconds = np.diff(times).tolist()
    figures = {
        "prepare_s": seconds[0],
        "pairs": prepared["train_pairs"],
        "embed_s": seconds[1],
        "pictures": features["embedded"],
        "train_s": seconds[2],
        "words_per_s": metrics["tokens_per_second"],
    }
    return {name: round(value, 1) for name, value in figures.items()}


def measure_pictures(contents: list[bytes]) -> dict[str, float]:
    """Measure photographs a second of one core: decoded and cut to size; drawn as a view."""
    pictures: list[Any] = []
    settings = AugmentSettings()

    def decode_all() -> None:
        pictures.extend(decode(content, enough(224)).picture for content in contents)
        for picture in pictures:
            square(picture, 224, "crop")

    def draw_views() -> None:
        for number, picture in enumerate(pictures):
            view(picture, settings, 224, number)

    decoded = rate(len(contents), decode_all)
    return {"decoded_per_s": decoded, "views_per_s": rate(len(contents), draw_views)}


def forced_loss(model: Seq2Seq, source: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Sum a translator's loss with all steps forced, of sentences without padding."""
    batch = SourceBatch(source, torch.full((len(source),), source.shape[1]))
    output = model(batch, target, torch.ones(target.shape[1], dtype=torch.bool))
    projection, by_step = model.decoder.projection, target.t()
    everywhere = torch.ones_like(by_step, dtype=torch.bool)
    losses = SequenceLoss(
        projection.weight, projection.bias, by_step, everywhere, smoothing=smoothing
    )
    return losses.of(output.features)[0]


class _Loss(nn.Module):
    """The loss of a word, as a module whose gradients can be averaged."""

    def __init__(self, model: Seq2Seq):
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return forced_loss(self.model, source, target) / target.numel()


def _reduce(rank: int, folder: Path) -> dict[str, dict[str, float]]:
    """Train in one of two processes; return a step's bytes sent and seconds by reduction."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    figures: dict[str, Any] = {}
    for name in ("plain", "rows"):
        torch.manual_seed(0)
        module = _Loss(translator(*VOCABULARIES))
        state = Reduction.of(module)
        if name == "plain":
            wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True)
            sent = sum(parameter.numel() * 4 for parameter in module.parameters())
        else:
            wrapped = DistributedDataParallel(
                module, gradient_as_bucket_view=True, bucket_cap_mb=BUCKET_MB
            )
            wrapped.register_comm_hook(state, average)
            sent = 0
        generator = torch.Generator().manual_seed(rank)
        shares = [1 / torch.arange(1.0, size - 3) for size in VOCABULARIES]
        times = []
        for _ in range(STEPS):
            size = (WORDS // LENGTH // 2) * LENGTH
            source, target = (
                4 + torch.multinomial(share, size, True, generator=generator).view(-1, LENGTH)
                for share in shares
            )
            module.zero_grad(set_to_none=True)
            begin = time.perf_counter()
            wrapped(source, target).backward()
            times.append(time.perf_counter() - begin)
        figures[name] = {
            "bytes": sent or state.payload_bytes / STEPS,
            "seconds": float(np.median(times[2:])),
        }
    distributed.destroy_process_group()
    return figures


def measure(pairs: int, pictures: int, folder: Path) -> dict[str, Any]:
    """Measure everything, each number of workers in a process of its own."""
    write_pairs(folder, "text", generate_pairs(pairs, seed=1))
    contents = [photograph(number) for number in range(pictures)]
    write_files(folder / "images", contents)
    torch.set_num_threads(1)
    result: dict[str, Any] = {"jobs": {}, "core": measure_pictures(contents[:100])}
    print(f"one core: {result['core']}", file=sys.stderr, flush=True)
    for count in COUNTS:
        result["jobs"][count] = in_a_process(measure_jobs, count, folder)
        print(f"{count} workers: {result['jobs'][count]}", file=sys.stderr, flush=True)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        result["reduction"], _ = pool.map(partial(_reduce, folder=folder), range(2))
    return result


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30_000)
    parser.add_argument("--pictures", type=int, default=240)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(flags.pairs, flags.pictures, Path(folder))
    rows: list[list[Any]] = [
        [
            count,
            f"{figures['pairs'] / figures['prepare_s']:,.0f}",
            f"{figures['pictures'] / figures['embed_s']:.1f}",
            f"{figures['words_per_s']:,.0f}",
            f"{figures['train_s']:.0f}",
        ]
        for count, figures in result["jobs"].items()
    ]
    heads = ["workers", "prepare, pairs/s", "embed, pictures/s", "train, words/s"]
    print(as_table([*heads, "whole training, s"], *rows))
    rows = [
        [name, f"{figures['bytes'] / 1e6:.2f}", f"{1e3 * figures['seconds']:.0f}"]
        for name, figures in result["reduction"].items()
    ]
    heads = ["gradients", "sent a step and worker, MB", "forward and backward, ms"]
    print(as_table(heads, *rows))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What 1, 2 and 4 workers do on this machine, and what averaging gradients sends.

For each number N of workers, a Ray of N logical processors of its own: `prepare_corpus` on
generated pairs, `embed_images` on made-up photographs, and training. Then two processes joined by
gloo train a translator with vocabularies as large as Multi30k's, with gradients averaged as
DistributedDataParallel does by itself and as `seqvis.training.reduction` does. Prints two tables
and, last, one JSON line. With more workers than cores it is overhead that shows, not speed.

    python -m benchmarks.scaling --pairs 30000 --pictures 240
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.scaling_model import translator
from seqvis.cluster import ray_session
from seqvis.samples.questions import generate_pairs
from seqvis.training.reduction import Reduction, average
from seqvis.training.workers import BUCKET_MB
from seqvis.translation.losses import projected_cross_entropy
from seqvis.translation.model import Seq2Seq
from seqvis.translation.prepare import prepare
from seqvis.translation.prepare_settings import PrepareSettings
from seqvis.translation.train import TrainSettings, train
from seqvis.vision.augment import AugmentSettings, augment, augmenter
from seqvis.vision.features import EmbedSettings, embed_images
from seqvis.vision.images import decode, enough, square

COUNTS = (1, 2, 4)
VOCABULARIES = (6_469, 5_892)  # Multi30k's words that occur twice
LENGTH, WORDS = 15, 1_600  # of a sentence; of a batch, all workers together
STEPS = 8


def photograph(seed: int) -> bytes:
    """A JPEG of 500 x 375 with edges and texture, about as large as ImageNet's."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = draw.normal(0, 20, smooth.shape).astype(np.int16)
    stream = io.BytesIO()
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(
        stream, "JPEG", quality=90
    )
    return stream.getvalue()


def measure_jobs(workers: int, folder: Path) -> dict[str, float]:
    """Rates of the three jobs in a Ray of `workers` processors; seconds hold all but its start."""
    with ray_session(workers):
        begin = time.monotonic()
        out = str(folder / f"corpus-{workers}")
        prepared = prepare(
            PrepareSettings(
                source=str(folder / "text.fr"),
                target=str(folder / "text.en"),
                source_lang="fr",
                target_lang="en",
                out=out,
                lines_per_block=2_000,
            )
        )
        found = {"prepare_s": time.monotonic() - begin, "pairs": prepared["train_pairs"]}
        begin = time.monotonic()
        features = embed_images(
            EmbedSettings(
                images=str(folder / "images"),
                out=str(folder / f"features-{workers}"),
                backbone="efficientnet_lite0",
                batch_size=16,
            )
        )
        found |= {"embed_s": time.monotonic() - begin, "pictures": features["embedded"]}
        settings = TrainSettings.model_validate(
            {
                "corpus": out,
                "out": str(folder / f"model-{workers}"),
                "epochs": 1,
                "batches": {"size": WORDS, "unit": "tokens"},
                "samples": 0,
            }
        )
        begin = time.monotonic()
        metrics = train(settings, lambda event: None, workers, cpus_per_worker=1)
        found |= {"train_s": time.monotonic() - begin, "words_per_s": metrics["tokens_per_second"]}
    return {name: round(value, 1) for name, value in found.items()}


def measure_pictures(contents: list[bytes]) -> dict[str, float]:
    """Photographs a second of one core: decoded and cut to size; and a view of each drawn."""
    begin = time.perf_counter()
    pictures = [decode(content, enough(224)).picture for content in contents]
    for picture in pictures:
        square(picture, 224, "crop")
    decoded = time.perf_counter() - begin
    transform = augmenter(AugmentSettings(), 224)
    begin = time.perf_counter()
    for number, picture in enumerate(pictures):
        augment(picture, transform, number)
    seen = time.perf_counter() - begin
    return {"decoded_per_s": len(contents) / decoded, "views_per_s": len(contents) / seen}


class _Loss(nn.Module):
    """A translator's loss with all steps forced."""

    def __init__(self, model: Seq2Seq):
        super().__init__()
        self.model = model

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        lengths = torch.full((len(source),), source.shape[1])
        output = self.model(source, lengths, target, torch.ones(target.shape[1], dtype=torch.bool))
        projection = self.model.decoder.projection
        flat = output.outputs.flatten(0, 1)
        total, _ = projected_cross_entropy(
            flat, projection.weight, projection.bias, target.t().flatten()
        )
        return total / len(flat)


def _reduce(rank: int, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    found: dict[str, Any] = {}
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
            size = (WORDS // LENGTH // count) * LENGTH
            source, target = (
                4 + torch.multinomial(share, size, True, generator=generator).view(-1, LENGTH)
                for share in shares
            )
            module.zero_grad(set_to_none=True)
            begin = time.perf_counter()
            wrapped(source, target).backward()
            times.append(time.perf_counter() - begin)
        found[name] = {
            "bytes": sent or state.payload_bytes / STEPS,
            "seconds": float(np.median(times[2:])),
        }
    if rank == 0:
        (Path(folder) / f"{count}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
    (Path(folder) / "store").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=30_000)
    parser.add_argument("--pictures", type=int, default=240)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure_jobs(arguments.one, arguments.folder)))
        return 0
    result: dict[str, Any] = {"jobs": {}, "reduction": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pairs = generate_pairs(arguments.pairs, seed=1)
        for side, name in enumerate(("text.fr", "text.en")):
            (folder / name).write_text("".join(f"{pair[side]}\n" for pair in pairs))
        contents = [photograph(number) for number in range(arguments.pictures)]
        (folder / "images").mkdir()
        for number, content in enumerate(contents):
            (folder / "images" / f"{number}.jpg").write_bytes(content)
        torch.set_num_threads(1)
        result["core"] = measure_pictures(contents[:100])
        print(f"one core: {result['core']}", file=sys.stderr, flush=True)
        for count in COUNTS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.scaling",
                "--one",
                str(count),
                "--folder",
                str(folder),
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result["jobs"][count] = json.loads(done.stdout.splitlines()[-1])
            print(f"{count} workers: {result['jobs'][count]}", file=sys.stderr, flush=True)
        multiprocessing.spawn(_reduce, (2, str(folder)), 2)
        result["reduction"] = json.loads((folder / "2.json").read_text())
    print("| workers | prepare, pairs/s | embed, pictures/s | train, words/s | whole training, s |")
    print("| --- | --- | --- | --- | --- |")
    for count, found in result["jobs"].items():
        rates = (found["pairs"] / found["prepare_s"], found["pictures"] / found["embed_s"])
        print(
            f"| {count} | {rates[0]:,.0f} | {rates[1]:.1f} | {found['words_per_s']:,.0f} "
            f"| {found['train_s']:.0f} |"
        )
    print("\n| gradients | sent a step and worker, MB | forward and backward, ms |")
    print("| --- | --- | --- |")
    for name, found in result["reduction"].items():
        print(f"| {name} | {found['bytes'] / 1e6:.2f} | {1e3 * found['seconds']:.0f} |")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

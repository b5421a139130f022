"""How fast a worker fine-tunes, and gets its pictures: from decoding tasks, or its own threads.

    python -m benchmarks.finetuning --images ../shared/data/tiny-imagenet/train

One worker with one processor, in a Ray that has none, one or two more processors for decoding
tasks; with none it reads in its own threads, as before there was a stream. It reads the plan of a
fine-tuning with no network to wait for, and it fine-tunes EfficientNet-Lite0. Pictures have 224
pixels a side. Ray's processors are logical: where the machine has fewer, the tasks share them with
the worker.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks.instrument import HEADINGS, Side, as_table, compare, in_a_process
from benchmarks.material import write_vectors
from seqvis.cluster import ray_session
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train
from seqvis.devise.views import MakeViews, Plan, ViewReader
from seqvis.storage import locate
from seqvis.training.stream import Stream
from seqvis.training.workers import Resources
from seqvis.vision.augment import AugmentSettings
from seqvis.vision.embed import EmbedSettings, embed_images
from seqvis.vision.listing import list_images

TASKS = {"threads": 0, "one task": 1, "two tasks": 2}
PICTURES, LABELS, BATCH, EPOCHS, WARM = 240, 20, 32, 4, 10


def read_views(images: Path, tasks: int) -> float:
    """Return the views a second that a worker gets, but for the first ten batches."""
    torch.set_num_threads(1)
    listing = list_images(locate(str(images)))
    some, none = listing.table.slice(0, PICTURES), listing.table.slice(0, 0)
    make = MakeViews(listing.filesystem, listing.filesystem, 224, "crop", AugmentSettings())
    plan = Plan(some, none, BATCH, EPOCHS, seed=1)
    times = []
    with ray_session(1 + tasks):
        reader = ViewReader(plan, make, Stream(1, lambda event: print(event, file=sys.stderr)))
        for epoch in range(EPOCHS):
            reader.start(epoch, 0)
            for step in plan.training(epoch):
                reader.take(step)
                times.append(time.perf_counter())
        reader.close()
    return BATCH * (len(times) - WARM) / (times[-1] - times[WARM - 1])


def embed(images: Path, folder: Path) -> None:
    """Write the features that fine-tuning begins with, of pictures with arbitrary labels."""
    paths = list_images(str(images)).table["path"].slice(0, PICTURES)
    labels = [f"word{row % LABELS}" for row in range(len(paths))]
    settings = EmbedSettings(
        images=str(images), out=str(folder / "features"), backbone="efficientnet_lite0"
    )
    embed_images(settings, session=ray_session, table=pa.table({"uri": paths, "label": labels}))
    write_vectors(folder / "vectors")


def fine_tune(folder: Path, tasks: int) -> float:
    """Return the pictures a second that a worker fine-tunes on, but for the first epoch."""
    history: list[dict[str, Any]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            history[:] = event["history"]

    with tempfile.TemporaryDirectory(dir=folder) as out:
        settings = DeviseSettings.model_validate(
            {
                "features": str(folder / "features"),
                "vectors": str(folder / "vectors"),
                "out": f"{out}/model",
                "epochs": 1,
                "finetune": {"epochs": 3, "batch_size": BATCH},
            }
        )
        train(
            settings,
            listen,
            Resources(1, cpus_per_worker=1),
            session=partial(ray_session, 1 + tasks),
        )
    return statistics.median(row["pictures_per_second"] for row in history[1:])


def main() -> int:
    """Measure in turn and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()

    def measured(measure: Callable[[Path, int], float], place: Path, tasks: int) -> float:
        rate = in_a_process(measure, place, tasks)
        print(f"{measure.__name__}, {tasks} tasks: {rate:.1f}/s", file=sys.stderr, flush=True)
        return rate

    with tempfile.TemporaryDirectory() as folder:
        in_a_process(embed, flags.images, Path(folder))
        rows = []
        for stage, unit, measure, place in (
            ("views alone", "views/s", read_views, flags.images),
            ("fine-tuning", "pictures/s", fine_tune, Path(folder)),
        ):
            sides = [
                Side(name, partial(measured, measure, place, tasks))
                for name, tasks in TASKS.items()
            ]
            rows.append(compare(stage, unit, sides, flags.rounds))
    print(as_table(HEADINGS[:5], *(cells[:5] for row in rows for cells in row.cells())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

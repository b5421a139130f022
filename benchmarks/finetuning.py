"""How fast a worker that fine-tunes gets its pictures: from decoding tasks, or its own threads.

    python -m benchmarks.finetuning --images ../shared/data/tiny-imagenet/train

One worker with one processor reads the plan of a fine-tuning, with no network to wait for, in a Ray
that has none, one or two more processors for decoding tasks; with none it reads in its own threads.
Views have 224 pixels a side. Ray's processors are logical: where the machine has fewer, the tasks
share them with the worker.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.instrument import as_table, in_a_process
from seqvis.cluster import ray_session
from seqvis.devise.views import MakeViews, Plan, ViewReader
from seqvis.storage import locate
from seqvis.training.stream import Stream
from seqvis.vision.augment import AugmentSettings
from seqvis.vision.listing import list_images

TASKS = (0, 1, 2)
PICTURES, BATCH, EPOCHS, WARM = 240, 32, 4, 10


def read_views(tasks: int, images: Path) -> float:
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


def main() -> int:
    """Measure in turn and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    rates: dict[int, list[float]] = {tasks: [] for tasks in TASKS}
    for _ in range(flags.rounds):
        for tasks, found in rates.items():
            found.append(in_a_process(read_views, tasks, flags.images))
            print(f"{tasks} tasks: {found[-1]:.0f} views/s", file=sys.stderr, flush=True)
    rows = [
        [
            tasks or "none: threads",
            f"{statistics.median(found):.0f}",
            f"{min(found):.0f}",
            f"{max(found):.0f}",
        ]
        for tasks, found in rates.items()
    ]
    print(as_table(["decoding tasks", "views/s", "least", "most"], *rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())

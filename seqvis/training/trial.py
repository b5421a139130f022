"""Find out by a short trial how a training should share the processors of one machine.

One worker whose threads share every batch, or several that each train on a part of it: which is
quicker depends on the model, its batches, the processor, what else runs on it, and on whether the
extension was built (docs/results/speed.md). So processes like Ray Train's workers train on the same
batches in turn. What they found stays in `OUT.run`, because a run that resumes must not change its
workers: each has its own dropout.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from torch import distributed

from seqvis.cluster import amount, can_grow
from seqvis.process import usable_processors
from seqvis.storage import Location
from seqvis.training.events import Report
from seqvis.training.ray_train import WORKER_ENVIRONMENT, workers_that_fit
from seqvis.training.workers import Resources, Workers

Trial = Callable[[Workers], Iterator[int]]  # trains on and on; yields the words of each batch

FILE = "trial.json"
STEPS = 5  # of a turn, after one that is not counted
TURNS = 2
LEAD = 1.05  # that more workers must have over fewer: each takes a gigabyte


def share_processors(
    trial: Trial, resources: Resources, run: Location, report: Report
) -> Resources:
    """Return `resources` with the number of workers, and processors of each, that train quickest.

    They stay as they are where a GPU, processors or fewest workers are asked for, where several
    nodes may take part, and where the trial fails: the training will tell why. Ray must be
    initialised.

    Args:
        run: directory that keeps the rates.
    """
    if resources.gpu or resources.cpus_per_worker or resources.min_workers or can_grow():
        return resources
    processors = min(amount("CPU"), usable_processors())
    most = workers_that_fit(resources)
    if most == 1:
        return resources
    rates = _remembered(run, processors)
    if not rates:
        try:
            rates = _try(trial, sorted({1, most // 2, most}), processors)
        except RayError:
            return resources
        record = {"processors": processors, "words_per_second": rates}
        run.make_directory()
        (run / FILE).replace(json.dumps(record).encode())
        report({"event": "note", "text": _outcome(rates, processors)})
    workers = quickest(rates)
    return replace(resources, workers=workers, cpus_per_worker=processors // workers)


def quickest(rates: dict[int, float]) -> int:
    """Return the number of workers with the highest rate; fewer, unless more are clearly ahead."""
    best = min(rates)
    for count in sorted(rates):
        if rates[count] > LEAD * rates[best]:
            best = count
    return best


def _remembered(run: Location, processors: int) -> dict[int, float]:
    """Return the rates that this run found earlier on as many processors, or nothing."""
    if not (run / FILE).exists():
        return {}
    record = json.loads((run / FILE).read_bytes())
    if record["processors"] != processors:
        return {}
    return {int(count): rate for count, rate in record["words_per_second"].items()}


def _outcome(rates: dict[int, float], processors: int) -> str:
    sides = (
        f"{rate:,.0f} words/s by {count} of {processors // count}" for count, rate in rates.items()
    )
    return f"tried workers and their processors: {', '.join(sides)}; taking {quickest(rates)}"


def _try(trial: Trial, counts: list[int], processors: int) -> dict[int, float]:
    """Return the words a second of so many workers that share the processors."""
    rates = dict.fromkeys(counts, 0.0)
    environment = {"env_vars": WORKER_ENVIRONMENT}
    actor: Any = ray.remote(_Worker).options(num_cpus=0, runtime_env=environment)
    group = [actor.remote(trial) for _ in range(max(counts))]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(TURNS):
                for count in counts:
                    given = (count, processors // count, f"file://{folder}/{turn}-{count}")
                    started = [
                        worker.rate.remote(rank, *given)
                        for rank, worker in enumerate(group[:count])
                    ]
                    rates[count] = max(rates[count], min(ray.get(started)))
    finally:
        for worker in group:
            ray.kill(worker)
    return {count: round(rate, 1) for count, rate in rates.items()}


class _Worker:
    """The actor that trains as one of several workers, now of these and now of those."""

    def __init__(self, trial: Trial):
        self._trial = trial

    def rate(self, rank: int, count: int, threads: int, meeting: str) -> float:
        """Train for a turn; return the words a second of all workers together."""
        torch.set_num_threads(threads)
        distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
        try:
            steps = self._trial(Workers(rank, count))
            next(steps)
            began = time.perf_counter()
            return sum(islice(steps, STEPS)) / (time.perf_counter() - began)
        finally:
            distributed.destroy_process_group()

"""Processes of one thread each that train together, as Ray Train's workers do on a machine's cores.

They are started once, joined by gloo, and make some steps whenever they are told to.
"""

import os
import tempfile
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch
from torch import distributed, multiprocessing

from benchmarks.material import SEED, Material, forever
from seqvis.allocator import keep_freed_memory
from seqvis.training.ray_trainer import WORKER_ENVIRONMENT
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.stepper import Stepper
from seqvis.training.workers import Workers


class TrainingWorkers:
    """Workers that train a variant. Close them, or use them in a `with`."""

    def __init__(self, material: Material, variant: str, precision: str, count: int, steps: int):
        os.environ.update(WORKER_ENVIRONMENT)
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory()
        meeting = f"file://{self._folder.name}/meeting"
        self._steps, self._pipes, self._processes = steps, [], []
        for rank in range(count):
            here, there = context.Pipe()
            given = (there, material, variant, precision, rank, count, meeting)
            process = context.Process(target=_work, args=given, daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()  # it is ready, and does not take the processor from others by starting

    def run(self) -> float:
        """Makes the steps; real target words a second of all workers together."""
        for pipe in self._pipes:
            pipe.send(self._steps)
        found = [pipe.recv() for pipe in self._pipes]
        return float(found[0][0] / max(seconds for _, seconds in found))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _work(
    pipe: Connection,
    material: Material,
    variant: Any,
    precision: str,
    rank: int,
    count: int,
    meeting: str,
) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    workers = Workers(rank, count)
    task = material.task(variant, plain_seed=variant != "all")
    stepper = Stepper(task, OptimizerSettings(), precision, SEED, workers)
    batches = forever(task, workers)
    stepper.step(next(batches), 0, 0.0, 1e-4, 0.8)
    pipe.send("ready")
    while steps := pipe.recv():
        words, began = 0, time.perf_counter()
        for number in range(steps):
            batch = next(batches)
            stepper.step(batch, number, 0.0, 1e-4, 0.8)
            words += batch.target_words
        pipe.send((words, time.perf_counter() - began))

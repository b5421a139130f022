"""Training steps: `all` beside JoeyNMT, `plain` and `attn` beside the lesson's loop.

All sides train on the same batches with models of the same sizes; the unit is real target words.
JoeyNMT and the lesson's loop use all cores by PyTorch's threads, and profit from the freed memory
that a job's process keeps (seqvis/process.py). seqvis trains as its users do on
a processor, a worker of one thread for each core; what one process with threads does is shown too.
The limit is the rate at which the processor multiplies large matrices in the same type, over the
multiplications that the model needs for a word. That our loss is the lesson's, for equal weights,
is checked first.

Processes of one thread each that train together, as Ray Train's workers do on a machine's cores.

They are started once, joined by gloo, and make some steps whenever they are told to.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import torch
from torch import distributed, multiprocessing

from benchmarks.instrument import Row, Side, WrongResultError, compare, possible
from benchmarks.material import SEED, Material, forever, new_joeynmt
from benchmarks.peers import SeedTraining, training_batch
from seqvis.process import keep_freed_memory, usable_processors
from seqvis.training.ray_trainer import WORKER_ENVIRONMENT
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.stepper import Stepper
from seqvis.training.workers import Workers
from seqvis.translation.batches import Batch
from seqvis.translation.model import Seq2Seq
from seqvis.translation.task import TranslationTask

SECONDS = 4.0  # of a side's round
STEPS = 6  # of a round of several workers
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """One row for each variant."""
    for variant, float32, bfloat16 in (("all", 1.6, 2.8), ("attn", 1.5, 2.2), ("plain", 1.5, 2.2)):
        goals = possible({"float32": float32, "bfloat16": bfloat16})
        yield _variant(material, variant, goals, rounds)


def _variant(material: Material, variant: str, goals: dict[str, float], rounds: int) -> Row:
    task = material.task(variant, plain_seed=variant != "all")
    batches = forever(task)
    checks = {}
    if variant == "all":
        peer = new_joeynmt(task)
        reference = Side(
            "JoeyNMT", _stepping(batches, lambda batch: peer.step(training_batch(batch)))
        )
    else:
        forced = variant == "attn"
        model = task.build_model()
        assert isinstance(model, Seq2Seq)
        seed = SeedTraining(model, forced)
        checks["loss, ours and the lesson's"] = _same_loss(task, model, seed, next(batches))
        reference = Side("the lesson's loop", _stepping(batches, seed.step))
    sides = [reference]
    workers = ExitStack()
    for precision, least in goals.items():
        stepper = Stepper(task, OptimizerSettings(), precision, SEED, Workers())
        limit = f"its products in {precision}"
        share = 0.6 if variant == "all" else None
        ours = _stepping(batches, lambda batch, on=stepper: on.step(batch, 1, 0.0, 1e-4, 0.8))
        sides.append(Side(f"seqvis, {precision}, one process", ours))
        together = workers.enter_context(
            TrainingWorkers(material, variant, precision, usable_processors(), STEPS)
        )
        sides.append(Side(f"seqvis, {precision}", together.run, least, limit, share))
    for precision in goals:
        sides.append(Side(f"its products in {precision}", _product_limit(task, precision)))
    with workers:
        return compare(f"training step, {variant}", "target words/s", sides, rounds, checks)


def _stepping(batches: Iterator[Batch], step: Callable[[Batch], object]) -> Callable[[], float]:
    def run() -> float:
        words, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            batch = next(batches)
            step(batch)
            words += batch.target_words
        return words / (time.perf_counter() - began)

    return run


def _same_loss(
    task: TranslationTask, model: Seq2Seq, seed: SeedTraining, batch: Batch
) -> list[float]:
    """Both losses of the sentences of one length, where no padding is read; they must agree."""
    alike = batch.source_lengths == batch.source_lengths.mode().values
    target = batch.target[alike]
    words = int((target != 1).sum())
    chosen = Batch(
        batch.source[alike][:, : int(batch.source_lengths[alike][0])],
        batch.source_lengths[alike],
        target,
        words,
        target.numel(),
    )
    model.eval()
    seed.model.eval()
    with torch.no_grad():
        ours = float(task.loss(model, chosen, 0.0).loss)
        theirs = float(seed.loss(chosen))
    if abs(ours - theirs) > 1e-3 * abs(theirs):
        raise WrongResultError(f"the loss is {ours}, the lesson's {theirs}")
    return [round(ours, 5), round(theirs, 5)]


def _product_limit(task: TranslationTask, precision: str) -> Callable[[], float]:
    """Words a second if training were nothing but products of large matrices."""
    model = task.build_model()
    batch = next(islice(task.batches(0, 0, Workers()), 1))
    flops = task.flops(model, batch) / batch.target_words
    size = 2048
    left, right = (torch.randn(size, size).to(_TYPES[precision]) for _ in range(2))

    def run() -> float:
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS / 6:
            left @ right
            count += 1
        return count * 2 * size**3 / (time.perf_counter() - began) / flops

    return run


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

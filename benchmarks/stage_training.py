"""Training steps: `all` beside JoeyNMT, `plain` and `attn` beside the lesson's loop.

All sides train on the same batches with models of the same sizes; the unit is real target words.
JoeyNMT and the lesson's loop use all cores by PyTorch's threads; the latter profits from the freed
memory that a job's process keeps (`seqvis/process.py`). seqvis trains in processes like Ray Train's
workers: in one with all threads, and in one of one thread for each core. The limit is the rate at
which the processor multiplies large matrices in the same type, over the multiplications that the
model needs for a word. First our loss is compared with the lesson's, for equal weights.

Also how long a training job takes from the shell to the end of its first step: in one process, and
with two Ray workers, on a Ray of its own and on one that stands. The limit is Python that imports
PyTorch and nothing else.
"""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from unittest.mock import patch

import psutil
import torch
from torch import distributed, multiprocessing

from benchmarks.instrument import (
    Row,
    Side,
    WrongResultError,
    agreed,
    compare,
    possible,
    rate,
    rate_over,
)
from benchmarks.joeynmt import joeynmt_process
from benchmarks.material import PRESET, SEED, Material, StandingRay, forever, standing_ray
from benchmarks.peers import LessonTraining
from seqvis.decoding.linear import Precision
from seqvis.process import keep_few_kernels
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import Variant
from seqvis.seq2seq.state import SourceBatch
from seqvis.training.ray_train import WORKER_ENVIRONMENT
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import TrainingStep
from seqvis.training.workers import Workers
from seqvis.translation.batches import Batch
from seqvis.translation.task import TrainSettings, TranslationTask

GOALS: tuple[tuple[Variant, float, float], ...] = (
    ("all", 2.0, 4.0), ("attn", 1.5, 2.2), ("plain", 1.5, 2.2),
)  # fmt: skip
"""How many times the reference's rate is wanted in float32 and in bfloat16."""
SECONDS = 4.0  # of a side's round
STEPS = 6  # of a round of several workers
_FIRST_STEP = "% MFU"  # a part of what the job shows after its first step
_WIDE = struct.pack("HHHH", 50, 300, 0, 0)  # rows and columns: nothing is cut off
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """One row for each variant."""
    for variant, float32, bfloat16 in GOALS:
        goals = possible({"float32": float32, "bfloat16": bfloat16})
        yield _variant(material, variant, goals, rounds)


def _variant(
    material: Material, variant: Variant, goals: Mapping[Precision, float], rounds: int
) -> Row:
    task = material.task(variant, of_lesson=variant != "all")
    checks = {}
    with ExitStack() as stack:
        if variant == "all":
            joeynmt = stack.enter_context(joeynmt_process(task))
            sides = [Side("JoeyNMT", partial(joeynmt, "train", SECONDS))]
        else:
            model, batches = task.build_model(), forever(task)
            assert isinstance(model, Seq2Seq)
            lesson = LessonTraining(model, forced=variant == "attn")
            checks["loss, ours and the lesson's"] = _same_loss(task, model, lesson, next(batches))
            sides = [Side("the lesson's loop", _stepping(batches, lesson.step))]
        for precision, least in goals.items():
            limit, share = f"its products in {precision}", 0.6 if variant == "all" else None
            single, worker_a_core = (
                stack.enter_context(_training_workers(task, precision, count))
                for count in (1, torch.get_num_threads())
            )
            sides.append(Side(f"seqvis, {precision}, one worker", single, least, limit, share))
            sides.append(Side(f"seqvis, {precision}, a worker a core", worker_a_core))
        for precision in goals:
            sides.append(Side(f"its products in {precision}", _product_limit(task, precision)))
        return compare(f"training step, {variant}", "target words/s", sides, rounds, checks)


def _step(training: TrainingStep, batch: Batch) -> None:
    training.step(batch, 1, 0.0, 1e-4, 0.8)


def _stepping(batches: Iterator[Batch], step: Callable[[Batch], object]) -> Callable[[], float]:
    def work() -> float:
        batch = next(batches)
        step(batch)
        return batch.target_words

    return lambda: rate_over(SECONDS, work)


def _same_loss(
    task: TranslationTask, model: Seq2Seq, lesson: LessonTraining, batch: Batch
) -> list[float]:
    """Both losses of the sentences of one length, where no padding is read; they must agree."""
    lengths = batch.source.lengths
    alike = lengths == lengths.mode().values
    target = batch.target[alike]
    words = int((target != 1).sum())
    chosen = Batch(
        SourceBatch(batch.source.ids[alike][:, : int(lengths[alike][0])], lengths[alike]),
        target,
        words,
        target.numel(),
    )
    model.eval()
    lesson.model.eval()
    with torch.no_grad():
        ours = float(task.loss(model, chosen, 0.0).loss)
        theirs = float(lesson.loss(chosen))
    return agreed(ours, theirs, 1e-3)


def _product_limit(task: TranslationTask, precision: str) -> Callable[[], float]:
    """Words a second if training were nothing but products of large matrices."""
    model = task.build_model()
    batch = next(islice(task.batches(0, 0, Workers()), 1))
    flops = task.flops(model, batch) / batch.target_words
    size = 2048
    left, right = (torch.randn(size, size).to(_TYPES[precision]) for _ in range(2))

    def multiply() -> float:
        left @ right
        return 2 * size**3 / flops

    return lambda: rate_over(SECONDS / 6, multiply)


@contextmanager
def _training_workers(
    task: TranslationTask, precision: str, count: int
) -> Iterator[Callable[[], float]]:
    """Start processes that train together, joined by gloo; they share this one's threads.

    Yields a function that lets them make some steps, and returns the words a second.
    """
    context = multiprocessing.get_context("spawn")
    threads = torch.get_num_threads() // count
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(count):
            here, there = context.Pipe()
            meeting = f"file://{folder}/meeting"
            given = (there, task.settings, precision, rank, count, threads, meeting)
            process = context.Process(target=_work, args=given, daemon=True)
            with patch.dict(os.environ, WORKER_ENVIRONMENT):
                process.start()
            pipes.append(here)
            processes.append(process)
        for pipe in pipes:
            pipe.recv()  # it is ready, and does not take the processor from others by starting

        def run() -> float:
            for pipe in pipes:
                pipe.send(STEPS)
            words, seconds = zip(*(pipe.recv() for pipe in pipes), strict=True)
            return float(words[0] / max(seconds))

        try:
            yield run
        finally:
            for process in processes:
                process.kill()
                process.join()


def _work(
    pipe: Connection,
    settings: TrainSettings,
    precision: str,
    rank: int,
    count: int,
    threads: int,
    meeting: str,
) -> None:
    torch.set_num_threads(threads)
    keep_few_kernels()
    distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    workers, task = Workers(rank, count), TranslationTask(settings)
    training = TrainingStep(task, OptimizerSettings(), precision, SEED, workers)
    batches = forever(task, workers)
    _step(training, next(batches))
    pipe.send("ready")
    while steps := pipe.recv():
        words, began = 0, time.perf_counter()
        for _ in range(steps):
            batch = next(batches)
            _step(training, batch)
            words += batch.target_words  # of all workers
        pipe.send((words, time.perf_counter() - began))


def measure_start(material: Material, rounds: int) -> Iterator[Row]:
    """How often a second a training job could be started, to the end of its first step.

    The checks are the seconds of processor time that each start took, in all its processes.
    """
    command = [
        sys.executable, "-m", "jobs.train_translator", "--config", str(PRESET),
        "--corpus", str(material.corpus.location.uri), "--out", str(material.work / "started"),
        "--restart", "--cpus-per-worker", "1",
    ]  # fmt: skip
    imported = [sys.executable, "-c", "import torch"]
    spent: dict[str, list[float]] = {}
    with standing_ray("--num-cpus=2") as ray:

        def side(where: str, *flags: str, standing: StandingRay | None = None) -> Side:
            used = spent.setdefault(f"processor seconds, {where}", [])
            job = partial(_first_step, [*command, *flags], used, standing)
            return Side(f"train_translator, {where}", lambda: 1 / job())

        sides = [
            Side(
                "python -c 'import torch'", lambda: rate(1, lambda: subprocess.check_call(imported))
            ),
            side("this process", "--num-workers", "0"),
            side("two workers", "--num-workers", "2"),
            side(
                "two workers, standing Ray", "--num-workers", "2", "--address", "auto", standing=ray
            ),
        ]
        yield compare("start to first step", "starts/s", sides, rounds, spent)


def _first_step(command: list[str], used: list[float], standing: StandingRay | None) -> float:
    """Seconds until a job shows progress on its terminal; then it is stopped.

    Adds to `used` the processor time of its processes, and of a standing Ray's meanwhile.
    """
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, _WIDE)
    shown, began = "", time.perf_counter()
    environment = {**(standing.environment if standing else os.environ), "TERM": "xterm"}
    before = _processor_seconds(standing.process) if standing else 0.0
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment
    ) as job:
        os.close(terminal)
        while _FIRST_STEP not in shown:
            try:
                shown += os.read(screen, 1 << 16).decode(errors="replace")
            except OSError as error:  # the job has ended
                raise WrongResultError(shown) from error
        seconds = time.perf_counter() - began
        after = _processor_seconds(standing.process) if standing else 0.0
        used.append(round(_processor_seconds(psutil.Process(job.pid)) + after - before, 1))
        job.terminate()
        with suppress(OSError):  # it would wait for a terminal that nobody reads
            while job.poll() is None:
                if select.select([screen], [], [], 0.1)[0]:
                    os.read(screen, 1 << 16)
    os.close(screen)
    return seconds


def _processor_seconds(process: psutil.Process) -> float:
    """Seconds that a process and its descendants have used, the ended ones included."""
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += sum(each.cpu_times()[:4])
    return total

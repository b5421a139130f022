"""Runs the training loop in one or many processes on a Ray cluster, with Ray Train.

`run_workers` starts N workers that each call `function(argument, report)` with a process group
joined, restarts them when one dies, and passes what the first one reports to the caller. Ray Train
wraps the loop and does not replace it: checkpoints are the loop's own, so a restarted group goes
on where the last one says, on however many workers.
"""

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Empty, Queue

from seqvis.cluster import amount, can_grow
from seqvis.errors import ConfigError, SeqvisError, TrainingError
from seqvis.storage import Location

Report = Callable[[dict[str, Any]], None]
WorkerFunction = Callable[[Any, Report], None]

# Settings of libraries that are read when a process starts; docs/training.md, "On a CPU".
_WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take the processor from each other
    "MALLOC_ARENA_MAX": "1",  # Ray's training thread would get a second, slower arena of glibc's
}


def run_workers(
    function: WorkerFunction,
    argument: Any,
    report: Report,
    num_workers: int,
    use_gpu: bool,
    storage: Location,
    cpus_per_worker: int = 0,
    max_failures: int = 3,
) -> None:
    """Trains to the end, or raises what stopped it.

    Args:
        function: module-level; called in each worker. What it saves must be on storage that all
            workers reach.
        argument: its first argument, picklable.
        report: called in this process, from its main thread, with each event.
        num_workers: 0 runs the function in this process, without Ray.
        storage: directory for Ray Train's own records of the run.
        cpus_per_worker: 0: an equal share of the processors that the cluster has now.
        max_failures: how often a dead worker is replaced.

    Raises:
        SeqvisError: what a worker raised; TrainingError if workers died too often.
    """
    if num_workers == 0:
        function(argument, report)
        return
    threads = cpus_per_worker or _share_of_cpus(num_workers)
    _check_resources(num_workers, threads, use_gpu, report)
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        _enter_worker,
        train_loop_config={
            "function": function,
            "argument": argument,
            "queue": queue,
            "threads": threads,
        },
        scaling_config=ScalingConfig(
            num_workers=num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": threads, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:8]}",
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=FailureConfig(max_failures=max_failures),
            worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT},  # type: ignore[call-arg]
        ),
    )
    outcome: list[BaseException] = []
    # Not in the main thread: there Ray Train would take over Ctrl-C.
    thread = threading.Thread(target=_fit, args=(trainer, outcome), daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            _pass_on(queue, report)
        _pass_on(queue, report)
    finally:
        queue.shutdown(force=True)
    if outcome:
        raise TrainingError(
            f"the workers died {max_failures + 1} times and were not started again; the last "
            f"error: {outcome[0]}"
        ) from outcome[0]


def _enter_worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    queue = config["queue"]

    def report(event: dict[str, Any]) -> None:
        queue.actor.put_nowait.remote(event)

    try:
        config["function"](config["argument"], report)
    except SeqvisError as error:
        # A restart would meet it again: the caller stops here.
        ray.get(queue.actor.put_nowait.remote({"event": "error", "error": error}))
        raise


def _fit(trainer: TorchTrainer, outcome: list[BaseException]) -> None:
    try:
        trainer.fit()
    except BaseException as error:  # handed to the main thread, which raises it
        outcome.append(error)


def _pass_on(queue: Queue, report: Report) -> None:
    """Waits up to half a second for events and passes on those that came."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        try:
            event = queue.get(timeout=0.2)
        except Empty:
            return
        if event["event"] == "error":
            raise event["error"]
        report(event)


def _share_of_cpus(num_workers: int) -> int:
    return max(1, amount("CPU") // num_workers)


def _check_resources(num_workers: int, threads: int, use_gpu: bool, report: Report) -> None:
    """Ray Train would wait for ever for what the cluster does not have."""
    needs = {"CPU": num_workers * threads, **({"GPU": num_workers} if use_gpu else {})}
    for name, wanted in needs.items():
        have = amount(name)
        if wanted <= have:
            continue
        if not can_grow():
            raise ConfigError(
                f"--num-workers {num_workers}: needs {wanted} {name}s, this Ray has {have}; take "
                f"fewer workers" + (", or leave out --use-gpu" if name == "GPU" else "")
            )
        text = f"waiting for nodes: {wanted} {name}s are needed, the cluster has {have}"
        report({"event": "note", "text": text})

"""Runs the training loop in one or many processes on a Ray cluster, with Ray Train.

`run_workers` starts N workers that each call `function(argument, workers, report)` with a process
group joined, restarts them when one dies, and passes what the first one reports to the caller. Ray
Train wraps the loop and does not replace it: checkpoints are the loop's own, so a restarted group
goes on where the last one says, on however many workers. When a node is drained, the workers learn
of it by `Workers.leaving`, and the group is restarted without the node at the drain's deadline.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.execution.context import get_train_context
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from seqvis.errors import ConfigError, SeqvisError, TrainingError
from seqvis.training.workers import Workers, this_worker

Report = Callable[[dict[str, Any]], None]
WorkerFunction = Callable[[Any, Workers, Report], None]

# Settings of libraries that are read when a process starts; docs/training.md, "On a CPU".
_WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take the processor from each other
    "MALLOC_ARENA_MAX": "1",  # Ray's training thread would get a second, slower arena of glibc's
}
# Seconds that an elastic group waits for its processors. For some seconds Ray counts those of a
# lost node, and waits for them a minute before it counts again.
_START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")


def run_workers(
    function: WorkerFunction,
    argument: Any,
    report: Report,
    num_workers: int,
    use_gpu: bool,
    storage: str,
    cpus_per_worker: int = 0,
    min_workers: int = 0,
    max_failures: int = 3,
) -> None:
    """Trains to the end, or raises what stopped it.

    Args:
        function: module-level; called in each worker. What it saves must be on storage that all
            workers reach.
        argument: its first argument, picklable.
        report: called in this process, from its main thread, with each event.
        num_workers: 0 runs the function in this process, without Ray.
        storage: directory or URI for Ray Train's own records of the run.
        cpus_per_worker: 0: an equal share of the cluster's processors.
        min_workers: when nodes are lost, training goes on with as many workers as there is room
            for, down to this number, and grows again up to `num_workers` within a minute or so of
            a node's coming back; 0: it waits for room for `num_workers`.
        max_failures: how often dead workers are replaced; those of a drained node do not count.

    Raises:
        SeqvisError: what a worker raised; TrainingError if workers died too often.
    """
    if num_workers == 0:
        function(argument, this_worker(use_gpu), report)
        return
    threads = cpus_per_worker or _share_of_cpus(num_workers)
    if min_workers > num_workers:
        raise ConfigError(f"--min-workers {min_workers}: is more than --num-workers {num_workers}")
    _check_resources(min_workers or num_workers, threads, use_gpu)
    if min_workers:
        os.environ.setdefault(*_START_TIMEOUT)
    queue = _queue_here()
    trainer = TorchTrainer(
        _enter_worker,
        train_loop_config={
            "function": function,
            "argument": argument,
            "queue": queue,
            "threads": threads,
            "use_gpu": use_gpu,
        },
        scaling_config=ScalingConfig(
            num_workers=(min_workers, num_workers) if min_workers else num_workers,  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": threads, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:8]}",
            storage_path=storage,
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


def _queue_here() -> Queue:
    """A queue on this process's node: on a worker's, it would be lost with that node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _enter_worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    queue = config["queue"]
    workers = replace(this_worker(config["use_gpu"]), leaving=_node_is_drained)

    def report(event: dict[str, Any]) -> None:
        queue.actor.put_nowait.remote(event)

    try:
        config["function"](config["argument"], workers, report)
    except SeqvisError as error:
        # A restart would meet it again: the caller stops here.
        ray.get(queue.actor.put_nowait.remote({"event": "error", "error": error}))
        raise


def _node_is_drained() -> bool:
    """Whether Ray is draining a node that one of the workers runs on.

    Ray Train's watcher tells every worker. `ray.train.get_preemption_info` would wait for all of
    them to agree, which the loop does not need, at some milliseconds a call.
    """
    return get_train_context().preemption_context.preemption_info is not None


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
    return max(1, int(ray.cluster_resources().get("CPU", 1)) // num_workers)


def _check_resources(num_workers: int, threads: int, use_gpu: bool) -> None:
    """Ray Train would wait for ever for what the cluster does not have."""
    have = ray.cluster_resources()
    needs = {"CPU": num_workers * threads, **({"GPU": num_workers} if use_gpu else {})}
    for name, amount in needs.items():
        if amount > have.get(name, 0) and not _can_grow():
            raise ConfigError(
                f"--num-workers {num_workers}: needs {amount} {name}s, this Ray has "
                f"{have.get(name, 0):.0f}; take fewer workers"
                + (", or leave out --use-gpu" if name == "GPU" else "")
            )


def _can_grow() -> bool:
    """Whether the Ray is a cluster, which may have an autoscaler, and not one on this machine."""
    return len(ray.nodes()) > 1

"""Run the training loop in processes on a Ray cluster, with Ray Train.

`run_workers` starts N workers that each call `function(argument, workers, report)` in a joined
process group, restarts them when one dies, and passes the first one's reports to the caller. Ray
Train wraps the loop and does not replace it: checkpoints are the loop's own, so a restarted group
resumes from the last one, with any number of workers. When a node is drained, the workers learn of
it through `Workers.leaving`, and at the drain's deadline the group is restarted without the node.
"""

import os
import threading
import time
import uuid
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from seqvis.cluster import amount, can_grow
from seqvis.errors import ConfigError, SeqvisError, TrainingError
from seqvis.process import keep_freed_memory
from seqvis.ray_internals import node_is_drained, started_here
from seqvis.storage import Location
from seqvis.training.events import Mailbox
from seqvis.training.fit import DECISIVE, Report, RunStopped, WorkerFunction, until_stopped
from seqvis.training.workers import this_worker

# Settings of libraries that are read when a process starts; docs/train/translators.md, "On a CPU".
WORKER_ENVIRONMENT = {
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
    storage: Location,
    cpus_per_worker: int = 0,
    min_workers: int = 0,
    max_failures: int = 3,
    gpus_per_worker: float = 1.0,
    stoppable: bool = False,
) -> None:
    """Trains to the end, or raises what stopped it.

    Args:
        function: module-level; called in each worker. What it saves must be on storage that all
            workers reach.
        argument: its first argument, picklable.
        report: called in this process, from its main thread, with each event.
        storage: directory for Ray Train's own records of the run.
        cpus_per_worker: 0: an equal share of the processors that the cluster has now.
        min_workers: when nodes are lost, training goes on with as many workers as there is room
            for, down to this number, and grows again up to `num_workers` within a minute or so of
            a node's coming back; 0: it waits for room for `num_workers`.
        max_failures: how often dead workers are replaced; those of a drained node do not count.
        gpus_per_worker: a share of one, so that several runs fit a GPU; only of a single worker.
        stoppable: `report` may raise RunStopped at an epoch, and the run ends there. The workers
            then wait at each epoch's end until `report` has returned.

    Raises:
        SeqvisError: what a worker raised; TrainingError if workers died too often.
    """
    threads = cpus_per_worker or _share_of_cpus(num_workers)
    gpus = gpus_per_worker if use_gpu else 0
    if min_workers > num_workers:
        raise ConfigError(f"--min-workers {min_workers}: is more than --num-workers {num_workers}")
    _check_resources(min_workers or num_workers, threads, gpus, report)
    if min_workers:
        os.environ.setdefault(*_START_TIMEOUT)
    mailbox = _mailbox_here()
    trainer = _Trainer(
        _enter_worker,
        train_loop_config={
            "function": function,
            "argument": argument,
            "mailbox": mailbox,
            "threads": threads,
            "use_gpu": use_gpu,
            "stoppable": stoppable,
        },
        scaling_config=ScalingConfig(
            num_workers=(min_workers, num_workers) if min_workers else num_workers,  # type: ignore[arg-type]
            use_gpu=use_gpu,
            resources_per_worker={"CPU": threads, **({"GPU": gpus} if gpus else {})},
        ),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:8]}",
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=FailureConfig(max_failures=max_failures),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},  # type: ignore[call-arg]
        ),
    )
    outcome: list[BaseException] = []
    # Not in the main thread: there Ray Train would take over Ctrl-C.
    thread = threading.Thread(target=_fit, args=(trainer, outcome), daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            _pass_on(mailbox, report)
        _pass_on(mailbox, report)
    finally:
        ray.kill(mailbox)
    if outcome:
        raise TrainingError(
            f"the workers died {max_failures + 1} times and were not started again; the last "
            f"error: {outcome[0]}"
        ) from outcome[0]


class _Trainer(TorchTrainer):
    """A TorchTrainer without the actors that would do nothing here.

    Each is a process that imports Ray Train before the workers may begin: one distributes Ray's
    datasets, of which there are none, and one cleans up on a cluster after a controller that was
    killed. A later Ray without this method or these names starts them again.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = {"DatasetsCallback"}
        if started_here():
            idle.add("PlacementGroupCleanerCallback")
        callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
        return [one for one in callbacks if type(one).__name__ not in idle]


def _mailbox_here() -> Any:
    """A mailbox on this process's node: on a worker's, it would be lost with that node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(Mailbox).options(**options).remote()


def _enter_worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    keep_freed_memory()
    mailbox = config["mailbox"]
    workers = replace(this_worker(config["use_gpu"]), leaving=node_is_drained)

    def report(event: dict[str, Any]) -> None:
        if not (config["stoppable"] and event["event"] in DECISIVE):
            mailbox.tell.remote(event)
        elif not ray.get(mailbox.ask.remote(event)):
            raise RunStopped

    try:
        until_stopped(config["function"], config["argument"], workers, report)
    except SeqvisError as error:
        # A restart would meet it again: the caller stops here.
        ray.get(mailbox.tell.remote({"event": "error", "error": error}))
        raise


def _fit(trainer: TorchTrainer, outcome: list[BaseException]) -> None:
    try:
        trainer.fit()
    except BaseException as error:  # handed to the main thread, which raises it
        outcome.append(error)


def _pass_on(mailbox: Any, report: Report) -> None:
    """Waits up to half a second for events and passes on those that came."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        taken = ray.get(mailbox.take.remote(0.2))
        if taken is None:
            return
        number, event = taken
        if event["event"] == "error":
            raise event["error"]
        go_on = True
        try:
            report(event)
        except RunStopped:
            go_on = False
        if number:
            mailbox.answer.remote(number, go_on)


def _share_of_cpus(num_workers: int) -> int:
    return max(1, amount("CPU") // num_workers)


def _check_resources(num_workers: int, threads: int, gpus: float, report: Report) -> None:
    """Ray Train would wait for ever for what the cluster does not have."""
    if 0 < gpus < 1 < num_workers:
        raise ConfigError(
            f"--gpus-per-worker {gpus:g}: NCCL joins no two workers on one GPU; take "
            f"--num-workers 1, or a whole GPU for each"
        )
    needs = {"CPU": num_workers * threads, **({"GPU": num_workers * gpus} if gpus else {})}
    for name, wanted in needs.items():
        have = amount(name)
        if wanted <= have:
            continue
        if not can_grow():
            raise ConfigError(
                f"--num-workers {num_workers}: needs {wanted:g} {name}s, this Ray has {have}; take "
                f"fewer workers" + (", or leave out --use-gpu" if name == "GPU" else "")
            )
        text = f"waiting for nodes: {wanted} {name}s are needed, the cluster has {have}"
        report({"event": "note", "text": text})

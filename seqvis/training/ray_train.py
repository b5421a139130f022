"""Run the training loop in processes on a Ray cluster, with Ray Train.

`run_workers` starts N workers that each call `function(settings, workers, report)` in a joined
process group, restarts them when one dies, and passes the first one's reports to the caller. Ray
Train wraps the loop and does not replace it: checkpoints are the loop's own, so a restarted group
resumes from the last one, with any number of workers. When a node is drained, the workers learn of
it through `Workers.leaving`, and at the drain's deadline the group is restarted without the node.
"""

import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from seqvis.cluster import amount, can_grow
from seqvis.errors import ConfigError, SeqvisError, TrainingError
from seqvis.process import usable_processors
from seqvis.ray_internals import jemalloc, node_is_drained, start_only_workers
from seqvis.storage import Location
from seqvis.training.events import EPOCH_EVENTS, EventQueue, Report, StopTraining
from seqvis.training.stream import Stream
from seqvis.training.workers import Resources, Workers, this_worker

# Settings of libraries that are read when a process starts; docs/train/translators.md, "On a CPU".
WORKER_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads take the processor from each other
    "LD_PRELOAD": jemalloc(),
    # One arena for all threads, which keeps what is freed, large blocks like others.
    "MALLOC_CONF": "narenas:1,oversize_threshold:0,dirty_decay_ms:-1,muzzy_decay_ms:-1",
}
_STOP_SECONDS = 10  # that the workers of a run that failed have to end
MOST_UNASKED = 4  # workers on processors where none are asked for; each needs a gigabyte
MAX_FAILURES = 3  # after which dead workers are not replaced; those of drained nodes do not count
# Seconds that an elastic group waits for its processors. For some seconds Ray counts those of a
# lost node, and waits for them a minute before it counts again.
_START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
# Seconds between Ray's looks at its workers: a training ends that much later than they do.
_LOOKS = ("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
SECONDS_BETWEEN_COUNTS = 60.0  # of the processors that an elastic group may grow on


def run_workers(
    function: Callable[[Any, Workers, Report], None],
    settings: Any,
    report: Report,
    resources: Resources,
    storage: Location,
    stoppable: bool = False,
) -> None:
    """Train to the end, or raise what stopped it.

    With `resources.min_workers` training goes on, when nodes are lost, with as many workers as
    there is room for, and grows again within a minute or so of a node's coming back.

    Args:
        function: picklable; called in each worker. What it saves must be on storage that all
            workers reach.
        settings: its first argument, picklable.
        report: called in this process, from its main thread, with each event.
        storage: directory for Ray Train's own records of the run.
        stoppable: `report` may raise StopTraining at an epoch, and the run ends there. The workers
            then wait at each epoch's end until `report` has returned.

    Raises:
        SeqvisError: what a worker raised; TrainingError if workers died too often, or if Ray ended.
    """
    workers, least = resources.workers, resources.min_workers
    if workers is None:
        workers = workers_that_fit(resources)
    threads = resources.cpus_per_worker or max(1, amount("CPU") // workers)
    gpus = resources.gpus_per_worker if resources.gpu else 0
    if least > workers:
        raise ConfigError(f"--min-workers {least}: is more than --num-workers {workers}")
    _check_resources(least or workers, threads, gpus, report)
    os.environ.setdefault(*_LOOKS)
    if least:
        os.environ.setdefault(*_START_TIMEOUT)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # On this process's node: on a worker's, the queue would be lost with that node.
    options = {"num_cpus": 0, "scheduling_strategy": here}
    events: Any = ray.remote(EventQueue).options(**options).remote()
    trainer = TorchTrainer(
        _enter_worker,
        train_loop_config={
            "function": function,
            "settings": settings,
            "events": events,
            "threads": threads,
            "gpu": resources.gpu,
            "stoppable": stoppable,
        },
        scaling_config=ScalingConfig(
            num_workers=(least, workers) if least else workers,  # type: ignore[arg-type]
            use_gpu=resources.gpu,
            resources_per_worker={"CPU": threads, **({"GPU": gpus} if gpus else {})},
            elastic_resize_monitor_interval_s=SECONDS_BETWEEN_COUNTS,  # type: ignore[call-arg]
        ),
        run_config=RunConfig(
            name=f"train-{uuid.uuid4().hex[:8]}",
            storage_path=storage.path,
            storage_filesystem=storage.filesystem,
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            worker_runtime_env={"env_vars": WORKER_ENVIRONMENT},  # type: ignore[call-arg]
        ),
    )
    stop = threading.Event()
    start_only_workers(trainer, stop)
    outcome: list[BaseException] = []
    # The main thread passes on events, and gets Ctrl-C.
    thread = threading.Thread(target=_fit, args=(trainer, outcome), daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            _pass_on(events, report)
        _pass_on(events, report)
    except Exception:
        stop.set()
        thread.join(_STOP_SECONDS)  # a Ray that is used further is left without these workers
        raise
    finally:
        ray.kill(events)
    if outcome:
        raise TrainingError(
            f"the workers died {MAX_FAILURES + 1} times and were not started again; the last "
            f"error: {outcome[0]}"
        ) from outcome[0]


def workers_that_fit(resources: Resources) -> int:
    """Return one worker for each GPU that the cluster has or, without, for each processor.

    On processors no more than `MOST_UNASKED`, and on one machine no more than it has for itself,
    whatever its Ray was told. At least one, for which an empty cluster grows.
    """
    if resources.gpu:
        return max(1, int(amount("GPU") / resources.gpus_per_worker))
    cpus = amount("CPU") if can_grow() else min(amount("CPU"), usable_processors())
    return max(1, min(cpus // max(1, resources.cpus_per_worker), MOST_UNASKED))


def _enter_worker(config: dict[str, Any]) -> None:
    torch.set_num_threads(config["threads"])
    events = config["events"]

    def report(event: dict[str, Any]) -> None:
        if not (config["stoppable"] and event["event"] in EPOCH_EVENTS):
            events.put.remote(event)
        elif not ray.get(events.put_and_wait.remote(event)):
            raise StopTraining

    workers = this_worker(config["gpu"])
    stream = Stream(workers.count * config["threads"], report)
    workers = replace(workers, leaving=node_is_drained, ahead=stream)
    try:
        with suppress(StopTraining):
            config["function"](config["settings"], workers, report)
    except SeqvisError as error:
        # A restart would meet it again: the caller stops here.
        ray.get(events.put.remote({"event": "error", "error": error}))
        raise


def _fit(trainer: TorchTrainer, outcome: list[BaseException]) -> None:
    try:
        trainer.fit()
    except BaseException as error:  # handed to the main thread, which raises it
        outcome.append(error)


def _pass_on(events: Any, report: Report) -> None:
    """Wait up to half a second for events and pass on those that came."""
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        try:
            taken = ray.get(events.get.remote(0.2))
        except RayError as error:  # it is on this node, so a lost worker is no reason
            raise TrainingError(
                "Ray ended in the middle of the training; results so far are intact: when a Ray "
                "runs again, the same command goes on from the last checkpoint"
            ) from error
        if taken is None:
            return
        number, event = taken
        if event["event"] == "error":
            raise event["error"]
        go_on = True
        try:
            report(event)
        except StopTraining:
            go_on = False
        if number:
            events.answer.remote(number, go_on)


def _check_resources(num_workers: int, threads: int, gpus: float, report: Report) -> None:
    """Raise ConfigError for what the cluster lacks: Ray Train would wait for it forever."""
    if 0 < gpus < 1 < num_workers:
        raise ConfigError(
            f"--gpus-per-worker {gpus:g}: NCCL cannot join two workers on one GPU; take "
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

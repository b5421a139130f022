"""Everything that the project uses of Ray 2.60 beyond its public interface, with the reasons.

The private modules are imported where they are used, so that a change of Ray breaks only one
function. `tests/unit/test_architecture.py` ensures that no other file imports any of them.
"""

import asyncio
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.deployment import Deployment

_NAMESPACE = "seqvis"  # of the head node's store
_CONTROLLERS_END = "Task ServeController.graceful_shutdown failed"


@contextmanager
def node_on_loopback() -> Iterator[None]:
    """Make a Ray that is started in the block a node at 127.0.0.1, in all its processes.

    Ray listens on all interfaces wherever its node has an address that others can reach. A node at
    127.0.0.1 is Ray's own way on macOS and Windows, where clusters are not supported. On Linux
    there is no setting for it, and `ray.init` replaces a loopback address by that of the machine,
    also where it joins such a node. Watched by tests/faults/test_app.py, which lists the sockets of
    a whole server.
    """
    from ray._private import ray_constants

    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(variable), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[variable] = "0"  # for the processes that are started
    ray_constants.ENABLE_RAY_CLUSTER = False  # for this one, which has read the variable
    try:
        yield
    finally:
        value, ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(variable)
        if value is not None:
            os.environ[variable] = value


def jemalloc() -> str:
    """Return the path of the allocator that Ray's package brings, "" if it brings none.

    Ray has settings to start its own processes with it, but not the workers of one training.
    Watched by tests/ray/test_train_devise.py.
    """
    from ray._private import services

    return services.JEMALLOC_SO or ""


def standing_address() -> str | None:
    """Return the address of the Ray that `ray start` began last on this machine, if there was one.

    Where it no longer runs, Ray's own "auto" takes any other Ray that it finds here, such as one
    that another job has started and will end. Watched by tests/ray/test_standing.py.
    """
    from ray._private.services import find_bootstrap_address

    address: str | None = find_bootstrap_address(None)
    return address


def keep_replica_local() -> None:
    """Let this replica take other replicas' calls on loopback alone, if its node is there.

    For the constructor of a deployment: when it is done Serve opens the port for these calls, on
    all interfaces wherever the node is. On the node of a cluster this does nothing. Watched by
    tests/unit/serve/test_loopback.py.
    """
    import ray
    from ray._common import tls_utils
    from ray._common.network_utils import build_address, get_localhost_ip, is_localhost

    if not is_localhost(ray.util.get_node_ip_address()):
        return
    from ray.serve._private import replica

    def on_loopback(server: Any, address: str) -> int:
        port = address.rpartition(":")[2]
        opened: int = tls_utils.add_port_to_grpc_server(
            server, build_address(get_localhost_ip(), port)
        )
        return opened

    replica.add_port_to_grpc_server = on_loopback


def asha_rungs(scheduler: Any) -> dict[str, dict[str, float]]:
    """Return for each milestone of an ASHAScheduler, in epochs, the trials that reached it.

    Their values are greater if better. Ray shows the rungs nowhere; tests/unit/tune/test_study.py
    compares them with what a reopened search replays.
    """
    return {f"{epoch:g}": dict(recorded) for epoch, recorded in scheduler._brackets[0]._rungs}


def start_only_workers(trainer: Any, stop: Event) -> None:
    """Let a TorchTrainer start no processes but its workers, and let `stop` end its `fit`.

    Ray Train would start three more, each of which imports Ray Train before the workers may begin:
    one for its controller; one to distribute Ray's datasets, of which there are none; and one to
    clean up after a controller that was killed, which here is the process that owns it all. Watched
    by tests/ray/test_train_translator.py.
    """
    idle = ("DatasetsCallback", "PlacementGroupCleanerCallback")
    default_callbacks = trainer._create_default_callbacks

    def callbacks() -> list[Any]:
        return [callback for callback in default_callbacks() if type(callback).__name__ not in idle]

    trainer._create_default_callbacks = callbacks
    trainer._initialize_and_run_controller = lambda **arguments: asyncio.run(
        _run_controller(arguments, stop)
    )


async def _run_controller(arguments: dict[str, Any], stop: Event) -> Any:
    """Run Ray Train's controller in this process, until the training ends or `stop` is set.

    On a cluster Ray would start another process for its watcher of drained nodes, which here is a
    thread. Raises CancelledError if it was stopped, when the workers have ended. Watched by
    tests/ray/test_train_translator.py, and the watcher by tests/ray/test_nodes.py.
    """
    from ray.runtime_context import RuntimeContext
    from ray.train.v2._internal.callbacks import preemption_callback
    from ray.train.v2._internal.execution.controller import TrainController

    # For an actor that is started from here, Ray prints an error about its arguments (issue 53727).
    preemption_callback.ray = SimpleNamespace(  # type: ignore[assignment]
        remote=lambda **_: lambda watcher: SimpleNamespace(remote=watcher),
        kill=lambda watcher: watcher._stop_event.set(),
    )
    # In an actor these go into its log; here they would be printed.
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING", "0")
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    # The workers are told of the controller's actor, for calls that none of them makes.
    no_actor = property(lambda _: None)
    RuntimeContext.current_actor = no_actor  # type: ignore[method-assign, assignment]
    controller = TrainController(**arguments)
    running = asyncio.ensure_future(controller.run())
    try:
        while not running.done():
            await asyncio.wait([running], timeout=0.2)
            if stop.is_set():
                running.cancel()
        await running
    finally:
        if (group := controller.get_worker_group()) is not None:
            group.abort()
    return controller.get_result()


def node_is_drained() -> bool:
    """Tell a training worker whether Ray is draining a node that one of the workers runs on.

    Ray Train's watcher tells every worker. `ray.train.get_preemption_info` would wait for all of
    them to agree, which the loop does not need, at some milliseconds a call. Watched by
    tests/ray/test_nodes.py.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


@contextmanager
def actors_by_value() -> Iterator[None]:
    """Let Ray Data make its actors from values in the block, not from objects in its store.

    For objects Ray prints an error for each actor, since a restarted actor may find its arguments
    lost (Ray's issue 53727). The values are small. Watched by
    tests/ray/test_embed_images.py.
    """
    from ray.data._internal.execution.operators.actor_pool_map_operator import (
        ActorPoolMapOperator,
    )

    given = {"_map_transformer_ref": "_map_transformer", "_data_context_ref": "data_context"}
    for name, value in given.items():
        setattr(ActorPoolMapOperator, name, property(attrgetter(value)))
    try:
        yield
    finally:
        for name in given:
            delattr(ActorPoolMapOperator, name)  # which uncovers the inherited one


@contextmanager
def hide_controllers_end() -> Iterator[None]:
    """Keep back the line by which Ray reports in the block that Serve's controller ended.

    The call that ends the controller cannot return, so Ray says that the task failed and will be
    retried. Everything else that Ray reports is printed. Watched by
    tests/unit/serve/test_serving_ends.py.
    """
    from ray._private import worker

    show = worker.print_to_stdstream

    def show_others(data: dict[str, Any], ignore_prefix: bool) -> None:
        if not any(_CONTROLLERS_END in line for line in data["lines"]):
            show(data, ignore_prefix)

    worker.print_to_stdstream = show_others
    try:
        yield
    finally:
        worker.print_to_stdstream = show


def head_get(key: str) -> bytes | None:
    """Return the value of a key in the store of the cluster's head node.

    Ray has no public key-value store; this one lives as long as the node. Watched, as are the three
    below, by tests/faults/test_switching.py.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    value: bytes | None = _internal_kv_get(key, namespace=_NAMESPACE)
    return value


def head_put(key: str, value: str) -> None:
    """Set a key in the store of the cluster's head node."""
    from ray.experimental.internal_kv import _internal_kv_put

    _internal_kv_put(key, value, namespace=_NAMESPACE)


def head_delete(key: str) -> None:
    """Remove a key from the store of the cluster's head node."""
    from ray.experimental.internal_kv import _internal_kv_del

    _internal_kv_del(key, namespace=_NAMESPACE)


def head_keys(prefix: str) -> list[str]:
    """Return the keys with a prefix in the store of the cluster's head node."""
    from ray.experimental.internal_kv import _internal_kv_list

    return [key.decode() for key in _internal_kv_list(prefix, namespace=_NAMESPACE)]


def serve_logs_folder() -> Path:
    """Return the folder of this node's replicas' logs. Watched by tests/faults/test_app.py."""
    from ray.serve._private.logging_utils import get_serve_logs_dir

    return Path(get_serve_logs_dir())


def import_builder(import_path: str) -> Any:
    """Return what an application's `import_path` names. Raises whatever its module raises.

    Imported as Serve does it. Watched, as are the two below, by
    tests/unit/serve/test_config_check.py.
    """
    from ray._common.utils import import_attr

    return import_attr(import_path)


def deployments_of(builder: Any, args: dict[str, Any], name: str) -> "list[Deployment]":
    """Build the deployments of an application as Serve's controller does, without starting them.

    Raises whatever the builder raises.
    """
    from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
    from ray.serve._private.build_app import build_app

    app = call_user_app_builder_with_args_if_necessary(builder, args)
    return list(build_app(app, name=name).deployments)


def check_route(route: str | None) -> None:
    """Raise ValueError if Serve's controller would refuse a route, which its schema lets pass."""
    from ray.serve._private.utils import validate_route_prefix

    validate_route_prefix(route)

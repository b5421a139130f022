"""What the Ray cluster has, whether it may get more, and whose it is: needs an initialised Ray.

What would surprise a reader: a cluster with an autoscaler has nothing but its head when the first
job comes, so "not there" must not be taken for "never". Ray does not say whether there is an
autoscaler. A head without processors can do no work itself, so it is the sign of one, as are
several nodes.
"""

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import ray

from jobs.ray_token import keep_token_private
from seqvis.errors import ConfigError, TrainingError
from seqvis.ray_internals import node_on_loopback

# What starts or joins a Ray when it is entered. Whoever takes one enters it once everything that a
# user gave has been checked, since starting takes ten seconds.
Session = Callable[[], AbstractContextManager[None]]


def amount(resource: str) -> int:
    """How much of "CPU", "GPU" or another resource all nodes have now, whole units."""
    return int(ray.cluster_resources().get(resource, 0))


def can_grow() -> bool:
    """Whether nodes may be added, so that work that does not fit is waited for, not refused."""
    return len(ray.nodes()) > 1 or amount("CPU") == 0


def ends_with_this_process() -> bool:
    """Whether this process started the Ray, as a job does without a cluster."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


OBJECT_STORE_BYTES = 1 << 30  # bounds the memory of a local Ray; more is spilled to disk


@contextmanager
def ray_session(num_cpus: int | None = None) -> Iterator[None]:
    """Ray for the length of the block. `num_cpus` holds for a local one; None: all cores."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    on_sigterm = signal.getsignal(signal.SIGTERM)
    if os.environ.get("RAY_ADDRESS"):
        _connect(os.environ["RAY_ADDRESS"])
    else:
        _start_here(num_cpus)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    except Exception:
        ray.shutdown()
        raise
    # After an interruption it stays as it is until the process ends: see runner.leave.
    ray.shutdown()


def _start_here(num_cpus: int | None) -> None:
    """Starts a Ray on this machine.

    Raises TrainingError if its processes do not come up, ConfigError if others could read its
    token.
    """
    keep_token_private()
    # Nobody gives notice that this node will be taken away; each training would watch for it.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    try:
        with node_on_loopback():
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
            )
    except Exception as error:  # Ray names no class of its own for this
        ray.shutdown()
        raise TrainingError(
            f"Ray did not start on this machine ({error}); it may be short of memory, of shared "
            f"memory or of time: run the same command again when less else is running"
        ) from error


def _connect(address: str) -> None:
    """Joins a running cluster. Raises ConfigError if it does not answer or refuses."""
    remedy = "start it, or unset RAY_ADDRESS to run on this machine alone"
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:  # Ray itself would try for many minutes
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConfigError(
                f"RAY_ADDRESS={address}: no Ray answers ({error}); {remedy}"
            ) from error
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(
            f"RAY_ADDRESS={address}: this Ray cluster cannot be joined; set RAY_AUTH_MODE=token "
            f"if it asks for a token; else {remedy}"
        ) from error

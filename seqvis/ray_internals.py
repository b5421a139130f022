"""Keeps a Ray that a process starts for itself off the network: it listens on loopback alone.

Ray listens on all interfaces wherever its node has an address that others can reach. There is no
setting for a node at 127.0.0.1 on Linux, so what is changed here is private to Ray 2.60:
`node_on_loopback` for Ray's own processes, `keep_replica_local` for what Serve opens in a replica.
tests/faults/test_app.py lists the sockets of a whole server, should another Ray differ.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._common import tls_utils
from ray._common.network_utils import build_address, get_localhost_ip, is_localhost
from ray._private import ray_constants


@contextmanager
def node_on_loopback() -> Iterator[None]:
    """A Ray that is started in the block is a node at 127.0.0.1, in all its processes.

    This is Ray's own way on macOS and Windows, where clusters are not supported. `ray.init` cannot
    be told so: it replaces a loopback address by that of the machine.
    """
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


def keep_replica_local() -> None:
    """Has this replica take other replicas' calls on loopback alone, if its node is there.

    For the constructor of a deployment: when it is done Serve opens the port for these calls, on
    all interfaces wherever the node is. On the node of a cluster this does nothing.
    """
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

    Their values are greater if better. Ray shows the rungs nowhere; tests/unit/test_tune_search.py
    compares them with what a reopened search replays.
    """
    return {f"{epoch:g}": dict(recorded) for epoch, recorded in scheduler._brackets[0]._rungs}

"""A local Ray's address, and where its replicas take each other's calls."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
import ray
from ray._common import tls_utils
from ray._private import ray_constants, services, worker
from ray.serve._private import replica

from seqvis.ray_internals import keep_replica_local, node_on_loopback

ADDRESS = "import ray; print(ray.util.get_node_ip_address())"
REACHABLE = "192.0.2.7"


@pytest.fixture(autouse=True)
def _machine_on_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, raising=False)
    monkeypatch.setattr(services, "node_ip_address_from_perspective", lambda address: REACHABLE)
    monkeypatch.setattr(worker, "_global_node", None)  # other tests' Ray, of this process


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Opens a port as a replica of Serve does, after `keep_replica_local`; its addresses."""
    monkeypatch.setattr(replica, "add_port_to_grpc_server", tls_utils.add_port_to_grpc_server)
    server = grpc.server(ThreadPoolExecutor(1))
    keep_replica_local()
    port = replica.add_port_to_grpc_server(server, "[::]:0")
    server.start()
    yield [
        connection.laddr.ip.removeprefix("::ffff:")
        for connection in psutil.Process().net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    server.stop(None)


def test_a_ray_of_the_block_is_at_loopback_in_this_process_and_in_those_it_starts() -> None:
    with node_on_loopback():
        process = subprocess.run(
            [sys.executable, "-c", ADDRESS], capture_output=True, text=True, check=True
        )
        assert ray.util.get_node_ip_address() == "127.0.0.1"
    assert process.stdout.split() == ["127.0.0.1"]
    assert ray.util.get_node_ip_address() == REACHABLE
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR not in os.environ


def test_the_block_puts_back_what_the_user_had_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, "1")
    with pytest.raises(ValueError, match="broken"), node_on_loopback():
        raise ValueError("broken")
    assert os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "1"


@pytest.fixture
def _at_loopback() -> Iterator[None]:
    with node_on_loopback():
        yield


@pytest.mark.usefixtures("_at_loopback")
def test_a_replica_of_a_local_ray_takes_calls_on_loopback(opened: list[str]) -> None:
    assert opened == ["127.0.0.1"]


def test_a_replica_of_a_cluster_takes_calls_from_other_nodes(opened: list[str]) -> None:
    assert opened == ["::"]

"""A server of this machine alone: nothing of it, Ray included, can be reached from another."""

import sys
from collections.abc import Iterator

import psutil
import pytest
import requests

from benchmarks.server import RunningServer, free_port, run_command
from tests.faults.conftest import QUERIES, TEXTS, Collections, Translators

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


@pytest.fixture(scope="module")
def local(
    translators: Translators,
    collections: Collections,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningServer]:
    """`python -m serve.app`, as `make demo` starts it."""
    port = free_port()
    command = [sys.executable, "-m", "serve.app", "--port", str(port)]
    command += ["--translator", translators.first, "--collection", str(collections.first)]
    logs = tmp_path_factory.mktemp("local")
    with run_command(command, {"http_options": {"port": port}}, logs, {}) as running:
        yield running


def listening(server: RunningServer) -> list[tuple[int, str, str]]:
    """Process, its name and the address of all sockets of a server that take connections."""
    return [
        (process.pid, process.name(), connection.laddr.ip)
        for process in [server.process, *server.process.children(recursive=True)]
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_nothing_of_it_listens_beyond_loopback(local: RunningServer) -> None:
    sockets = listening(local)
    assert {"gcs_server", "raylet"} <= {name for _, name, _ in sockets}
    for deployment in ("Translator", "Encoder", "Index-0", "Writer", "Gateway"):
        (replica,) = local.replicas(deployment)
        # What Ray calls it by, and what other replicas do.
        assert len([pid for pid, _, _ in sockets if pid == replica.pid]) >= 2, deployment
    assert [socket for socket in sockets if socket[2] not in LOOPBACK] == []


def test_its_replicas_reach_each_other(local: RunningServer) -> None:
    translation = requests.post(f"{local.address}/v1/translate", json={"text": TEXTS[0]}, timeout=5)
    search = requests.post(f"{local.address}/v1/search/text", json={"query": QUERIES[0]}, timeout=5)
    assert (translation.status_code, search.status_code) == (200, 200)

"""A Ray head node of a test's own: token authentication, free ports, its own folder and home."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

from tests.support.processes import end_family
from tests.support.waiting import wait_until

BIN = Path(sys.executable).parent
PORTS = (
    "port", "dashboard-port", "ray-client-server-port", "node-manager-port",
    "object-manager-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port",
    "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip


@dataclass(frozen=True)
class Head:
    """A running head node; `environment` is that of a client which has the token."""

    environment: Mapping[str, str]
    address: str  # of the jobs API
    process: psutil.Process

    @property
    def strangers_environment(self) -> dict[str, str]:
        """Of a client that knows the address, and no token."""
        strange = {k: v for k, v in self.environment.items() if not k.startswith("RAY_AUTH")}
        return strange | {"HOME": f"{self.environment['HOME']}/nobody", "RAY_AUTH_MODE": "disabled"}


@contextmanager
def ray_head(environment: Mapping[str, str]) -> Iterator[Head]:
    """`ray start --head` for the length of the block, with `environment` besides what it needs."""
    folder = tempfile.mkdtemp(prefix="seqvis-")  # short: Ray makes sockets below it
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    own = {
        **kept,
        **environment,
        "HOME": folder,
        "PATH": f"{BIN}:{kept.get('PATH', '')}",
        "RAY_AUTH_MODE": "token",
    }
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    subprocess.run(
        [BIN / "ray", "get-auth-token", "--generate"], env=own, check=True, capture_output=True
    )
    flags = [f"--{name}={port}" for name, port in ports.items()]
    flags += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-host=127.0.0.1"]
    flags += ["--node-ip-address=127.0.0.1", "--num-cpus=4", f"--object-store-memory={200 << 20}"]
    flags += [f"--temp-dir={folder}/ray", "--disable-usage-stats", "--block"]
    process = subprocess.Popen(
        [BIN / "ray", "start", "--head", *flags],
        env=own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"{address}/api/jobs/", process)
        agent = f"http://127.0.0.1:{ports['dashboard-agent-listen-port']}"
        _wait_for(f"{agent}/api/job_agent/jobs/", process)  # without it no job is taken
        yield Head(own | {"RAY_API_SERVER_ADDRESS": address}, address, psutil.Process(process.pid))
    finally:
        end_family(process.pid)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until strangers are refused there."""

    def refuses() -> bool:
        assert process.poll() is None, "ray start ended"
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(address, timeout=10).status_code == 401
        return False

    wait_until(refuses, f"nothing answers at {address}", 240)

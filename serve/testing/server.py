"""The real server as a child process, for those who break it on purpose.

In: artifacts and what to change in serve/config/local.yaml. Out: its address, its replicas as
processes to kill or to weigh, and at the end nothing that still runs. What would surprise a reader:
its Ray has a folder and ports of its own, so no other Ray of the machine is seen or touched.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from serve import haproxy
from serve.app import ENVIRONMENT

ROOT = Path(__file__).parents[2]
LOCAL_CONFIG = ROOT / "serve" / "config" / "local.yaml"
QUICK_AUTOSCALING = {
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}
"""Environment in which autoscaling looks every half second instead of every ten."""
_NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}  # whether or not the user has one
_REPLICA = re.compile(r"ray::ServeReplica:[^:]+:([A-Za-z]+(?:-\d+)?)(?!.*\.initialize_)")

Changes = Mapping[str, Mapping[str, Any]]


class NotReadyError(Exception):
    """The server did not become what it should in time; the message ends with its log's end."""


@dataclass
class RunningServer:
    """A server that runs."""

    address: str
    process: psutil.Process
    log: Path
    config: dict[str, Any]  # what it serves
    folder: Path  # of its Ray
    keep_logs: bool = False  # Ray's logs, beside its own, although nothing was raised

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas, the oldest first."""
        return self.all_replicas().get(deployment, [])

    def all_replicas(self) -> dict[str, list[psutil.Process]]:
        """The processes of the replicas that work, by deployment, the oldest first."""
        found: dict[str, list[psutil.Process]] = {}
        for child in self._descendants():
            with contextlib.suppress(psutil.Error):
                if child.status() == psutil.STATUS_ZOMBIE:
                    continue
                match = _REPLICA.match(" ".join(child.cmdline()))
                if match:
                    found.setdefault(match[1], []).append(child)
        return found

    def kill(self, deployment: str, most: int | None = None) -> list[int]:
        """Kills replicas of a deployment, all or at most so many, by SIGKILL; their pids."""
        victims = self.replicas(deployment)[:most]
        for victim in victims:
            victim.kill()
        psutil.wait_procs(victims, timeout=10)
        return [victim.pid for victim in victims]

    def proxies(self) -> list[psutil.Process]:
        """The processes of HAProxy; none where Serve's own proxy takes the connections."""
        return [child for child in self._descendants() if child.name() == "haproxy"]

    def processes_named(self, name: str) -> list[psutil.Process]:
        """Processes whose command line begins so, the oldest first."""
        return [
            child for child in self._descendants() if " ".join(child.cmdline()).startswith(name)
        ]

    def memory(self) -> dict[str, int]:
        """Bytes of each deployment's replicas: their own, and their part of what they share."""
        by_process = self.memory_by_process()
        return {
            deployment: sum(by_process.get(process.pid, 0) for process in processes)
            for deployment, processes in self.all_replicas().items()
        }

    def memory_by_process(self) -> dict[int, int]:
        """The same of each replica, by its pid."""
        found = {}
        for processes in self.all_replicas().values():
            for process in processes:
                with contextlib.suppress(psutil.Error):
                    found[process.pid] = process.memory_full_info().pss
        return found

    def counted(self, counter: str, since: Mapping[str, int] | None = None) -> dict[str, int]:
        """What a counter of the project's metrics stands at, by deployment, beyond `since`.

        Ray exports what was counted a few seconds before.
        """
        found: Counter[str] = Counter()
        for address in self._metrics_addresses():
            try:
                text = requests.get(f"http://{address}/metrics", timeout=10).text
            except requests.ConnectionError:  # Ray names its autoscaler's port, used or not
                continue
            for labels, value in re.findall(rf"^ray_{counter}{{(.*)}} (\S+)$", text, re.MULTILINE):
                deployment = re.search(r'deployment="([^"]*)"', labels)
                found[deployment[1] if deployment else ""] += int(float(value))
        found.subtract(since or {})
        return dict(+found)

    def audit_lines(self) -> list[dict[str, Any]]:
        """What the gateways' audit logs hold now."""
        files = self.folder.glob("**/session_2*/logs/serve/audit_gateway_*.log")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def _metrics_addresses(self) -> list[str]:
        # Ray links to its session's folder from beside it.
        found = self.folder.glob("**/prom_metrics_service_discovery.json")
        (file,) = {path.resolve() for path in found}
        return [target for entry in json.loads(file.read_text()) for target in entry["targets"]]

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Sends another config by `serve deploy`, which returns before it is carried out."""
        file = self.log.parent / "deployed.yaml"
        file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        find = "import ray; print(ray.init(logging_level='ERROR').dashboard_url)"
        environment = {**os.environ, **_NO_TOKEN, "RAY_ADDRESS": self._ray_address()}
        told = subprocess.run(
            [sys.executable, "-c", find],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if told.returncode:
            raise NotReadyError(told.stderr)
        address = f"http://{told.stdout.split()[-1]}"
        serve = str(Path(sys.executable).parent / "serve")
        command = [serve, "deploy", "-a", address, str(file)]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotReadyError(f"{' '.join(command)}: {done.stdout}{done.stderr}")

    def ready(self) -> bool:
        """Whether it says that it can answer."""
        try:
            return requests.get(f"{self.address}/readyz", timeout=10).status_code == 200
        except requests.RequestException:
            return False

    def wait_ready(self, seconds: float = 180.0) -> None:
        """Waits until it can answer. Raises NotReadyError."""
        self.wait(self.ready, seconds, "the server is not ready")

    def wait(self, true: Callable[[], bool], seconds: float, problem: str) -> float:
        """Waits for a condition; the seconds it took. Raises NotReadyError with the problem."""
        began = time.monotonic()
        while not true():
            waited = time.monotonic() - began
            if waited > seconds or not self._lives():
                raise NotReadyError(f"{problem} after {waited:.0f} s; {self._log_end()}")
            time.sleep(0.1)
        return time.monotonic() - began

    def wait_replicas(self, deployment: str, count: int, seconds: float = 120.0) -> float:
        """Waits until a deployment has so many replicas; the seconds it took."""
        return self.wait(
            lambda: len(self.replicas(deployment)) == count,
            seconds,
            f"{deployment} has not {count} replicas",
        )

    def _ray_address(self) -> str:
        for child in self._descendants():
            match = re.search(r"--gcs-address=(\S+)", " ".join(child.cmdline()))
            if match:
                return match[1]
        raise NotReadyError(f"no Ray runs here; {self._log_end()}")

    def _lives(self) -> bool:
        return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE

    def _descendants(self) -> list[psutil.Process]:
        try:
            children = self.process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return sorted(children, key=lambda child: child.create_time())

    def _log_end(self) -> str:
        return f"{self.log} ends:\n" + self.log.read_text(errors="replace")[-2000:]


def free_port() -> int:
    """A port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def local_config(
    translator: Path | str | None,
    collection: Path | str | None,
    port: int,
    args: Changes | None = None,
    deployments: Changes | None = None,
) -> dict[str, Any]:
    """serve/config/local.yaml for these artifacts.

    Args:
        args: what to change in the args of an application, by its name.
        deployments: what to change in the settings of a deployment, by its name. `num_replicas`
            takes the place of its `autoscaling_config`.
    """
    config: dict[str, Any] = yaml.safe_load(LOCAL_CONFIG.read_text())
    config["http_options"]["port"] = port
    paths = {"translator": ("model", translator), "search": ("collection", collection)}
    there = {name for name, (_, path) in paths.items() if path} | {"gateway"}
    config["applications"] = [one for one in config["applications"] if one["name"] in there]
    left = dict(deployments or {})
    for application in config["applications"]:
        given = application["args"]
        if application["name"] in paths:
            key, path = paths[application["name"]]
            given[key] = str(path)
        else:
            given |= {"translator": bool(translator), "search": bool(collection)}
        given |= (args or {}).get(application["name"], {})
        settings = {one["name"]: one for one in application["deployments"]}
        if application["name"] == "search":
            settings.setdefault("Writer", {"name": "Writer"})
        for name in [name for name in left if name in settings]:
            change = left.pop(name)
            if "num_replicas" in change:
                settings[name].pop("autoscaling_config", None)
            settings[name] |= change
        application["deployments"] = list(settings.values())
    if left:
        raise ValueError(f"no such deployments: {', '.join(left)}")
    return config


@contextmanager
def run_config(
    config: Mapping[str, Any], logs: Path, environment: Mapping[str, str] | None = None
) -> Iterator[RunningServer]:
    """Runs `serve run` on a config; ends with all its processes.

    `logs` gets what it prints, and Ray's logs if the block fails.
    """
    logs.mkdir(parents=True, exist_ok=True)
    file = logs / "config.yaml"
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    command = [str(Path(sys.executable).parent / "serve"), "run", str(file)]
    with run_command(command, dict(config), logs, environment or {}) as server:
        yield server


@contextmanager
def run_command(
    command: list[str], config: dict[str, Any], logs: Path, environment: Mapping[str, str]
) -> Iterator[RunningServer]:
    """Runs a command that serves a config; ends with all its processes."""
    logs.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="sv-", dir="/tmp"))  # its sockets need a short path
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    child_environment = {
        **inherited,
        **ENVIRONMENT,
        **haproxy.environment(folder),
        **environment,
        "RAY_TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        **_NO_TOKEN,
    }
    log = logs / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=child_environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{config['http_options']['port']}"
    server = RunningServer(address, psutil.Process(process.pid), log, config, folder)
    try:
        server.wait_ready()
        yield server
    except BaseException:
        server.keep_logs = True
        raise
    finally:
        _kill_family(process, folder)
        if server.keep_logs:
            _keep_logs(folder, logs)
        shutil.rmtree(folder, ignore_errors=True)


def _kill_family(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Kills a process and all its descendants; there is nothing in them to be saved.

    If it died before, Ray's own processes are known by their folder.
    """
    family = [one for one in psutil.process_iter(["cmdline"]) if _mentions(one, folder)]
    with contextlib.suppress(psutil.NoSuchProcess):
        head = psutil.Process(process.pid)
        family = [head, *head.children(recursive=True), *family]
    for one in family:  # from the root on, so that nobody starts them anew
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait()


def _mentions(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in argument for argument in process.info["cmdline"] or ())


def _keep_logs(folder: Path, logs: Path) -> None:
    for session in folder.glob("**/session_2*/logs"):
        shutil.copytree(session, logs / "ray", dirs_exist_ok=True, ignore_dangling_symlinks=True)

"""The real server as a child process, for tests and benchmarks that kill and measure its parts.

Its Ray has a folder and ports of its own, so it neither sees nor touches another Ray of the
machine. All of its processes are killed in the end.
"""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests
import yaml

from serve.environment import server_environment

ROOT = Path(__file__).parents[2]
LOCAL_CONFIG = ROOT / "serve" / "config" / "local.yaml"
QUICK_AUTOSCALING = {
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}
"""Environment in which autoscaling looks every half second instead of every ten."""
_NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}  # whether or not the user has one
_SERVE = str(Path(sys.executable).parent / "serve")
_REPLICA = re.compile(r"ray::ServeReplica:[^:]+:([A-Za-z]+(?:-\d+)?)(?!.*\.initialize_)")
_DEPLOY = """
import ray, subprocess, sys
address = f"http://{ray.init(logging_level='ERROR').dashboard_url}"
sys.exit(subprocess.call([sys.argv[1], "deploy", "-a", address, sys.argv[2]]))
"""

Overrides = Mapping[str, Mapping[str, Any]]
"""Settings to change, by the name of an application or of a deployment."""


class NotReadyError(Exception):
    """The server did not reach a state in time; the message ends with the end of its log."""


@dataclass
class RunningServer:
    """A server that runs."""

    address: str
    process: psutil.Popen
    log: Path
    config: dict[str, Any]
    folder: Path  # of its Ray
    keep_logs: bool = False  # keep Ray's logs beside its own even if nothing was raised

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Return the processes of a deployment's replicas, the oldest first."""
        return self.all_replicas().get(deployment, [])

    def all_replicas(self) -> dict[str, list[psutil.Process]]:
        """Return the processes of initialised replicas, by deployment, the oldest first."""
        replicas: dict[str, list[psutil.Process]] = {}
        for child, command in self._commands():
            if match := _REPLICA.match(command):
                replicas.setdefault(match[1], []).append(child)
        return replicas

    def kill(self, deployment: str) -> list[int]:
        """Kill all replicas of a deployment by SIGKILL; return their pids."""
        victims = self.replicas(deployment)
        for victim in victims:
            victim.kill()
        psutil.wait_procs(victims, timeout=10)
        return [victim.pid for victim in victims]

    def proxies(self) -> list[psutil.Process]:
        """Return the processes of HAProxy; none where Serve's own proxy takes the connections."""
        return [child for child, command in self._commands() if "haproxy " in command]

    def processes_named(self, name: str) -> list[psutil.Process]:
        """Return processes whose command line begins with a name, the oldest first."""
        return [child for child, command in self._commands() if command.startswith(name)]

    def memory(self) -> dict[str, int]:
        """Return the bytes that the replicas of each deployment have written themselves."""
        return {name: sum(map(own_memory, group)) for name, group in self.all_replicas().items()}

    def memory_by_process(self) -> dict[int, int]:
        """Return the bytes that each replica has written itself, by its pid."""
        replicas = itertools.chain.from_iterable(self.all_replicas().values())
        return {process.pid: own_memory(process) for process in replicas}

    def counted(self, counter: str, since: Mapping[str, int] | None = None) -> dict[str, int]:
        """Return one of the project's counters by deployment, less `since`.

        Ray exports counters a few seconds late.
        """
        values: Counter[str] = Counter()
        for address in self._metrics_addresses():
            try:
                text = requests.get(f"http://{address}/metrics", timeout=10).text
            except requests.ConnectionError:  # Ray names its autoscaler's port, used or not
                continue
            for labels, value in re.findall(rf"^ray_{counter}{{(.*)}} (\S+)$", text, re.MULTILINE):
                deployment = re.search(r'deployment="([^"]*)"', labels)
                values[deployment[1] if deployment else ""] += int(float(value))
        values.subtract(since or {})
        return dict(+values)

    def audit_lines(self) -> list[dict[str, Any]]:
        """Return all lines of the audit logs."""
        files = self.folder.glob("**/session_2*/logs/serve/audit_*.log")
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def _metrics_addresses(self) -> list[str]:
        # Ray links to its session's folder from beside it.
        links = self.folder.glob("**/prom_metrics_service_discovery.json")
        (file,) = {path.resolve() for path in links}
        return [target for entry in json.loads(file.read_text()) for target in entry["targets"]]

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Send another config by `serve deploy`, which returns before it is carried out."""
        file = self.log.parent / "deployed.yaml"
        file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
        commands = " ".join(command for _, command in self._commands())
        address = re.search(r"--gcs-address=(\S+)", commands)
        assert address, f"no Ray runs here: {self.log}"
        done = subprocess.run(
            [sys.executable, "-c", _DEPLOY, _SERVE, str(file)],
            cwd=ROOT,
            env={**os.environ, **_NO_TOKEN, "RAY_ADDRESS": address[1]},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NotReadyError(f"serve deploy {file}: {done.stdout}{done.stderr}")

    def ready(self) -> bool:
        """Tell whether it says that it can answer."""
        try:
            return requests.get(f"{self.address}/readyz", timeout=10).status_code == 200
        except requests.RequestException:
            return False

    def wait_ready(self, seconds: float = 300.0) -> None:
        """Wait until it can answer. Raises NotReadyError."""
        self.wait(self.ready, seconds, "the server is not ready")

    def wait(self, true: Callable[[], bool], seconds: float, problem: str) -> float:
        """Wait for a condition; return the seconds it took. Raises NotReadyError."""
        began = time.monotonic()
        while not true():
            waited = time.monotonic() - began
            if waited > seconds or self.process.poll() is not None:
                log = self.log.read_text(errors="replace")[-2000:]
                raise NotReadyError(f"{problem} after {waited:.0f} s; {self.log} ends:\n{log}")
            time.sleep(0.1)
        return time.monotonic() - began

    def wait_replicas(self, deployment: str, count: int, seconds: float = 240.0) -> float:
        """Wait until a deployment has `count` replicas; return the seconds it took."""
        return self.wait(
            lambda: len(self.replicas(deployment)) == count,
            seconds,
            f"{deployment} has not {count} replicas",
        )

    def _commands(self) -> list[tuple[psutil.Process, str]]:
        """Return the running descendants and their command lines, the oldest first."""
        commands = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = self.process.children(recursive=True)
            for child in sorted(children, key=lambda child: child.create_time()):
                with contextlib.suppress(psutil.Error):  # it has ended, or is a zombie
                    if command := " ".join(child.cmdline()):
                        commands.append((child, command))
        return commands


def own_memory(process: psutil.Process) -> int:
    """Return the bytes that a process has written itself; 0 if it has ended.

    Its "unique set size" would include pages of libraries that no other process maps at the
    moment, so a neighbour that starts or ends would change it by 300 MiB.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        memory = process.memory_info()
        return int(memory.rss - memory.shared)
    return 0


def local_config(
    translator: Path | str | None,
    collection: Path | str | None,
    port: int,
    args: Overrides | None = None,
    deployments: Overrides | None = None,
) -> dict[str, Any]:
    """Return serve/config/local.yaml for these artifacts.

    Args:
        args: changes to the args of applications.
        deployments: changes to deployments. `num_replicas` replaces their `autoscaling_config`.
    """
    config: dict[str, Any] = yaml.safe_load(LOCAL_CONFIG.read_text())
    config["http_options"]["port"] = port
    artifacts = {"translator": {"model": translator}, "search": {"collection": collection}}
    given: dict[str, dict[str, Any]] = {
        name: {key: str(path) for key, path in paths.items()}
        for name, paths in artifacts.items()
        if all(paths.values())
    }
    given["gateway"] = {name: name in given for name in artifacts}
    config["applications"] = [each for each in config["applications"] if each["name"] in given]
    left = dict(deployments or {})
    for application in config["applications"]:
        name = application["name"]
        application["args"] = application.get("args", {}) | {
            **given[name],
            **(args or {}).get(name, {}),
        }
        settings = {each["name"]: each for each in application["deployments"]}
        if name == "search":
            settings.setdefault("Writer", {"name": "Writer"})
        for deployment in settings.keys() & left.keys():
            change = left.pop(deployment)
            if "num_replicas" in change:
                settings[deployment].pop("autoscaling_config", None)
            settings[deployment] |= change
        application["deployments"] = list(settings.values())
    if left:
        raise ValueError(f"no such deployments: {', '.join(left)}")
    return config


@contextmanager
def run_config(
    config: Mapping[str, Any],
    logs: Path,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] | None = None,
) -> Iterator[RunningServer]:
    """Run a server, then kill all its processes.

    Args:
        config: a Serve config; it is written to config.yaml in `logs`.
        logs: gets what the server prints, and Ray's logs if the block fails.
        environment: changes to its environment.
        command: what serves the config; default: `serve run`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    file = logs / "config.yaml"
    file.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    folder = Path(tempfile.mkdtemp(prefix="sv-", dir="/tmp"))  # its sockets need a short path
    child_environment = {
        **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
        **server_environment(folder),
        **(environment or {}),
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # one that starts slowly is killed after 5
        "RAY_TMPDIR": str(folder),
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        **_NO_TOKEN,
    }
    log = logs / "server.log"
    with log.open("wb") as stream:
        process = psutil.Popen(
            command or [_SERVE, "run", str(file)],
            cwd=ROOT,
            env=child_environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{config['http_options']['port']}"
    server = RunningServer(address, process, log, dict(config), folder)
    try:
        server.wait_ready()
        yield server
    except BaseException:
        server.keep_logs = True
        raise
    finally:
        _kill_family(process, folder)
        if server.keep_logs:
            for session in folder.glob("**/session_2*/logs"):
                shutil.copytree(
                    session, logs / "ray", dirs_exist_ok=True, ignore_dangling_symlinks=True
                )
        shutil.rmtree(folder, ignore_errors=True)


def _kill_family(process: psutil.Popen, folder: Path) -> None:
    """Kill a process and all its descendants.

    If it died before them, Ray's own processes are known by their folder.
    """
    family = [each for each in psutil.process_iter(["cmdline"]) if _mentions(each, folder)]
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True), *family]
    for member in family:  # from the root on, so that nobody starts them anew
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait()


def _mentions(process: psutil.Process, folder: Path) -> bool:
    return any(str(folder) in argument for argument in process.info["cmdline"] or ())

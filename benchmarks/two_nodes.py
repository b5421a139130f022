"""Kill and freeze one process of each kind on a cluster of two nodes: docs/results/serving.md.

    python -m benchmarks.two_nodes --translator runs/demo/translator \\
        --collection runs/demo/collection --out two_nodes.json

Two logical nodes of this machine run a replica each of every deployment (of the writer one in all)
and a proxy each. Clients reach the proxies as through a load balancer: it checks the health of
both, and sends a request again, to the other proxy, if its connection broke or its proxy no longer
answers. Figures go to a file as JSON, a table in Markdown to standard output.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil
import requests
from ray.cluster_utils import Cluster

from benchmarks.breaking import (
    QUERIES,
    Figures,
    a_picture,
    copy_of,
    figures_table,
    largest,
    offline,
    parser_of,
    seen_by_clients,
)
from serve.app import free_port
from serve.proxy import haproxy
from serve.testing.clients import Kind, Traffic
from serve.testing.server import RunningServer, local_config, run_config
from serve.testing.traffic import Changes, everyday

RATES = {"translate": 20.0, "search": 20.0, "picture": 2.0, "change": 2.0}  # a second
TWO_EACH = {
    name: {"num_replicas": 2, "max_replicas_per_node": 1}
    for name in ("Translator", "Encoder", "Index-0", "Gateway")
}
DEPLOYMENTS = ("Translator", "Encoder", "Index-0", "Gateway", "Writer")
VICTIMS = (*DEPLOYMENTS, "proxy", "controller")
WORKER_PORT = "RAY_SERVE_WORKER_PROXY_HTTP_PORT"


class Balancer:
    """Choose in turn among the addresses that say they are alive."""

    def __init__(self, addresses: Sequence[str]):
        self._up = list(addresses)
        self._turn = itertools.count()
        self._stop = threading.Event()
        self._checks = [
            threading.Thread(target=self._check, args=(address,), daemon=True)
            for address in addresses
        ]

    def __call__(self) -> str:
        up = self._up
        return up[next(self._turn) % len(up)]

    def alive(self, address: str) -> bool:
        return address in self._up

    def __enter__(self) -> Self:
        for check in self._checks:
            check.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for check in self._checks:
            check.join()

    def _check(self, address: str) -> None:
        while not self._stop.wait(0.25):
            alive = False
            with suppress(requests.RequestException):
                alive = requests.get(f"{address}/healthz", timeout=0.5).ok
            if alive and address not in self._up:
                self._up = [*self._up, address]
            elif not alive and self._up != [address]:
                self._up = [up for up in self._up if up != address]


def break_one(
    server: RunningServer,
    addresses: Sequence[str],
    victim: str,
    frozen: bool,
    kinds: Mapping[str, Kind],
    seconds: float,
) -> Figures:
    """Kill or freeze one process of a kind under load; return what the clients saw."""
    balancer = Balancer(addresses)
    for kind in kinds.values():
        kind.alive = balancer.alive
    with balancer, Traffic(balancer, kinds) as traffic:
        traffic.wait_good(3)
        process = _processes(server, victim)[-1]
        at = traffic.now()
        process.suspend() if frozen else process.kill()
        time.sleep(seconds)
        traffic.wait_good(3)
        until = traffic.now()
        with suppress(psutil.NoSuchProcess):
            process.resume()
    outcomes = {name: kind.outcome for name, kind in kinds.items()}
    kept = process.pid in [each.pid for each in _processes(server, victim)]
    return {
        "sent to the other proxy": sum(outcome.resent for outcome in outcomes.values()),
        "longest gap, s": largest({n: o.longest_gap(at, until) for n, o in outcomes.items()}),
        "the slowest answer, s": largest({n: max(o.good()) for n, o in outcomes.items()}),
        "replaced": "no" if kept else "yes",
    }


def _processes(server: RunningServer, victim: str) -> list[psutil.Process]:
    if victim in DEPLOYMENTS:
        return server.replicas(victim)
    if victim == "proxy":
        return server.proxies()
    return server.processes_named("ray::ServeController")


def host(config: Path, worker_port: str) -> None:
    """Run two nodes and a config's applications on them, until the process is killed."""
    with tempfile.TemporaryDirectory(prefix="sv-", dir="/tmp") as folder:
        fallback = os.environ.get(haproxy.FALLBACK_PORT)
        second = haproxy.environment(Path(folder)) | {WORKER_PORT: worker_port}
        if fallback:
            second[haproxy.FALLBACK_PORT] = fallback
        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False}
        )
        os.environ.update(second)  # the second node's processes inherit it
        cluster.add_node(num_cpus=4)
        serve = str(Path(sys.executable).parent / "serve")
        subprocess.run([serve, "run", "--address", cluster.address, str(config)], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Break one process after the other, and print the table."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--host"]:
        host(Path(arguments[1]), arguments[2])
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="that a victim stays frozen")
    parser.add_argument("--victims", nargs="*", default=VICTIMS, choices=VICTIMS)
    flags = parser.parse_args(arguments)
    figures: dict[str, Figures] = {}
    translator = str(flags.translator.resolve())
    with copy_of(flags.collection) as collection:
        expected, picture = offline(translator), a_picture(collection)
        config = local_config(translator, collection, free_port(), deployments=TWO_EACH)
        config["proxy_location"] = "EveryNode"
        logs, port = flags.out.with_suffix(".logs"), str(free_port())
        module = [sys.executable, "-m", "benchmarks.two_nodes"]
        command = [*module, "--host", str(logs / "config.yaml"), port]
        with run_config(config, logs, command=command) as server:
            addresses = [server.address, f"http://127.0.0.1:{port}"]
            for victim, frozen in itertools.product(flags.victims, (False, True)):
                title = f"{victim}, {'frozen' if frozen else 'killed'}"
                print(f"{title} …", file=sys.stderr, flush=True)
                _wait_until_whole(server, addresses)
                changes = Changes(f"{victim}-{frozen}-{time.time():.0f}", picture)
                kinds = everyday(expected, QUERIES, changes, RATES)
                seen = break_one(server, addresses, victim, frozen, kinds, flags.seconds)
                figures[title] = seen_by_clients(server, kinds, changes) | seen
                flags.out.write_text(json.dumps(figures, indent=1))
    print(figures_table("victim", figures))
    return 0


def _wait_until_whole(server: RunningServer, addresses: Sequence[str]) -> None:
    """Wait until both nodes have all their replicas and proxies."""

    def ready() -> bool:
        with suppress(requests.RequestException):
            return all(requests.get(f"{each}/readyz", timeout=2).ok for each in addresses)
        return False

    for deployment in DEPLOYMENTS:
        server.wait_replicas(deployment, 1 if deployment == "Writer" else 2)
    server.wait(lambda: len(server.proxies()) == 2, 60, "there are not two proxies")
    server.wait(ready, 120, f"{' or '.join(addresses)} is not ready")


if __name__ == "__main__":
    sys.exit(main())

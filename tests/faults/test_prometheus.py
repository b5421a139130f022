"""Prometheus, configured as for compose.yaml, beside a real server: the panels have data."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from serve.app import free_port
from serve.testing.server import ROOT, RunningServer
from tests.faults.conftest import QUERIES, Collections

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("prometheus"), reason="apt-get install prometheus"),
]
COMPOSE = ROOT / "docs/operate/compose"
QUIET = {
    *("Cancelled", "Errors", "Failed health checks", "Exceptions"),  # nothing goes wrong
    "Recall sample",  # of one search in a hundred
    "Requests in the proxies",  # of Serve's own proxy, in whose place HAProxy is here
}
"""Panels that may show nothing."""


@pytest.fixture(scope="module")
def prometheus(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with our configuration, but for where the server's Ray lies."""
    folder = tmp_path_factory.mktemp("prometheus")
    (ray,) = {
        path.resolve() for path in server.folder.glob("**/prom_metrics_service_discovery.json")
    }
    text = (COMPOSE / "prometheus.yml").read_text()
    assert "/tmp/ray/prom_metrics_service_discovery.json" in text
    text = text.replace("/tmp/ray/prom_metrics_service_discovery.json", str(ray))
    (folder / "prometheus.yml").write_text(text.replace("10s", "2s").replace("15s", "2s"))
    shutil.copy(ROOT / "serve/alerts.yaml", folder)
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={address}",
        ],
        stderr=subprocess.STDOUT,
        stdout=(folder / "log").open("wb"),
    )
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.kill()
        process.wait()


def until(true: Callable[[], Any], seconds: float, problem: Callable[[], Any]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, problem()
        time.sleep(1)


def get(address: str, **parameters: str) -> Any:
    answer = requests.get(address, params=parameters, timeout=10)
    assert answer.json()["status"] == "success", answer.text
    return answer.json()["data"]


def up(prometheus: str) -> dict[str, str]:
    try:
        targets = get(f"{prometheus}/targets")["activeTargets"]
    except requests.ConnectionError:
        return {}
    return {target["scrapeUrl"]: target["health"] for target in targets}


def test_prometheus_finds_the_server_and_takes_the_alarms(prometheus: str) -> None:
    # Ray names its autoscaler's port, used or not.
    until(lambda: list(up(prometheus).values()).count("up") >= 2, 60, lambda: up(prometheus))
    (group, *_) = get(f"{prometheus}/rules")["groups"]
    assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    sources = get(f"{prometheus}/query", query='count(up{job="ray"})')["result"]
    assert sources


def test_the_dashboards_panels_have_data(
    server: RunningServer, prometheus: str, collections: Collections
) -> None:
    board = json.loads((ROOT / "serve/grafana.json").read_text())
    panels = [
        (panel["title"], shown(target["expr"]))
        for panel in board["panels"]
        for target in panel.get("targets", [])
    ]

    def use() -> None:
        post = f"{server.address}/v1"
        requests.post(f"{post}/translate", json={"text": "Où est le chat ?"}, timeout=30)
        requests.post(f"{post}/translate", json={"text": 1}, timeout=30)
        requests.post(f"{post}/search/text", json={"query": QUERIES[0]}, timeout=30)
        file = {"file": collections.picture}
        requests.post(f"{post}/search/image", files=file, timeout=30)

    def empty() -> set[str]:
        use()
        return {
            title
            for title, expression in panels
            if title not in QUIET and not get(f"{prometheus}/query", query=expression)["result"]
        }

    until(lambda: not empty(), 240, empty)
    for title, expression in panels:  # those that are quiet are valid, too
        if title in QUIET:
            get(f"{prometheus}/query", query=expression)


def shown(expression: str) -> str:
    """An expression with the values that the dashboard's variables have at first."""
    expression = re.sub(r"\$(application|deployment)\b", ".*", expression)
    return expression.replace("$__rate_interval", "1m")

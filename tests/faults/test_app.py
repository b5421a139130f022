"""`seqvis serve`: nothing of it, Ray included, can be reached from another machine, each key
may do what its scopes say, and when it is stopped it ends what is under way."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest
import requests
import yaml

from serve.app import free_port
from serve.common.keys import sha256_of
from serve.testing.server import RunningServer, run_config
from tests.faults.conftest import QUERIES, TEXTS, Collections, Translators

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
DRAIN_S = 25
SOON = 1.0  # seconds in which a refusal must come
KEYS = [
    {"name": "old", "sha256": sha256_of("old")},  # from before there were scopes
    {"name": "ordinary", "sha256": sha256_of("ordinary"), "scopes": ["translate", "search"]},
]
OLD, ORDINARY = ({"Authorization": f"Bearer {entry['name']}"} for entry in KEYS)


@pytest.fixture(scope="module")
def local(
    translators: Translators,
    collections: Collections,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningServer]:
    """A server with two keys, whose operator said that old ones keep their meaning.

    Its collection is not the one that the shared server writes.
    """
    logs = tmp_path_factory.mktemp("local")
    (logs / "keys.yaml").write_text(yaml.safe_dump(KEYS))
    port = free_port()
    command = [sys.executable, "-m", "serve.app", "--port", str(port)]
    command += ["--translator", translators.first, "--collection", str(collections.second)]
    command += ["--keys", str(logs / "keys.yaml"), "--legacy-keys"]
    command += ["--drain-s", str(DRAIN_S)]
    with run_config({"http_options": {"port": port}}, logs, command=command) as running:
        yield running


def listening(server: RunningServer) -> list[tuple[int, str, str]]:
    """Process, its name and the address of all sockets of a server that take connections."""
    sockets = []
    for process in [server.process, *server.process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            sockets += [
                (process.pid, process.name(), connection.laddr.ip)
                for connection in process.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            ]
    return sockets


def refused_while_draining(address: str, path: str) -> Mapping[str, Any]:
    """The refusal of the first request there after the server noticed that it ends."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        answer = requests.get(address + path, timeout=5)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            problem: Mapping[str, Any] = answer.json()["error"]
            assert requests.get(f"{address}/healthz", timeout=5).status_code == 200
            return problem
        time.sleep(0.05)
    raise AssertionError("it goes on as if nothing had been said")


def exit_code(process: psutil.Process) -> int | None:
    try:
        return process.wait(timeout=60)
    except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
        return None


def test_nothing_of_it_listens_beyond_loopback(local: RunningServer) -> None:
    deployments = ("Translator", "Encoder", "Index-0", "Writer", "Gateway")
    for deployment in deployments:  # a server can answer before it has an encoder and a writer
        local.wait_replicas(deployment, 1)
    sockets = listening(local)
    assert {"gcs_server", "raylet"} <= {name for _, name, _ in sockets}
    for deployment in deployments:
        (replica,) = local.replicas(deployment)
        # What Ray calls it by, and what other replicas do.
        assert len([pid for pid, _, _ in sockets if pid == replica.pid]) >= 2, deployment
    assert [socket for socket in sockets if socket[2] not in LOOPBACK] == []


def test_its_replicas_reach_each_other(local: RunningServer) -> None:
    for path, body in (
        ("/v1/translate", {"text": TEXTS[0]}),
        ("/v1/search/text", {"query": QUERIES[0]}),
    ):
        answer = requests.post(f"{local.address}{path}", json=body, headers=ORDINARY, timeout=5)
        assert answer.status_code == 200, answer.text


def test_a_key_that_may_only_ask_neither_deletes_nor_replaces_a_picture(
    local: RunningServer, collections: Collections
) -> None:
    query = {"query": QUERIES[0], "k": 1}
    search = f"{local.address}/v1/search/text"
    (match,) = requests.post(search, json=query, headers=ORDINARY, timeout=5).json()["matches"]
    picture = f"{local.address}{match['image']}"
    before = requests.get(picture, headers=ORDINARY, timeout=5)
    assert before.status_code == 200
    images, marked = f"{local.address}/v1/images", ORDINARY | {"X-Request-Id": "mine"}
    form: dict[str, Any] = {"data": {"id": match["id"]}, "files": {"file": collections.picture}}
    for answer in (
        requests.delete(picture, headers=marked, timeout=5),
        requests.post(images, headers=marked, timeout=5, **form),
    ):
        assert answer.elapsed.total_seconds() < SOON
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["scope"]) == (403, "forbidden", "write")
        assert "scopes: [translate, search, write]" in error["message"]
    assert [
        (line["request_id"], line["action"], line["scope"])
        for line in local.audit_lines()
        if line["key"] == "ordinary"
    ] == 2 * [("mine", "refused", "write")]
    assert requests.get(picture, headers=ORDINARY, timeout=5).content == before.content


def test_a_key_of_before_changes_pictures_but_not_models(
    local: RunningServer, translators: Translators, collections: Collections
) -> None:
    images, models = f"{local.address}/v1/images", f"{local.address}/v1/models/translator"
    form: dict[str, Any] = {"data": {"id": "a.jpg"}, "files": {"file": collections.picture}}
    statuses = [
        requests.post(images, headers=OLD, timeout=30, **form).status_code,
        requests.post(images, headers=OLD, timeout=30, **form).status_code,
        requests.delete(images, params={"id": "a.jpg"}, headers=OLD, timeout=30).status_code,
    ]
    assert statuses == [201, 201, 200]
    wanted = {"versions": [{"name": "new", "path": translators.second}]}
    answer = requests.put(models, json=wanted, headers=OLD, timeout=5)
    assert (answer.status_code, answer.json()["error"]["scope"]) == (403, "admin")
    entries = [
        (line["action"], line.get("ids"), line["outcome"])
        for line in local.audit_lines()
        if line["key"] == "old"
    ]
    assert entries == [
        ("add", ["a.jpg"], "done"),
        ("overwrite", ["a.jpg"], "done"),
        ("delete", ["a.jpg"], "done"),
        ("refused", None, "forbidden"),
    ]


def test_keys_are_given_out_and_withdrawn_while_the_server_runs(local: RunningServer) -> None:
    file = local.log.parent / "keys.yaml"
    other = {"name": "other", "sha256": sha256_of("other"), "scopes": ["translate"]}

    def statuses(key: str) -> list[int]:
        """Of the translator, which takes requests itself, and of the gateway."""
        headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": "203.0.113.7"}
        translated = requests.post(
            f"{local.address}/v1/translate", json={"text": "Où ?"}, headers=headers, timeout=5
        )
        models = requests.get(f"{local.address}/v1/models", headers=headers, timeout=5)
        return [translated.status_code, models.status_code]

    assert [statuses("old"), statuses("other")] == [[200, 200], [401, 401]]
    file.write_text(yaml.safe_dump([KEYS[1], other]))
    local.wait(lambda: statuses("other") == [200, 200], 10, "the new key is not known")
    local.wait(lambda: statuses("old") == [401, 401], 10, "the old key is still known")
    file.write_text(yaml.safe_dump(KEYS))
    local.wait(lambda: statuses("old") == [200, 200], 10, "the keys of before are not back")
    lines = local.audit_lines()
    changes = [line for line in lines if line["action"] == "keys"]
    assert [(line["added"], line["removed"]) for line in changes] == [
        (["old", "ordinary"], []),
        (["other"], ["old"]),
        (["old"], ["other"]),
    ]
    refused = [line for line in lines if line["outcome"] == "unauthorized"]
    assert {(line["key"], line["from"]) for line in refused} == {(None, "203.0.113.7")}
    assert {line["route"] for line in refused} == {"POST /v1/translate", "GET /v1/models"}


def test_a_server_that_is_stopped_ends_what_is_under_way(local: RunningServer) -> None:
    """Two translations that take seconds are answered whole; what is new is refused meanwhile.

    The last test of this server, which it stops.
    """
    local.wait(lambda: "Ctrl-C" in local.log.read_text(), 60, "it does not say that it runs")
    many = {"text": TEXTS * 40, "beam": 8, "stream": True}
    wide = {"text": TEXTS * 2, "beam": 8}
    url = f"{local.address}/v1/translate"
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(requests.post, url, json=wide, headers=ORDINARY, timeout=60)
        with requests.post(url, json=many, headers=ORDINARY, stream=True, timeout=60) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            at = time.monotonic()
            local.process.send_signal(signal.SIGTERM)
            refusals = [
                refused_while_draining(local.address, path) for path in ("/readyz", "/v1/translate")
            ]
            last = [first, *lines][-1]
            assert json.loads(last) == {"done": True, "count": 40 * len(TEXTS), "model": "default"}
        assert other.result(60).status_code == 200
        assert len(other.result().json()["translations"]) == 2 * len(TEXTS)
    assert [refused["code"] for refused in refusals] == 2 * ["draining"]
    assert refusals[1]["under_way"] >= 1
    assert exit_code(local.process) == 0
    assert time.monotonic() - at < DRAIN_S + 20
    assert not local.proxies()

"""The audit log: who changed what, one line each, on its way to the disk before the answer."""

import json
import logging
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seqvis.errors import BusyError
from seqvis.translation.translator import Translator
from serve.common.keys import SCOPES, Keys
from serve.gateway.access import audit_keys, audited, write_audit_to
from tests.support.searching import World, draw
from tests.support.serving import Served, served
from tests.unit.serve.test_scopes import as_key, holder

CURATOR = as_key("curator") | {"x-request-id": "mine-1"}


class Log:
    """What is written to the file."""

    def __init__(self, file: Path):
        self.file = file
        self._read = 0

    def new(self) -> list[dict[str, Any]]:
        """The lines since the last call, without their times, which are checked."""
        text = self.file.read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        new, self._read = lines[self._read :], len(lines)
        for line in new:
            datetime.fromisoformat(line.pop("time"))
        return new


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    logger = logging.getLogger("seqvis.audit")
    write_audit_to(tmp_path / "logs" / "audit.log")
    yield Log(tmp_path / "logs" / "audit.log")
    for handler in logger.handlers:
        handler.close()
    logger.handlers = []


@pytest.fixture(scope="module")
def running(
    translator: Translator, world: World, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    collection = world.copy_collection(tmp_path_factory.mktemp("audited"))
    keys = Keys([holder("curator", *SCOPES), holder("ordinary", "search")])
    with served(translator.artifact.location.uri, collection, keys) as both:
        yield both


def add(running: Served, seed: int, **form: str) -> Any:
    file = {"file": ("a.png", draw(1, seed=seed), "image/png")}
    return running.client.post("/v1/images", files=file, data=form, headers=CURATOR)


def test_each_change_of_pictures_has_a_line_with_key_id_and_request(
    running: Served, log: Log
) -> None:
    by = {"request_id": "mine-1", "key": "curator", "from": "127.0.0.1"}
    assert add(running, 1, id="a.jpg").status_code == 201
    assert log.new() == [{**by, "action": "add", "ids": ["a.jpg"], "outcome": "done"}]
    assert add(running, 2, id="a.jpg").status_code == 201
    assert log.new() == [{**by, "action": "overwrite", "ids": ["a.jpg"], "outcome": "done"}]
    where = "/v1/images?id=a.jpg"
    assert running.client.delete(where, headers=CURATOR).status_code == 200
    assert log.new() == [{**by, "action": "delete", "ids": ["a.jpg"], "outcome": "done"}]
    assert running.client.delete(where, headers=CURATOR).status_code == 404
    assert log.new() == [{**by, "action": "delete", "ids": ["a.jpg"], "outcome": "not_found"}]
    name = add(running, 3).json()["id"]
    assert log.new()[0]["ids"] == [name]


def test_a_change_that_fails_has_a_line_with_the_reason(
    running: Served, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_: Any) -> None:
        raise BusyError("the disk does not take changes now", 5.0)

    monkeypatch.setattr("serve.gateway.pictures.add_pictures", busy)
    assert add(running, 1, id="b.jpg").status_code == 503
    (line,) = log.new()
    assert (line["action"], line["ids"], line["outcome"]) == ("add", ["b.jpg"], "overloaded")


def test_a_change_whose_client_went_away_has_a_line_too(log: Log) -> None:
    with pytest.raises(KeyboardInterrupt), audited("add", "curator", "1", ids=["c.jpg"]):
        raise KeyboardInterrupt
    assert log.new()[0]["outcome"] == "unknown"


def test_a_refusal_for_lack_of_a_scope_has_a_line(running: Served, log: Log) -> None:
    headers = as_key("ordinary") | {"x-request-id": "theirs-1"}
    running.client.delete("/v1/images/a.jpg", headers=headers)
    assert log.new() == [
        {
            "request_id": "theirs-1",
            "key": "ordinary",
            "from": "127.0.0.1",
            "action": "refused",
            "route": "DELETE /v1/images/{id:path}",
            "scope": "write",
            "outcome": "forbidden",
        }
    ]


def test_a_change_of_models_has_a_line_with_their_paths_once_they_were_checked(
    running: Served, log: Log, translator: Translator
) -> None:
    def put(path: str) -> int:
        wanted = {"versions": [{"name": "default", "path": path}]}
        answer = running.client.put("/v1/models/translator", json=wanted, headers=CURATOR)
        return answer.status_code

    by = {"request_id": "mine-1", "key": "curator", "from": "127.0.0.1", "action": "models"}
    what = {"application": "translator", "versions": ["default"]}
    path = translator.artifact.location.uri
    assert put(path) == 200
    assert log.new() == [{**by, **what, "paths": [path], "outcome": "done"}]
    assert put("s3://a:pw@bucket/x") == 422
    assert log.new() == [{**by, **what, "outcome": "invalid"}]


MODELS, IMAGES = "/v1/models/{application}", "/v1/images"


@pytest.mark.parametrize(
    ("method", "route", "content", "outcome"),
    [
        ("PUT", MODELS, {"json": {"versions": [{"name": "a b", "path": "x"}]}}, "invalid"),
        ("PUT", MODELS, {"content": b"{"}, "invalid"),
        ("POST", IMAGES, {"data": {"id": "a.jpg"}}, "invalid"),
        ("POST", IMAGES, {"files": {"file": b"x" * (11 << 20)}}, "too_large"),
        ("DELETE", IMAGES, {"params": {"id": ""}}, "invalid"),
    ],
)
def test_an_attempt_that_comes_to_no_change_has_a_line(
    running: Served, log: Log, method: str, route: str, content: Any, outcome: str
) -> None:
    path = route.format(application="translator")
    assert running.client.request(method, path, headers=CURATOR, **content).status_code >= 400
    (line,) = log.new()
    assert (line["key"], line["action"], line["outcome"]) == ("curator", "refused", outcome)
    assert line["route"] == f"{method} {route}"


def test_a_request_without_a_good_key_has_a_line_and_many_do_not_fill_the_log(
    running: Served, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    minute = [10_000.0]
    clock = SimpleNamespace(monotonic=lambda: minute[0])
    monkeypatch.setattr("serve.gateway.access.time", clock)
    headers = as_key("guessed") | {"x-request-id": "theirs-2"}
    for _ in range(100):
        assert running.client.delete("/v1/images/a%0A.jpg", headers=headers).status_code == 401
    lines = log.new()
    assert len(lines) == 60
    assert lines[0] == {
        "request_id": "theirs-2",
        "key": None,
        "from": "127.0.0.1",
        "action": "refused",
        "route": "DELETE /v1/images/a\n.jpg",
        "outcome": "unauthorized",
    }
    minute[0] += 60
    running.client.delete("/v1/images/a.jpg", headers=headers)
    assert log.new()[0]["omitted"] == 40
    assert "guessed" not in log.file.read_text()


def test_the_address_is_the_one_that_haproxy_says_and_only_behind_it(
    running: Served, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def address(said: str) -> str:
        headers = CURATOR | {"x-seqvis-client": said}
        running.client.delete("/v1/images?id=none", headers=headers)
        (line,) = log.new()
        shown: str = line["from"]
        return shown

    assert address("203.0.113.7") == "127.0.0.1"
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    assert address("203.0.113.7") == "203.0.113.7"
    assert address("2001:db8::7") == "2001:db8::7"
    assert address("somewhere, 203.0.113.7") == "127.0.0.1"


def test_a_change_of_the_keys_has_a_line_that_names_them(log: Log) -> None:
    before = [holder("a", "search"), holder("b", "search")]
    audit_keys(before, [holder("b", "search", "write"), holder("c", "search")])
    assert log.new() == [
        {
            "request_id": None,
            "key": "file of keys",
            "from": None,
            "action": "keys",
            "added": ["c"],
            "removed": ["a"],
            "changed": ["b"],
            "outcome": "done",
        }
    ]


def test_only_its_owner_may_read_the_log_and_lines_are_appended(log: Log) -> None:
    assert stat.S_IMODE(log.file.stat().st_mode) == 0o600
    with audited("add", "curator", ids=["a.jpg"]):
        pass
    write_audit_to(log.file)  # as the next process would
    with audited("delete", "curator", ids=["a.jpg"]):
        pass
    assert [line["action"] for line in log.new()] == ["add", "delete"]


def test_a_full_log_is_kept_beside_the_new_one(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.gateway.access._FILE_BYTES", 2000)
    write_audit_to(log.file)
    for number in range(20):
        with audited("add", "curator", ids=[f"{number}.jpg"]):
            pass
    files = sorted(log.file.parent.iterdir())
    assert [file.name for file in files] == ["audit.log", "audit.log.1"]
    assert sum(len(file.read_text().splitlines()) for file in files) == 20
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_questions_have_no_line_and_neither_texts_nor_keys_are_written(
    running: Served, log: Log
) -> None:
    running.client.post("/v1/translate", json={"text": "Où ?"}, headers=CURATOR)
    running.client.post("/v1/search/text", json={"query": "boat"}, headers=CURATOR)
    running.client.get("/v1/models", headers=CURATOR)
    assert log.new() == []
    add(running, 5, id="line\u2028feed.jpg", name="private words", metadata='{"a": "private"}')
    text = log.file.read_text()
    assert len(text.splitlines()) == 1
    assert "private" not in text
    assert "Bearer" not in text

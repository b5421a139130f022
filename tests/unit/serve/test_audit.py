"""The audit log: who changed what, one line each, on its way to the disk before the answer."""

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from seqvis.errors import BusyError
from seqvis.translation.translator import Translator
from serve.common.keys import SCOPES, Keys
from serve.gateway.access import audited, write_audit_to
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
    by = {"request_id": "mine-1", "key": "curator"}
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

    monkeypatch.setattr("serve.gateway.pictures.add_picture", busy)
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

    by = {"request_id": "mine-1", "key": "curator", "action": "models"}
    what = {"application": "translator", "versions": ["default"]}
    path = translator.artifact.location.uri
    assert put(path) == 200
    assert log.new() == [{**by, **what, "paths": [path], "outcome": "done"}]
    assert put("s3://a:pw@bucket/x") == 422
    assert log.new() == [{**by, **what, "outcome": "invalid"}]


def test_questions_have_no_line_and_neither_texts_nor_keys_are_written(
    running: Served, log: Log
) -> None:
    running.client.post("/v1/translate", json={"text": "Où ?"}, headers=CURATOR)
    running.client.post("/v1/search/text", json={"query": "boat"}, headers=CURATOR)
    running.client.get("/v1/models")
    assert log.new() == []
    add(running, 5, id="line\u2028feed.jpg", name="private words", metadata='{"a": "private"}')
    text = log.file.read_text()
    assert len(text.splitlines()) == 1
    assert "private" not in text
    assert "Bearer" not in text

"""Other models are made live while the real server is used: no answer fails or mixes two models."""

import copy
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from seqvis.client import RefusedError
from serve.testing.clients import Kind, Reply, Request, Traffic
from serve.testing.server import RunningServer
from serve.testing.traffic import translating
from tests.faults.conftest import (
    TEXTS,
    Collections,
    Translators,
    client_of,
    live_translators,
    make_live,
    pids,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("undisturbed")]


def test_a_translator_is_switched_under_load_without_a_failed_or_mixed_answer(
    server: RunningServer, translators: Translators
) -> None:
    offline = translators.offline
    lists = [TEXTS[start : start + 8] for start in range(0, len(TEXTS), 8)]
    seen: set[tuple[str, str]] = set()  # the model that an answer names, and that it is of

    def done(request: Request, reply: Reply) -> None:
        if reply.status != 200:
            return
        answer = json.loads(reply.body)
        made = [
            (translation["source"], translation["text"]) for translation in answer["translations"]
        ]
        by = [path for path, by_text in offline.items() if set(made) <= set(by_text.items())]
        assert len(made) == 8
        assert len(by) == 1, f"an answer of {by}: {made}"
        seen.add((answer["model"], by[0]))

    kind = Kind(lambda number: Request("/v1/translate", {"text": lists[number % 8]}), 3, done=done)
    first, second = ("default", translators.first), ("second", translators.second)
    with Traffic(server.address, {"translate": kind}) as traffic:
        traffic.wait_good(3)
        assert seen == {first}
        make_live(server, "translator", second)
        _wait_until(traffic, seen, {second})
        make_live(server, "translator", first, second)
        _wait_until(traffic, seen, {first, second})
        make_live(server, "translator", first)
        _wait_until(traffic, seen, {first})
    assert set(kind.outcome.statuses) == {200}, kind.outcome.not_good


def test_a_translator_in_a_deployed_user_config_is_switched_in_and_a_broken_one_refused(
    server: RunningServer, translators: Translators, tmp_path: Path
) -> None:
    before = pids(server, "Translator"), pids(server, "Gateway")
    kind = Kind(lambda number: Request("/v1/translate", {"text": TEXTS[number % len(TEXTS)]}), 3)
    with Traffic(server.address, {"translate": kind}) as traffic:
        traffic.wait_good(3)
        server.deploy(_with_user_config(server, "july", translators.second))
        server.wait(lambda: live_translators(server) == ["july"], 60, "july is not live")
        server.deploy(_with_user_config(server, "august", str(tmp_path / "nowhere")))
        server.wait(lambda: "user_config" in _refused(server), 60, "august is not refused")
        assert live_translators(server) == ["july"]
        server.deploy(_with_user_config(server, "default", translators.first))
        server.wait(
            lambda: live_translators(server) == ["default"], 60, "the first is not live again"
        )
        traffic.wait_good(3)
    assert set(kind.outcome.statuses) == {200}, kind.outcome.not_good
    assert (pids(server, "Translator"), pids(server, "Gateway")) == before


def _with_user_config(server: RunningServer, name: str, path: str) -> dict[str, Any]:
    config = copy.deepcopy(server.config)
    gateway = next(
        application for application in config["applications"] if application["name"] == "gateway"
    )
    versions = {"versions": [{"name": name, "path": path, "share": 1.0}]}
    gateway["deployments"][0]["user_config"] = {"translator": versions}
    return config


def _refused(server: RunningServer) -> dict[str, str]:
    return client_of(server).models()["translator"].refused


def test_a_broken_translator_is_refused_and_the_old_one_goes_on(
    server: RunningServer, translators: Translators, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(translators.second, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    kinds = {"translate": translating(translators.offline[translators.first])}
    with Traffic(server.address, kinds) as traffic:
        traffic.wait_good(3)
        for path in (broken, tmp_path / "nowhere"):
            with pytest.raises(RefusedError) as caught:
                make_live(server, "translator", ("broken", str(path)))
            assert caught.value.code == "bad_artifact"
        traffic.wait_good(3)
    outcome = kinds["translate"].outcome
    assert set(outcome.statuses) == {200}, outcome.not_good
    assert live_translators(server) == ["default"]


def test_a_collection_of_another_model_is_switched_in_without_a_failed_or_mixed_answer(
    server: RunningServer, collections: Collections
) -> None:
    where = {"label": "n02858304"}
    offline = collections.offline("boat", 5, where)
    seen: set[tuple[str, str]] = set()

    def done(request: Request, reply: Reply) -> None:
        if reply.status != 200:
            return
        answer = json.loads(reply.body)
        matches = [(match["id"], match["score"]) for match in answer["matches"]]
        by = [path for path, expected in offline.items() if _alike(matches, expected)]
        assert len(by) == 1, f"an answer of {by}: {matches}"
        seen.add((answer["model"], by[0]))

    request = Request("/v1/search/text", {"query": "boat", "k": 5, "where": where})
    kind = Kind(lambda number: request, 3, done=done)
    first, second = ("default", str(collections.first)), ("other", str(collections.second))
    with Traffic(server.address, {"search": kind}) as traffic:
        traffic.wait_good(3)
        assert seen == {first}
        for versions in ([second], [first]):
            make_live(server, "search", *versions)
            _wait_until(traffic, seen, set(versions))
    assert set(kind.outcome.statuses) == {200}, kind.outcome.not_good


def _alike(matches: list[tuple[str, float]], expected: list[tuple[str, float]]) -> bool:
    return [name for name, _ in matches] == [name for name, _ in expected] and all(
        abs(score - other) < 1e-3 for (_, score), (_, other) in zip(matches, expected, strict=True)
    )


def _wait_until(traffic: Traffic, seen: set[tuple[str, str]], wanted: set[tuple[str, str]]) -> None:
    """Waits until answers are those of the wanted models and of no others."""
    deadline = time.monotonic() + 60
    while True:
        seen.clear()
        traffic.wait_good(12)
        if seen == wanted:
            return
        assert time.monotonic() < deadline, f"answers of {seen} in place of {wanted}"

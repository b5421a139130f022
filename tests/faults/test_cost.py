"""Translations that cost too much, or that nobody waits for any more: the others notice nothing."""

import json
import time
from typing import Any

import psutil
import pytest

from serve.testing.clients import Kind, Request, Traffic
from serve.testing.server import RunningServer
from serve.testing.traffic import faults, persist, send, translating
from tests.faults.conftest import TEXTS, Translators

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ELISIONS = "l'" * 1000
HOSTILE: list[dict[str, Any]] = [
    {"text": [ELISIONS], "beam": 2, "n_best": 2, "attention": True},
    {"text": [ELISIONS], "beam": 8, "n_best": 8, "attention": True},
    {"text": [ELISIONS] * 128, "beam": 8, "attention": True},
    {"text": ["l'" * 120] * 128, "beam": 8},
    {"text": ["(" * 250] * 12_800, "beam": 8, "stream": True},
]
# As much as one request may be, of words that the model ends no translation of early.
MOST_WORK = {"text": ["a " * 250] * 5, "beam": 8}
MOST_ATTENTION = {"text": "a " * 250, "beam": 8, "n_best": 2, "attention": True}


def test_what_costs_too_much_is_refused_at_once_while_others_are_answered(
    server: RunningServer, translators: Translators
) -> None:
    server.wait_ready()
    others = translating(translators.offline[translators.first], 8, 20)
    with Traffic(server.address, {"translate": others}) as traffic:
        traffic.wait_good(5)
        for content in HOSTILE * 3:
            body = json.dumps(content)
            began = time.monotonic()
            answer = send(server, Request("/v1/translate", content), timeout=10)
            assert time.monotonic() - began < 1.0, body[:200]
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"]["code"] == "invalid"
            assert len(answer.content) < 1000
    outcome = others.outcome
    assert not faults({"translate": others})
    assert not outcome.refused()
    latencies = sorted(outcome.latencies)
    assert latencies[int(0.99 * len(latencies))] < 1.0, latencies[-5:]


def test_the_most_that_is_allowed_takes_seconds_and_few_megabytes(server: RunningServer) -> None:
    server.wait_ready()
    before = _translators_memory(server)
    for content in (MOST_WORK, MOST_ATTENTION):
        began = time.monotonic()
        answer = persist(server, Request("/v1/translate", content))
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - began < 10
        assert len(answer.content) < 3 << 20
    grown = [
        size - before[pid] for pid, size in _translators_memory(server).items() if pid in before
    ]
    assert grown
    assert max(grown) < 100 << 20


def _translators_memory(server: RunningServer) -> dict[int, int]:
    return {
        process.pid: process.memory_full_info().uss for process in server.replicas("Translator")
    }


@pytest.mark.parametrize("stream", [False, True], ids=["list", "stream"])
def test_what_nobody_waits_for_stops_within_a_second(server: RunningServer, stream: bool) -> None:
    """A list of seconds, closed by its client after a tenth of one, again and again."""
    server.wait_ready()
    content = {"text": TEXTS * (20 if stream else 2), "beam": 8, "stream": stream}
    request = Request("/v1/translate", {"text": TEXTS[0]})
    before = server.counted("seqvis_cancelled_total")
    left = Kind(lambda number: Request("/v1/translate", content), 10, patience=0.1)
    with Traffic(server.address, {"left": left}):
        time.sleep(1)
    assert left.outcome.given_up >= 5
    time.sleep(1)
    used = _processor_seconds(server)
    began = time.monotonic()
    assert send(server, request).status_code == 200
    assert time.monotonic() - began < 1
    time.sleep(1)
    assert _processor_seconds(server) - used < 0.3
    assert server.wait(
        lambda: server.counted("seqvis_cancelled_total", before).get("Translator", 0) >= 100,
        20,
        "what was given up is not counted",
    )


def _processor_seconds(server: RunningServer) -> float:
    """That the translators have used so far."""
    replicas: list[psutil.Process] = server.replicas("Translator")
    return sum(sum(process.cpu_times()[:2]) for process in replicas)

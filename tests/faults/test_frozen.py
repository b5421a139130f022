"""Replicas that stand still: their clients wait no longer than for another replica."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest
import requests

from serve.testing.clients import Traffic
from serve.testing.server import RunningServer
from serve.testing.traffic import faults, searching, translating
from tests.faults.conftest import QUERIES, Translators

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # the server replaced it
                process.resume()


def seconds_of_readyz(server: RunningServer) -> tuple[float, int]:
    began = time.monotonic()
    status = requests.get(f"{server.address}/readyz", timeout=10).status_code
    return time.monotonic() - began, status


def test_searches_go_on_while_one_of_two_indexes_stands_still(server: RunningServer) -> None:
    server.wait_ready()
    server.wait_replicas("Index-0", 2)
    search = searching(QUERIES, 4, 20)
    with Traffic(server.address, {"search": search}) as traffic:
        traffic.wait_good(5)
        at = traffic.now()
        with frozen(server.replicas("Index-0")[:1]):
            while traffic.now() < at + 6:
                seconds, status = seconds_of_readyz(server)
                assert status == 200
                assert seconds < 1.0
                time.sleep(0.2)
            until = traffic.now()
    outcome = search.outcome
    assert not faults({"search": search})
    assert not outcome.refused()
    assert max(outcome.latencies) < 3.0, sorted(outcome.latencies)[-5:]
    assert outcome.longest_gap(at, until) < 1.5
    server.wait_replicas("Index-0", 2)


def test_the_only_translator_that_stands_still_is_replaced(
    server: RunningServer, translators: Translators
) -> None:
    server.wait_ready()
    server.wait_replicas("Translator", 1)
    kinds = {
        "translate": translating(translators.offline[translators.first], 4, 10),
        "search": searching(QUERIES, 2, 10),
    }
    with Traffic(server.address, kinds) as traffic:
        traffic.wait_good(3)
        victims = server.replicas("Translator")
        at = traffic.now()
        with frozen(victims):
            statuses = [seconds_of_readyz(server) for _ in range(4)]
            server.wait(
                lambda: not any(psutil.pid_exists(process.pid) for process in victims),
                30,
                "the frozen translator is still there",
            )
        traffic.wait_good(3)
        outage = traffic.now()
    assert all(seconds < 1.2 and status == 503 for seconds, status in statuses), statuses
    assert not faults(kinds)
    assert not any(kind.outcome.lost for kind in kinds.values())
    assert kinds["search"].outcome.longest_gap(at, outage) < 3.0

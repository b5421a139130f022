"""The real server while it is broken: clients see answers, or 503 and when to come again.

The tests share a server and leave it as they found it. They state what holds on a slow machine too;
benchmarks/faults.py measures how long things take.
"""

import io
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from seqvis.decoding.beam import DecodingSettings
from seqvis.translation.translator import Translator
from serve.proxy import haproxy
from serve.testing.clients import Kind, Request, Traffic
from serve.testing.server import RunningServer
from serve.testing.traffic import Changes, everyday, faults, persist, searching, send, translating
from tests.faults.conftest import QUERIES, TEXTS, Collections, Translators, pids
from tests.support.hostile import bad_pictures, flipped

RATES = {"translate": 20, "search": 10, "picture": 2, "change": 3}  # a second
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("undisturbed")]


# Pictures that do harm


def test_hostile_pictures_are_refused_with_a_reason_and_no_replica_dies(
    server: RunningServer, collections: Collections
) -> None:
    pictures = bad_pictures()
    _start_encoder(server, collections)
    before = pids(server)
    routes = ("/v1/search/image", "/v1/images", "/v1/classify")
    uploads = [(name, route) for name in pictures for route in routes]

    def ask(upload: tuple[str, str]) -> requests.Response:
        return persist(server, Request(upload[1], form={"file": pictures[upload[0]]}))

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, uploads))
    for upload, answer in zip(uploads, answers, strict=True):
        error = answer.json()["error"]
        if len(pictures[upload[0]]) > 10 << 20:
            assert (answer.status_code, error["code"]) == (413, "too_large"), (upload, error)
        else:
            assert (answer.status_code, error["code"]) == (422, "bad_picture"), (upload, error)
            assert error["reason"], (upload, error)
    damaged = [content for kind in ("JPEG", "PNG", "TIFF") for content in flipped(kind, 8)]
    for content in damaged:
        answer = persist(server, Request("/v1/search/image", form={"file": content}))
        assert answer.status_code in (200, 422), answer.text
    large = persist(server, Request("/v1/images", form={"file": b"\xff\xd8" + bytes(11 << 20)}))
    assert large.status_code == 413  # more than a picture may have, less than a request
    assert pids(server) == before


def test_a_picture_of_many_megabytes_is_answered(server: RunningServer) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    assert 6 << 20 < len(stream.getvalue()) < 10 << 20
    form = {"file": stream.getvalue()}
    assert persist(server, Request("/v1/search/image", form=form)).status_code == 200


# Adding


def test_added_and_deleted_pictures_show_on_every_replica_within_a_second(
    server: RunningServer, collections: Collections
) -> None:
    delays = []
    for number in range(6):
        name = f"visible-{number}"
        form = {"file": collections.picture, "id": name}
        assert persist(server, Request("/v1/images", form=form)).status_code == 201
        delays.append(_last_seen_otherwise(server, name, 200))
        answer = persist(server, Request(f"/v1/images/{name}", method="DELETE"))
        assert answer.status_code == 200
        delays.append(_last_seen_otherwise(server, name, 404))
    assert statistics.median(delays) < 1.0, delays


def _last_seen_otherwise(server: RunningServer, name: str, status: int) -> float:
    """Seconds from now after which no replica gives another status any more."""
    began = time.monotonic()
    latest = 0.0
    agreeing = 0
    while agreeing < 16:  # both replicas were asked, but for one time in thirty thousand
        sent = time.monotonic() - began
        code = persist(server, Request(f"/v1/images/{name}", method="GET")).status_code
        agreeing = agreeing + 1 if code == status else 0
        if code != status:
            latest = sent
            assert latest < 30, f"{name}: still {code}"
    return latest


# Clients that go away


LONG = " ".join(" ".join(TEXTS).split()[:20])  # 128 with a beam of 8 are nearly what may be asked


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "list"])
def test_a_client_that_goes_away_frees_its_place(server: RunningServer, stream: bool) -> None:
    work = {"text": [LONG] * 128, "beam": 8, "stream": stream}
    request = Request("/v1/translate", {"text": "Où est le chat ?"})

    def status() -> int:
        return send(server, request).status_code

    assert status() == 200
    with ExitStack() as clients:
        for _ in range(6):  # a list counts as half a queue at most, and there may be two queues
            clients.enter_context(_asking(server, work))
        server.wait(lambda: status() == 503, 60, "the queue is not full")
    assert server.wait(lambda: status() == 200, 60, "the queue is still full")


@contextmanager
def _asking(server: RunningServer, work: Mapping[str, Any]) -> Iterator[None]:
    """A client that waits for its translations for the length of the block, then goes away."""
    body = json.dumps(work).encode()
    host, port = server.address.removeprefix("http://").split(":")
    head = (
        f"POST /v1/translate HTTP/1.1\r\nHost: {host}:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        yield


# Too much to do


def test_far_more_than_it_can_bear_is_refused_at_once_and_all_is_well_afterwards(
    server: RunningServer,
) -> None:
    request = Request("/v1/translate", {"text": TEXTS[0]})
    work = Request("/v1/translate", {"text": TEXTS[:16], "beam": 4})
    assert send(server, work).status_code == 200
    before = server.memory_by_process()
    kind = Kind(lambda number: work, clients=80, per_second=150)
    with Traffic(server.address, {"translate": kind}):
        for _ in range(6):
            time.sleep(1)
            assert server.ready()  # one that is busy is not one that is broken
    outcome = kind.outcome
    assert not outcome.faults(), outcome.not_good
    assert outcome.good()
    assert len(outcome.refused()) > len(outcome.good())
    assert statistics.median(outcome.refused()) < statistics.median(outcome.good()) / 2
    assert server.wait(lambda: send(server, work).status_code == 200, 60, "it does not recover")
    assert [send(server, request).status_code for _ in range(10)] == [200] * 10
    after = server.memory_by_process()
    grown = {pid: after[pid] - before[pid] for pid in before if pid in after}
    assert grown
    assert max(grown.values()) < 100 << 20, grown


# Death


@pytest.mark.parametrize("deployment", ["Translator", "Encoder", "Index-0", "Writer", "Gateway"])
def test_killing_all_replicas_of_a_part_costs_clients_no_more_than_a_wait(
    deployment: str,
    server: RunningServer,
    translators: Translators,
    collections: Collections,
) -> None:
    changes = Changes(f"kill-{deployment}", collections.picture)
    kinds = everyday(translators.offline[translators.first], QUERIES, changes, RATES)
    with Traffic(server.address, kinds) as traffic:
        traffic.wait_good(3)
        killed = server.kill(deployment)
        assert killed
        traffic.wait_good(3)
    assert not faults(kinds, changes)
    assert not any(kind.outcome.lost for kind in kinds.values())
    assert len(changes.acknowledged) > 3
    assert not changes.lost(server)
    server.wait_replicas(deployment, 2 if deployment == "Index-0" else 1)
    assert not {process.pid for process in server.replicas(deployment)} & set(killed)


def test_a_killed_proxy_comes_back_by_itself(server: RunningServer) -> None:
    if not haproxy.environment():
        pytest.skip("there is no HAProxy for this system")
    killed = server.proxies()
    assert killed
    for process in killed:
        process.kill()
    server.wait(server.ready, 60, "nothing takes connections")
    assert server.proxies()
    assert not {process.pid for process in server.proxies()} & {process.pid for process in killed}


def test_a_dead_translator_does_not_keep_searches_waiting(
    server: RunningServer, translators: Translators
) -> None:
    translate = translating(translators.offline[translators.first], clients=150)
    search = searching(QUERIES, 2, 10)
    with Traffic(server.address, {"translate": translate, "search": search}) as traffic:
        traffic.wait_good(3)
        at = traffic.now()
        assert server.kill("Translator")
        traffic.wait_good(3)
        outage = translate.outcome.longest_gap(at, traffic.now())
    assert not faults({"translate": translate, "search": search})
    assert search.outcome.longest_gap(at, at + outage) < outage / 2


def test_a_stream_whose_translator_dies_breaks_off(server: RunningServer) -> None:
    work = {"text": [LONG] * 6000, "stream": True, "partial": True}
    url = f"{server.address}/v1/translate"
    with _begun(lambda: requests.post(url, json=work, stream=True, timeout=120)) as answer:
        lines = answer.iter_lines()
        assert "partial" in json.loads(next(lines))
        assert server.kill("Translator")
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            list(lines)


def _begun(ask: Callable[[], requests.Response]) -> requests.Response:
    """An answer with status 200; one that is refused is asked for again, as it was told."""
    deadline = time.monotonic() + 60
    while (answer := ask()).status_code == 503:
        assert time.monotonic() < deadline
        answer.close()
        time.sleep(float(answer.headers["retry-after"]))
    assert answer.status_code == 200
    return answer


# More and fewer replicas


def test_replicas_come_under_load_and_go_without_losing_a_request(
    server: RunningServer, translators: Translators, collections: Collections
) -> None:
    persist(server, Request("/v1/search/image", form={"file": collections.picture}))
    assert server.replicas("Encoder")
    expected = translators.offline[translators.first]
    # With one word after another, the gateway would have more to do than the translator.
    wide = DecodingSettings(beam=8)
    best = Translator.load(translators.first).translate(TEXTS, wide)
    by_beam = {text: translation.text for text, translation in zip(TEXTS, best, strict=True)}
    heavy = translating(by_beam, clients=15, texts_each=4, beam=8)
    with Traffic(server.address, {"heavy": heavy}):
        server.wait_replicas("Translator", 2)
    kinds = {"translate": translating(expected, 2, 20), "search": searching(QUERIES, 1, 10)}
    with Traffic(server.address, kinds) as traffic:
        server.wait_replicas("Translator", 1)
        server.wait_replicas("Encoder", 0)
        traffic.wait_good(3)
    for kind in kinds.values():
        assert set(kind.outcome.statuses) == {200}, kind.outcome.not_good
    assert not faults({"heavy": heavy})
    _start_encoder(server, collections)
    assert len(server.replicas("Encoder")) == 1


def _start_encoder(server: RunningServer, collections: Collections) -> None:
    """Asks for a picture's neighbours until they come: the encoder may have no replica yet."""
    answer = persist(server, Request("/v1/search/image", form={"file": collections.picture}))
    assert answer.status_code == 200
    assert answer.json()["matches"]

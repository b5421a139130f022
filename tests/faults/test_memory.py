"""Texts that nobody sent before: once they are answered, the replicas hold little of them."""

import time

import pytest

from benchmarks.hour import Words, mixed, stored
from serve.testing.clients import Kind, Request, Traffic
from serve.testing.server import RunningServer
from serve.testing.traffic import persist
from tests.faults.conftest import Collections

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MOST = 6 << 20  # bytes that a replica may grow by; a translator that kept the words grew by 24 MiB
WARM, BURST = 150, 400  # texts of forty new words
PATIENCE = 30.0  # seconds for the burst, which takes about five


def translate_new_words(server: RunningServer, texts: int) -> None:
    words = Words(texts)

    def request(number: int) -> Request:
        return Request(
            "/v1/translate", {"text": [" ".join(words.new() for _ in range(40)) for _ in range(8)]}
        )

    kind = Kind(request, 2, retries=20)
    deadline = time.monotonic() + PATIENCE
    with Traffic(server.address, {"translate": kind}):
        while kind.outcome.count(200) * 8 < texts:
            assert time.monotonic() < deadline, kind.outcome.not_good
            time.sleep(0.1)


def test_replicas_keep_little_of_what_they_were_asked(
    server: RunningServer, collections: Collections
) -> None:
    server.wait_ready()
    persist(server, Request("/v1/search/image", form={"file": collections.picture}))
    others = mixed([collections.picture], stored(server, "dog"), factor=4)
    with Traffic(server.address, others):
        translate_new_words(server, WARM)
        time.sleep(3)
        before = server.memory_by_process()
        translate_new_words(server, BURST)
    after = server.memory_by_process()
    grown = {
        (name, process.pid): after[process.pid] - before[process.pid]
        for name, processes in server.all_replicas().items()
        for process in processes
        if process.pid in before and process.pid in after
    }
    assert {name for name, _ in grown} == {"Translator", "Encoder", "Index-0", "Writer", "Gateway"}
    assert all(size < MOST for size in grown.values()), grown
    for gateway in server.replicas("Gateway"):  # although it has passed on pictures
        assert not any("libtorch" in mapped.path for mapped in gateway.memory_maps())

"""The encoder with a network that a test holds back: whose pictures it embeds, and what waits."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from seqvis.deadline import Deadline
from seqvis.errors import SearchTimeoutError
from seqvis.search.requests import EncodedImage
from serve.common.settings import ImageSearchSettings, Version
from serve.replicas.encoder import MOST_NAMINGS, EncoderReplica
from tests.support.serving import MemoryStore

KEY = "default=c"


class Images:
    """Notes what it embeds, and does nothing until it may go on."""

    def __init__(self) -> None:
        self.runs: list[list[bytes]] = []
        self.go_on = threading.Event()
        self.begun = threading.Event()

    def encode_many(self, contents: Sequence[bytes]) -> list[EncodedImage]:
        self.runs.append(list(contents))
        self.begun.set()
        assert self.go_on.wait(10)
        return [EncodedImage(np.ones(2), 1, 1, b"") for _ in contents]

    def classify(self, vector: Any, k: int, candidates: str, deadline: Deadline) -> list[Any]:
        while not self.go_on.wait(0.01):
            deadline.check()
        return []


class Counted:
    """Stands for a metric."""

    def __init__(self) -> None:
        self.count = 0

    def inc(self) -> None:
        self.count += 1


class Encoder(EncoderReplica):
    images: Images

    def load(self, version: Version) -> Any:
        self.images = Images()
        return self.images


@pytest.fixture
def encoder() -> Encoder:
    replica = Encoder(ImageSearchSettings(collection="c", timeout_s=0.3), store=MemoryStore())
    replica._metrics.cancelled = replica._naming._cancelled = Counted()  # type: ignore[assignment]
    return replica


def test_pictures_whose_callers_have_gone_never_reach_the_network(encoder: Encoder) -> None:
    async def ask() -> None:
        first = asyncio.create_task(encoder.encode(KEY, b"first"))
        await asyncio.to_thread(encoder.images.begun.wait)
        others = [asyncio.create_task(encoder.encode(KEY, b"%d" % number)) for number in range(9)]
        await asyncio.sleep(0.01)
        for task in others[:6]:
            task.cancel()
        await asyncio.wait(others[:6])
        assert encoder._metrics.cancelled.count == 6  # type: ignore[attr-defined]
        encoder.images.go_on.set()
        assert (await first).width == 1
        await asyncio.gather(*others[6:])

    asyncio.run(ask())
    assert encoder.images.runs == [[b"first"], [b"6", b"7", b"8"]]


def test_a_processor_embeds_four_pictures_at_once_and_a_gpu_more(encoder: Encoder) -> None:
    async def ask() -> None:
        first = asyncio.create_task(encoder.encode(KEY, b"first"))
        await asyncio.to_thread(encoder.images.begun.wait)
        others = [asyncio.create_task(encoder.encode(KEY, b"%d" % number)) for number in range(6)]
        await asyncio.sleep(0.01)
        encoder.images.go_on.set()
        await asyncio.gather(first, *others)

    asyncio.run(ask())
    assert [len(run) for run in encoder.images.runs] == [1, 4, 2]
    assert ImageSearchSettings(collection="c", encoder_on_gpu=True).most_at_once() == 64
    assert ImageSearchSettings(collection="c", encode_at_once=9).most_at_once() == 9


def test_a_classification_that_takes_too_long_is_ended_and_pictures_go_on(encoder: Encoder) -> None:
    async def ask() -> None:
        naming = [
            asyncio.create_task(encoder.classify(KEY, np.ones(2), 1000, "wordnet"))
            for _ in range(MOST_NAMINGS + 1)
        ]
        await asyncio.sleep(0.05)
        assert naming[-1].done()  # one more than may be under way
        naming[0].cancel()
        results = await asyncio.gather(*naming, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert all(isinstance(result, SearchTimeoutError) for result in results[1:])
        encoder.images.go_on.set()
        assert (await encoder.encode(KEY, b"a")).width == 1
        assert await encoder.classify(KEY, np.ones(2), 1000, "wordnet") == []

    asyncio.run(asyncio.wait_for(ask(), 5))
    assert encoder._metrics.cancelled.count == 1  # type: ignore[attr-defined]

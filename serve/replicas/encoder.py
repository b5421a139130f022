"""The deployment Encoder: places pictures among words, or names the nearest words.

Pictures that arrive while the network runs are embedded together in its next run: nobody waits for
a batch to fill, and a run costs less than its pictures one by one.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any, ClassVar

import numpy as np
import torch

from seqvis.errors import BusyError, QueryError
from seqvis.process import keep_freed_memory
from seqvis.search.pictures import ImageEncoder
from seqvis.search.requests import EncodedImage, NameSet
from serve.common.metrics import EncoderMetrics
from serve.common.services import EncoderService
from serve.common.settings import Application, ImageSearchSettings, Version
from serve.common.versions import Store
from serve.replicas.base import REPORT_EVERY, CallThreads, Replica, device_of

MOST_NAMINGS = 16  # classifications under way


@dataclass(eq=False)
class _Waiting:
    model: ImageEncoder
    content: bytes
    answer: asyncio.Future[EncodedImage]
    since: float


class EncoderReplica(Replica[ImageEncoder], EncoderService):
    """The backbone and the head of each live version."""

    application: ClassVar[Application] = "search"

    def __init__(
        self, settings: ImageSearchSettings, parts: Sequence[Any] = (), store: Store | None = None
    ):
        """`parts`: the other deployments of the application, so that Serve starts them too."""
        torch.set_num_threads(settings.threads)
        keep_freed_memory()
        self._settings = settings
        self._metrics = EncoderMetrics()
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._naming = CallThreads(
            "naming", 8, MOST_NAMINGS, settings.timeout_s, self._metrics.cancelled
        )
        self._waiting: list[_Waiting] = []
        self._running = False
        super().__init__(settings.collection, store)
        self.repeat(REPORT_EVERY, self._report)

    async def encode(self, version: str, content: bytes) -> EncodedImage:
        model = self.get(version)
        if len(self._waiting) >= self._settings.max_waiting:
            raise BusyError(f"{len(self._waiting)} pictures are waiting already", retry_after=1.0)
        answer: asyncio.Future[EncodedImage] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(model, content, answer, monotonic()))
        if not self._running:
            self._running = True
            asyncio.get_running_loop().create_task(self._work())
        try:
            return await answer
        except asyncio.CancelledError:  # `_next_pictures` leaves it out
            self._metrics.cancelled.inc()
            raise

    async def encode_many(
        self, version: str, contents: Sequence[bytes]
    ) -> list[EncodedImage | QueryError]:
        # One run of the network at a time, so that others' pictures still find a place to wait.
        results: list[EncodedImage | QueryError] = []
        at_once = self._settings.most_at_once()
        for begin in range(0, len(contents), at_once):
            some = (self.encode(version, content) for content in contents[begin : begin + at_once])
            for result in await asyncio.gather(*some, return_exceptions=True):
                if not isinstance(result, EncodedImage | QueryError):
                    raise result
                results.append(result)
        return results

    async def classify(
        self, version: str, vector: np.ndarray, k: int, candidates: NameSet
    ) -> list[dict[str, Any]]:
        words = await self._naming.run(self.get(version).classify, vector, k, candidates)
        return [
            {"word": word.name, "labels": list(word.labels), "score": round(word.score, 4)}
            for word in words
        ]

    def load(self, version: Version) -> ImageEncoder:
        on_gpu = self._settings.encoder_on_gpu
        model = ImageEncoder.open(
            version.only_path, self._settings.model, self._settings.vectors, device_of(on_gpu)
        )
        model.warm_up(together=1 if on_gpu else self._settings.most_at_once())
        return model

    def _report(self) -> None:
        self._metrics.waiting.set(len(self._waiting))

    async def _work(self) -> None:
        """Run the network until nobody waits."""
        try:
            while self._waiting:
                together = self._next_pictures()
                if together:
                    await self._embed(together)
        finally:
            self._running = False

    def _next_pictures(self) -> list[_Waiting]:
        """Return the next pictures, all for one version, without those that were given up."""
        self._waiting = [picture for picture in self._waiting if not picture.answer.done()]
        if not self._waiting:
            return []
        model = self._waiting[0].model
        alike = [picture for picture in self._waiting if picture.model is model]
        together = alike[: self._settings.most_at_once()]
        self._waiting = [picture for picture in self._waiting if picture not in together]
        return together

    async def _embed(self, together: list[_Waiting]) -> None:
        model, contents = together[0].model, [picture.content for picture in together]
        results: Sequence[EncodedImage | Exception]
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._network, model.encode_many, contents
            )
        except Exception as error:  # raised to each of those who wait
            results = [error] * len(together)
        now = monotonic()
        for picture, result in zip(together, results, strict=True):
            if picture.answer.done():  # its client has gone
                continue
            self._metrics.seconds.observe(now - picture.since)
            if isinstance(result, Exception):
                picture.answer.set_exception(result)
            elif not np.isfinite(result.vector).all():
                picture.answer.set_exception(QueryError("the picture's place is not finite"))
            elif not result.vector.any():
                picture.answer.set_exception(QueryError("the picture shows nothing that is known"))
            else:
                picture.answer.set_result(result)

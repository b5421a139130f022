"""The deployment Encoder: places pictures among words, or names the nearest words.

Pictures that arrive while the network runs are embedded together in its next run: nobody waits for
a batch to fill, and a run costs less than its pictures one by one.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import torch
from ray import serve

from seqvis.collection.items import PlacedPicture
from seqvis.errors import BusyError, QueryError
from seqvis.process import keep_freed_memory
from seqvis.ray_internals import keep_replica_local
from seqvis.search.candidates import CandidateSet
from seqvis.search.pictures import PicturePlacer
from serve.common.metrics import EncoderMetrics, Reporter, SwitchMetrics
from serve.common.settings import ENDING, Application, SearchSettings, Version
from serve.common.versions import Follower, HeadStore, Store, configure
from serve.replicas.threads import CallThreads

APPLICATION: Application = "search"
MOST_NAMINGS = 16  # classifications under way


@dataclass(eq=False)
class _Waiting:
    placer: PicturePlacer
    content: bytes
    answer: asyncio.Future[PlacedPicture]
    came: float


class EncoderReplica:
    """The backbone and the head of each live version. Methods are called by the gateway."""

    def __init__(
        self, settings: SearchSettings, parts: Sequence[Any] = (), store: Store | None = None
    ):
        """`parts`: the other deployments of the application, so that Serve starts them too."""
        keep_replica_local()
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
        store = store or HeadStore()
        configure(store, APPLICATION, [Version(name="default", path=settings.collection)])
        told = SwitchMetrics().told
        self._follower: Follower[PicturePlacer] = Follower(
            APPLICATION, store, self._load, lambda placer: None, told
        )
        self._follower.start()
        Reporter(lambda: self._metrics.waiting.set(len(self._waiting)))

    async def place(self, version: str, content: bytes) -> PlacedPicture:
        """A picture's place among words, its size and thumbnail.

        Raises BadPictureError with the reason if it cannot be used, BusyError if too many wait.
        """
        placer = self._follower.get(version)
        if len(self._waiting) >= self._settings.max_waiting:
            raise BusyError(f"{len(self._waiting)} pictures are waiting already", retry_after=1.0)
        answer: asyncio.Future[PlacedPicture] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(placer, content, answer, monotonic()))
        if not self._running:
            self._running = True
            asyncio.get_running_loop().create_task(self._work())
        try:
            return await answer
        except asyncio.CancelledError:  # `_take` leaves it out
            self._metrics.cancelled.inc()
            raise

    async def classify(
        self, version: str, vector: np.ndarray, k: int, candidates: CandidateSet
    ) -> list[dict[str, Any]]:
        """The words nearest to a picture's place, best first. Raises SearchTimeoutError."""
        placer = self._follower.get(version)
        words = await self._naming.run(placer.classify, vector, k, candidates)
        return [
            {"word": word.name, "labels": list(word.labels), "score": round(word.score, 4)}
            for word in words
        ]

    async def try_version(self, version: Version) -> None:
        """Loads a version and tries it; raises why it cannot be used."""
        await asyncio.to_thread(self._follower.try_version, version)

    def check_health(self) -> None:
        """Serve asks; a replica that answers is well."""

    def _load(self, version: Version) -> PicturePlacer:
        device = "cuda" if self._settings.encoder_on_gpu else "cpu"
        placer = PicturePlacer.open(
            version.path, self._settings.model, self._settings.vectors, device
        )
        placer.warm_up()
        return placer

    async def _work(self) -> None:
        """Runs the network until nobody waits."""
        try:
            while self._waiting:
                together = self._take()
                if together:
                    await self._embed(together)
        finally:
            self._running = False

    def _take(self) -> list[_Waiting]:
        """The next pictures, all for one version; those that were given up are left out."""
        self._waiting = [one for one in self._waiting if not one.answer.done()]
        if not self._waiting:
            return []
        placer = self._waiting[0].placer
        alike = [one for one in self._waiting if one.placer is placer]
        together = alike[: self._settings.encode_at_once]
        self._waiting = [one for one in self._waiting if one not in together]
        return together

    async def _embed(self, together: list[_Waiting]) -> None:
        placer, contents = together[0].placer, [one.content for one in together]
        results: Sequence[PlacedPicture | Exception]
        try:
            results = await asyncio.get_running_loop().run_in_executor(
                self._network, placer.place_many, contents
            )
        except Exception as error:  # told to each of those who wait
            results = [error] * len(together)
        now = monotonic()
        for one, result in zip(together, results, strict=True):
            if one.answer.done():  # its client went away meanwhile
                continue
            self._metrics.seconds.observe(now - one.came)
            if isinstance(result, PlacedPicture) and result.vector.any():
                one.answer.set_result(result)
            elif isinstance(result, Exception):
                one.answer.set_exception(result)
            else:
                one.answer.set_exception(QueryError("the picture shows nothing that is known"))


def deployment(settings: SearchSettings) -> serve.Deployment:
    """The deployment Encoder, one GPU each if it is to have one."""
    actor = {"num_gpus": 1.0} if settings.encoder_on_gpu else {}
    return serve.deployment(
        name="Encoder",
        max_ongoing_requests=128,
        health_check_period_s=2,
        health_check_timeout_s=3,
        **ENDING,
        ray_actor_options={"num_cpus": 0.1, **actor},
    )(EncoderReplica)

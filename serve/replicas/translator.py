"""The deployment Translator: a replica translates for all its callers in one running batch.

It takes texts and search settings, and returns translations as dictionaries ready for JSON, all at
once or each as it ends.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import torch
from pydantic import Field
from ray import serve

from seqvis.config import Settings
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.linear import Precision
from seqvis.errors import DataError
from seqvis.process import keep_freed_memory
from seqvis.ray_internals import keep_replica_local
from seqvis.translation.inflight import InflightSettings, InflightTranslator
from seqvis.translation.requests import Listener, Request, Timing
from seqvis.translation.translator import Translation, Translator
from serve.common.metrics import Reporter, SwitchMetrics, TranslatorMetrics
from serve.common.settings import ENDING, Application, Version, Work
from serve.common.versions import Follower, HeadStore, Store, configure

APPLICATION: Application = "translator"
_TRIAL = "Où est le chat ?"  # any sentence: the words may be unknown


class TranslatorSettings(Settings):
    """The application `translator`."""

    model: str
    """Directory or URI that train_translator wrote."""
    use_gpu: bool = False
    """Decode on a GPU; give the deployment one, or a part of one (ray_actor_options)."""
    precision: Precision = "float32"
    """Type of the matrix products: bfloat16, and on a processor float16 and int8, are faster and
    translate some sentences otherwise."""
    threads: int = Field(1, ge=1, le=64)
    """Processor threads of a replica without a GPU."""
    batching: InflightSettings = InflightSettings()


class TranslatorReplica:
    """One decoder for each live version. Methods are called by the gateway's handle.

    Ray Serve batches nothing here. Requests meet in the decoder itself
    (seqvis/translation/inflight.py), where they join and leave between any two words.
    """

    def __init__(self, settings: TranslatorSettings, store: Store | None = None):
        keep_replica_local()
        torch.set_num_threads(settings.threads)
        keep_freed_memory()
        self._settings = settings
        self._metrics = TranslatorMetrics()
        store = store or HeadStore()
        configure(store, APPLICATION, [Version(name="default", path=settings.model)])
        self._follower: Follower[InflightTranslator] = Follower(
            APPLICATION,
            store,
            self._load,
            InflightTranslator.close,
            SwitchMetrics().told,
        )
        self._follower.start()
        Reporter(self._report)

    async def translate(
        self, version: str, texts: Sequence[str], work: Work
    ) -> list[dict[str, Any]]:
        """All translations, in the order of the texts.

        Raises VersionMissingError, BusyError if the queue is full, or DataError if the texts turn
        out to cost more than they may.
        """
        call = _Call(self._metrics)
        inflight = self._follower.get(version)
        request = inflight.submit(texts, _search(work), call, most=work.most)
        try:
            found: list[Translation | None] = [None] * len(texts)
            for _ in texts:
                index, item = await call.next()
                assert isinstance(item, Translation)
                found[index] = item
        finally:
            self._leave(inflight, request)
        return [as_json(one, work.attention) for one in found if one is not None]

    async def stream(
        self, version: str, texts: Sequence[str], work: Work
    ) -> AsyncIterator[dict[str, Any]]:
        """Each translation as it ends; before it what is written so far, if that is asked for."""
        call = _Call(self._metrics)
        inflight = self._follower.get(version)
        request = inflight.submit(texts, _search(work), call, work.partial, work.most)
        try:
            left = len(texts)
            while left:
                index, item = await call.next()
                if isinstance(item, str):
                    yield {"index": index, "partial": item}
                else:
                    left -= 1
                    yield {"index": index, "translation": as_json(item, work.attention)}
        finally:
            self._leave(inflight, request)

    async def try_version(self, version: Version) -> None:
        """Loads a version and translates with it; raises why it cannot be used."""
        await asyncio.to_thread(self._follower.try_version, version)

    async def describe(self) -> dict[str, Any]:
        """What each loaded version is, by key; and why wanted ones are not loaded."""
        versions = {key: self._about(self._follower.get(key)) for key in self._follower.loaded()}
        return {"versions": versions, "refused": self._follower.refused()}

    def check_health(self) -> None:
        if not all(inflight.healthy for inflight in self._follower.values()):
            raise RuntimeError("a decoder's thread has died")

    def _load(self, version: Version) -> InflightTranslator:
        device = "cuda" if self._settings.use_gpu else "cpu"
        translator = Translator.load(version.path, device, self._settings.precision)
        translator.translate([_TRIAL])
        return InflightTranslator(translator, self._settings.batching)

    def _leave(self, inflight: InflightTranslator, request: Request) -> None:
        """Ends a request: what its caller did not wait for leaves the batch at its next step."""
        given_up = inflight.cancel(request)
        if given_up:
            self._metrics.cancelled.inc(given_up)

    @staticmethod
    def _about(inflight: InflightTranslator) -> dict[str, Any]:
        artifact, languages = inflight.translator.artifact, inflight.translator.languages
        return {
            "source_language": languages.source_tokenizer.settings.language,
            "target_language": languages.target_tokenizer.settings.language,
            "variant": artifact.config.get("variant"),
            "metrics": {name: value for name, value in artifact.metrics.items() if name in _SHOWN},
            "fingerprint": artifact.fingerprint(),
        }

    def _report(self) -> None:
        loads = [inflight.load() for inflight in self._follower.values()]
        rows, waiting = sum(one.rows for one in loads), sum(one.waiting for one in loads)
        self._metrics.rows.set(rows)
        self._metrics.waiting.set(waiting)
        self._metrics.occupancy.set(rows / max(1, sum(one.max_rows for one in loads)))


_SHOWN = ("bleu", "chrf", "loss", "parameters")


class _Call(Listener):
    """Passes the decoder thread's callbacks into the event loop of the request."""

    def __init__(self, metrics: TranslatorMetrics):
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[tuple[int, Translation | str | BaseException]] = asyncio.Queue()
        self._metrics = metrics

    async def next(self) -> tuple[int, Translation | str]:
        index, item = await self._items.get()
        if isinstance(item, BaseException):
            raise item
        return index, item

    def translated(self, index: int, translation: Translation, timing: Timing) -> None:
        if timing.words:
            self._metrics.first_word.observe(timing.first_word)
            self._metrics.total.observe(timing.total)
            self._metrics.words.inc(timing.words)
        self._put(index, translation)

    def on_partial(self, index: int, text: str) -> None:
        self._put(index, text)

    def on_error(self, error: BaseException) -> None:
        refused = isinstance(error, DataError)
        self._put(0, error if refused else RuntimeError(f"the decoder broke: {error!r}"))

    def _put(self, index: int, item: Translation | str | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the replica is being stopped: nobody listens
            self._loop.call_soon_threadsafe(self._items.put_nowait, (index, item))


def _search(work: Work) -> DecodingSettings:
    return DecodingSettings(beam=work.beam, n_best=work.n_best, length_penalty=work.length_penalty)


def as_json(translation: Translation, attention: bool) -> dict[str, Any]:
    """The translation as the interface shows it; weights with three digits."""
    candidates = []
    for one in translation.alternatives:
        weights = None
        if attention and one.attention is not None:
            weights = one.attention.double().numpy().round(3).tolist()
        candidates.append(
            {
                "text": one.text,
                "tokens": one.tokens,
                "score": round(one.score, 4),
                "complete": one.complete,
                "attention": weights,
            }
        )
    return {
        "source": translation.source,
        "source_tokens": translation.source_tokens,
        "unknown_words": translation.unknown,
        "text": translation.text,
        "candidates": candidates,
    }


def build(settings: TranslatorSettings) -> serve.Application:
    """The application `translator`."""
    actor = {"num_gpus": 1.0} if settings.use_gpu else {}
    deployment = serve.deployment(
        name="Translator",
        max_ongoing_requests=256,
        max_queued_requests=256,
        health_check_period_s=2,
        health_check_timeout_s=3,
        **ENDING,
        ray_actor_options={"num_cpus": 0.1, **actor},
    )(TranslatorReplica)
    return deployment.bind(settings)

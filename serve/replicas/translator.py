"""The deployment Translator: a replica translates for all its callers in one running batch.

Translations are dictionaries ready for JSON.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field

from seqvis.config import OneOrMore, Settings
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.linear import Precision
from seqvis.errors import DataError
from seqvis.process import keep_freed_memory
from seqvis.text.languages import Languages
from seqvis.text.spacing import CASE_TOKENS
from seqvis.translation.inflight import InflightSettings, InflightTranslator
from seqvis.translation.requests import Listener, Timing
from seqvis.translation.results import Translation
from seqvis.translation.translator import Translator
from serve.common.metrics import TranslatorMetrics
from serve.common.services import TranslatorService
from serve.common.settings import Application, TranslateOptions, Version
from serve.common.versions import Store
from serve.gateway.front import PublishedFront, front_of
from serve.replicas.base import REPORT_EVERY, Replica, device_of

_TRIAL = "Où est le chat ?"  # any sentence: the words may be unknown


class TranslatorSettings(Settings):
    """The application `translator`."""

    model: OneOrMore
    """Directory or URI that train_translator wrote, or several, which translate together."""
    use_gpu: bool = False
    """Decode on a GPU; give the deployment one, or a part of one (ray_actor_options)."""
    precision: Precision = "float32"
    """Type of the matrix products: bfloat16, and on a processor float16 and int8, are faster and
    translate some sentences otherwise."""
    threads: int = Field(1, ge=1, le=64)
    """Processor threads of a replica without a GPU."""
    batching: InflightSettings = InflightSettings()


class TranslatorReplica(Replica[InflightTranslator], TranslatorService):
    """One decoder for each live version.

    It takes HTTP itself, and calls of gateways where it has no route. Ray Serve batches nothing
    here. Requests meet in the decoder itself
    (seqvis/translation/inflight.py), where they join and leave between any two words.
    """

    application: ClassVar[Application] = "translator"

    def __init__(self, settings: TranslatorSettings, store: Store | None = None):
        torch.set_num_threads(settings.threads)
        keep_freed_memory()
        self._settings = settings
        self._metrics = TranslatorMetrics()
        super().__init__(settings.model, store)
        self.repeat(REPORT_EVERY, self._report)

    def __serve_build_asgi_app__(self) -> PublishedFront:
        """Return the application that Serve runs for this replica, if it has a route."""
        return front_of(self, self._store)

    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        answers: dict[int, dict[str, Any]] = {}
        async for item in self.stream(version, texts, replace(options, partial=False)):
            answers[item["index"]] = item["translation"]
        return [answers[index] for index in range(len(texts))]

    async def stream(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> AsyncIterator[dict[str, Any]]:
        call = _Call(self._metrics)
        inflight = self.get(version)
        inflight.translator.check_confidence(options.min_confidence)
        settings = DecodingSettings(
            beam=options.beam, n_best=options.n_best, length_penalty=options.length_penalty
        )
        partial = options.partial and not options.min_confidence  # it might yet be refused
        request = inflight.submit(texts, settings, call, partial, options.most)
        try:
            left = len(texts)
            while left:
                index, item = await call.next()
                if isinstance(item, str):
                    yield {"index": index, "partial": item}
                else:
                    left -= 1
                    translation = item.checked(options.min_confidence)
                    yield {"index": index, "translation": as_json(translation, options.attention)}
        finally:  # what its caller did not wait for leaves the batch at its next step
            if given_up := inflight.cancel(request):
                self._metrics.cancelled.inc(given_up)

    async def detect(self, version: str, texts: Sequence[str]) -> list[dict[str, float]]:
        languages = self.get(version).translator.languages
        return await asyncio.to_thread(lambda: [_known_shares(languages, text) for text in texts])

    def check_health(self) -> None:
        if not all(inflight.healthy for inflight in self.models()):
            raise RuntimeError("a decoder's thread has died")

    def load(self, version: Version) -> InflightTranslator:
        device = device_of(self._settings.use_gpu)
        translator = Translator.load(version.paths, device, self._settings.precision)
        translator.translate([_TRIAL])
        return InflightTranslator(translator, self._settings.batching)

    def release(self, model: InflightTranslator) -> None:
        model.close()

    def describe_model(self, model: InflightTranslator) -> dict[str, Any]:
        translator, languages = model.translator, model.translator.languages
        alone = translator.artifact.metrics if len(translator.models) == 1 else {}
        return {
            "source_language": languages.source_tokenizer.settings.language,
            "target_language": languages.target_tokenizer.settings.language,
            "variant": translator.artifact.config.get("variant"),
            "metrics": {name: value for name, value in alone.items() if name in _SHOWN},
            "fingerprint": ",".join(model.artifact.fingerprint() for model in translator.models),
        }

    def _report(self) -> None:
        loads = [inflight.load() for inflight in self.models()]
        rows, waiting = sum(load.rows for load in loads), sum(load.waiting for load in loads)
        self._metrics.rows.set(rows)
        self._metrics.waiting.set(waiting)
        self._metrics.occupancy.set(rows / max(1, sum(load.max_rows for load in loads)))


def _known_shares(languages: Languages, text: str) -> dict[str, float]:
    """Return the share of a text's words, 0 to 1, that each language's vocabulary has."""
    shares = {}
    for tokenizer, vocabulary in (
        (languages.target_tokenizer, languages.target_vocabulary),
        (languages.source_tokenizer, languages.source_vocabulary),
    ):
        tokens = [token for token in tokenizer.tokenize(text) if token not in CASE_TOKENS]
        words = [token for token in tokens if any(map(str.isalpha, token))]
        known = sum(word in vocabulary for word in words)
        shares[tokenizer.settings.language] = known / max(1, len(words))
    return shares


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


def as_json(translation: Translation, attention: bool) -> dict[str, Any]:
    """Return a translation as the interface shows it, without its texts if it was refused; weights
    have three digits."""
    candidates = []
    for alternative in () if translation.refused else translation.alternatives:
        weights = None
        if attention and alternative.attention is not None:
            weights = alternative.attention.double().numpy().round(3).tolist()
        candidates.append(
            {
                "text": alternative.text,
                "tokens": alternative.tokens,
                "score": round(alternative.score, 4),
                "complete": alternative.complete,
                "attention": weights,
            }
        )
    return {
        "source": translation.source,
        "source_tokens": translation.source_tokens,
        "unknown_words": translation.unknown,
        "confidence": None if translation.confidence is None else round(translation.confidence, 4),
        "refused": translation.refused,
        "text": None if translation.refused else translation.text,
        "candidates": candidates,
    }

"""Translate for many callers at once, in a running batch that sentences join and leave one by one.

Any thread may submit texts with a listener. The listener is called for each translation as soon as
its sentence ends, whatever else is being translated. One thread tokenises and encodes new texts
while another decodes those that are ready. Callers take turns, one sentence each (requests.py).
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from seqvis.config import Settings
from seqvis.decoding.beam import DecodingSettings, SentenceDecoding, start_decoding
from seqvis.decoding.cost import Cost
from seqvis.decoding.native import start_batch
from seqvis.errors import BusyError
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.languages import SourceSentence
from seqvis.translation.requests import (
    ActiveSentence,
    FairQueue,
    Listener,
    Load,
    QueuedSentence,
    Request,
    Timing,
)
from seqvis.translation.translator import Translator

_TOGETHER = 8  # sentences that are worth waiting for, to read them at once
_PATIENCE = 8  # steps that the reader waits for them
_AT_ONCE = 32  # words that a batch may be extended by while nobody waits for them
_MANY = 8  # rows in hand; with fewer, the reader waits for nothing
_READING_SECONDS = 0.02  # that texts are tokenised for until those that are ready go on


class InflightSettings(Settings):
    """How much one decoder takes on."""

    max_rows: int = Field(64, ge=1)
    """Rows of the running batch; a sentence has as many as its beam is wide."""
    max_waiting: int = Field(256, ge=1)
    """Sentences that wait for a place; a request beyond them is refused at once. Of one long
    request only half as many count, so that it alone does not fill the queue."""
    joining: int = Field(16, ge=1)
    """Sentences read at once; more would keep the first of them from being begun."""
    max_tokens: int = Field(384, ge=1)
    """Tokens of a sentence; a request with a longer one is refused when it is read."""


class InflightTranslator:
    """A translator that accepts requests while it translates. Close it when done."""

    def __init__(self, translator: Translator, settings: InflightSettings | None = None):
        self.translator = translator
        self.settings = settings or InflightSettings()
        self._batch = start_batch(translator.packed)
        self._running: dict[SentenceDecoding, ActiveSentence] = {}
        self._queue = FairQueue(self.settings.max_waiting)
        self._changed = threading.Condition()
        # To join before the next step:
        self._encoded: deque[tuple[list[ActiveSentence], Any]] = deque()
        self._reading: list[Request] = []  # one for each of their sentences that is being read
        self._rows = 0  # of what runs, was read or is being read
        self._cancelled = 0
        self._pace = 0.0  # seconds from the end of one sentence to that of the next, smoothed
        self._last_end = 0.0
        self._step_seconds = 0.0  # of one step, smoothed
        self._closed = False
        self._broken: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._read, name="reader", daemon=True),
            threading.Thread(target=self._decode, name="decoder", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        texts: Sequence[str],
        settings: DecodingSettings,
        listener: Listener,
        partial: bool = False,
        most: Cost | None = None,
    ) -> Request:
        """Queue texts, a sentence each. With `partial`, `listener.on_partial` is called as well.

        A request whose texts turn out to cost more than `most` ends with a DataError. Raises
        BusyError at once, without taking any text, if the queue has no room.
        """
        if self._queue.full:  # a refusal should cost nothing
            raise self._full()
        waiting = deque(QueuedSentence(index, text) for index, text in enumerate(texts))
        request = Request(settings, listener, partial, time.monotonic(), waiting, most)
        with self._changed:
            if self._broken or self._closed:
                raise BusyError("the translator is being replaced", retry_after=1.0)
            if not self._queue.admits(request):
                raise self._full()
            self._queue.add(request)
            self._changed.notify_all()
        return request

    def cancel(self, request: Request) -> int:
        """Forget what waits of a request, and take what runs out of the batch.

        Returns how many of its sentences had not ended.
        """
        with self._changed:
            if request.cancelled:
                return 0
            request.cancelled = True
            cancelled = self._queue.remove(request) + request.running
            self._cancelled += cancelled
            self._batch.interrupt()
            self._changed.notify_all()
            return cancelled

    def load(self) -> Load:
        """Return what it is doing now."""
        return Load(
            self._batch.rows,
            self._queue.sentences,
            self.settings.max_rows,
            self._batch.steps,
            self._batch.extended,
            self._cancelled,
        )

    @property
    def healthy(self) -> bool:
        """Whether the decoder still works."""
        return self._broken is None and all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Finish what runs and waits, then end the threads; new requests are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _read(self) -> None:
        """Tokenise and encode waiting texts, as many at once as have come (the reader's thread)."""
        try:
            while self._wait_to_read():
                if sentences := self._take_turns():
                    self._encode(sentences)
        except BaseException as error:
            with self._changed:
                self._broken = error  # the decoder's thread passes it on
                self._changed.notify_all()

    def _wait_to_read(self) -> bool:
        """Wait for a text and room for it; return False if no more will come.

        While many sentences are in hand, wait the time of a few words for more to read at once:
        read together they cost half as much each.
        """
        with self._changed:
            while not self._may_read():
                if self._broken or (self._closed and not self._queue):
                    return False
                self._changed.wait()
            until = time.monotonic() + _PATIENCE * self._step_seconds
            while self._queue.sentences < _TOGETHER and self._rows >= _MANY and not self._broken:
                left = until - time.monotonic()
                if left <= 0 or self._closed:
                    break
                self._changed.wait(left)
            return True

    def _may_read(self) -> bool:
        """Return whether a sentence waits and there is room for it."""
        if not self._queue or self._broken:
            return False
        return not self._rows or self._rows + self._queue.next_width() <= self.settings.max_rows

    def _take_turns(self) -> list[ActiveSentence]:
        """Tokenise one text of each waiting request in turn, as many as are read at once."""
        sentences: list[ActiveSentence] = []
        until = time.monotonic() + _READING_SECONDS
        while len(sentences) < self.settings.joining and time.monotonic() < until:
            with self._changed:
                if not self._may_read():
                    break
                request, queued = self._queue.take()
                self._rows += request.settings.beam
                request.running += 1
                self._reading.append(request)
            source = self._tokenise(request, queued)
            if source is not None:
                decoding = start_decoding(len(source.ids), request.settings)
                sentences.append(ActiveSentence(request, queued.index, source, decoding))
                continue
            with self._changed:
                self._reading.remove(request)
                self._leave([request])
        return sentences

    def _tokenise(self, request: Request, queued: QueuedSentence) -> SourceSentence | None:
        """Return the text as the model sees it, or None if there is nothing to search for.

        That is so for an empty text, which is answered at once, and where the request is
        cancelled, refused or has failed.
        """
        if request.cancelled:
            return None
        try:
            (source,) = self.translator.read([queued.text])
            request.spend(source, self.settings.max_tokens)
        except Exception as error:  # only this request fails
            with self._changed:
                request.cancelled = True
                self._queue.remove(request)
            request.listener.on_error(error)
            return None
        if source.tokens:
            return source
        empty = self.translator.translation(source, [])
        request.listener.translated(queued.index, empty, Timing(0.0, 0.0, 0))
        return None

    def _encode(self, sentences: list[ActiveSentence]) -> None:
        batch = SourceBatch.of([sentence.source.ids for sentence in sentences])
        state = self.translator.packed.encode(batch)
        with self._changed:
            self._encoded.append((sentences, state))
            self._reading = []
            self._batch.interrupt()
            self._changed.notify_all()

    def _decode(self) -> None:
        """Extend the sentences of the batch word by word (the decoder's thread)."""
        try:
            while self._wait_for_work():
                self._join()
                self._drop_cancelled()
                if self._running:
                    self._step()
        except BaseException as error:
            self._break(error)

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._running and not self._encoded:
                if self._broken or (self._closed and not self._queue and not self._rows):
                    break
                self._last_end = 0.0  # a pause does not count towards the pace
                self._changed.wait()
            if self._broken:
                raise self._broken
            return bool(self._running or self._encoded)

    def _join(self) -> None:
        """Add what was encoded to the batch."""
        while self._encoded:
            sentences, state = self._encoded.popleft()
            joining = {sentence.decoding: sentence for sentence in sentences}
            self._batch.join(list(joining), state)
            self._running |= joining

    def _drop_cancelled(self) -> None:
        cancelled = [sentence for sentence in self._running.values() if sentence.request.cancelled]
        if cancelled:
            self._batch.drop([sentence.decoding for sentence in cancelled])
            for sentence in cancelled:
                del self._running[sentence.decoding]
            self._leave([sentence.request for sentence in cancelled])

    def _leave(self, requests: Sequence[Request]) -> None:
        """Make room where a sentence of each of these requests was."""
        with self._changed:
            for request in requests:
                self._rows -= request.settings.beam
                request.running -= 1
            self._changed.notify_all()

    def _step(self) -> None:
        running = self._running.values()
        watched = any(each.request.partial or not each.first_word for each in running)
        steps, began = self._batch.steps, time.monotonic()
        ended = self._batch.step(1 if watched else _AT_ONCE)
        if ended:
            self._leave([self._running[decoding].request for decoding in ended])
        now = time.monotonic()
        seconds = (now - began) / (self._batch.steps - steps)
        self._step_seconds += (seconds - self._step_seconds) * 0.1
        for sentence in running:
            if not sentence.first_word:
                sentence.first_word = now - sentence.request.arrived
            if sentence.sends_partial:
                text = self.translator.text_so_far(sentence.source, sentence.decoding.ids)
                sentence.request.listener.on_partial(sentence.index, text)
        if ended:
            if self._last_end:
                latest = (now - self._last_end) / len(ended)
                self._pace += (latest - self._pace) * (0.1 if self._pace else 1.0)
            self._last_end = now
        for decoding in ended:
            sentence = self._running.pop(decoding)
            request = sentence.request
            if not request.cancelled:
                translation = self.translator.translation(sentence.source, decoding.hypotheses)
                words = len(decoding.hypotheses[0].ids)
                timing = Timing(sentence.first_word, now - request.arrived, words)
                request.listener.translated(sentence.index, translation, timing)

    def _break(self, error: BaseException) -> None:
        """Tell all callers that the decoder broke."""
        with self._changed:
            self._broken = error
            sentences = [*self._running.values()]
            sentences += [sentence for encoded, _ in self._encoded for sentence in encoded]
            requests = {sentence.request for sentence in sentences}
            requests |= self._queue.clear() | set(self._reading)
            self._running.clear()
            self._encoded.clear()
        for request in requests:
            if not request.cancelled:
                request.listener.on_error(error)

    def _full(self) -> BusyError:
        """Return the refusal, with about how long the queue takes at the present pace."""
        waiting = self._queue.sentences
        problem = f"{waiting:,} sentences are waiting already"
        return BusyError(problem, max(1.0, waiting * self._pace))

"""Translating for many callers at once: sentences join the running batch and leave it singly.

In: texts from any thread, with a callback each. Out: a call of it for every translation, as soon as
its sentence ends, whatever else is being translated. One thread runs the decoder. What would
surprise a reader: callers take turns, a sentence each, so a list of a thousand does not keep a
single sentence waiting; and callbacks are called by the decoder's thread, so they must be quick.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from seqvis.errors import BusyError
from seqvis.translation.batches import pad_ids
from seqvis.translation.decode import RunningBatch, SearchSettings, Sentence
from seqvis.translation.settings import InflightSettings
from seqvis.translation.translator import Translation, Translator


@dataclass(frozen=True)
class Timing:
    """Seconds from a sentence's coming to its first word and to its end, and its words."""

    first_word: float
    total: float
    words: int


@dataclass(frozen=True)
class Load:
    """What a decoder is doing."""

    rows: int
    waiting: int
    max_rows: int
    steps: int  # so far
    words: int  # so far, of all hypotheses that were kept
    cancelled: int  # sentences so far that were given up before their end


class Listener:
    """What a caller is told; called by the decoder's thread."""

    def translated(self, index: int, translation: Translation, timing: Timing) -> None:
        """A sentence ended."""

    def grown(self, index: int, text: str) -> None:
        """A sentence has a word more; called only if the caller asked for it."""

    def failed(self, error: BaseException) -> None:
        """The decoder broke; nothing more will come."""


@dataclass(eq=False)
class _Waiting:
    index: int
    text: str
    tokens: list[str]


@dataclass(eq=False)
class Ticket:
    """A request that is under way."""

    settings: SearchSettings
    listener: Listener
    partial: bool
    came: float
    waiting: deque[_Waiting]
    given_up: bool = False
    running: int = 0


@dataclass(eq=False)
class _Running:
    ticket: Ticket
    waiting: _Waiting
    sentence: Sentence
    first_word: float = field(default=0.0)


class InflightTranslator:
    """A translator that takes requests while it translates. Close it, or use it in a `with`."""

    def __init__(self, translator: Translator, settings: InflightSettings | None = None):
        self.translator = translator
        self.settings = settings or InflightSettings()
        self._batch = RunningBatch(translator.model)
        self._running: dict[Sentence, _Running] = {}
        self._turns: deque[Ticket] = deque()  # those with sentences that wait
        self._changed = threading.Condition()
        self._waiting = self._steps = self._words = self._cancelled = 0
        self._pace = 0.0  # seconds from the end of one sentence to that of the next, smoothed
        self._last_end = 0.0
        self._closed = False
        self._broken: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def submit(
        self,
        texts: Sequence[str],
        settings: SearchSettings,
        listener: Listener,
        partial: bool = False,
    ) -> Ticket:
        """Queues texts, a sentence each. With `partial`, `listener.grown` hears of every word.

        Raises BusyError at once if more would wait than may, without taking any.
        """
        came = time.monotonic()
        if self._queue_length() >= self.settings.max_waiting:  # a refusal should cost nothing
            raise self._full()
        tokens = self.translator.languages.source_tokenizer.tokenize_many(texts)
        queued = [
            _Waiting(index, text, found)
            for index, (text, found) in enumerate(zip(texts, tokens, strict=True))
        ]
        waiting = deque(one for one in queued if one.tokens)
        ticket = Ticket(settings, listener, partial, came, waiting)
        with self._changed:
            if self._broken or self._closed:
                raise BusyError("the translator is being replaced", retry_after=1.0)
            length = self._queue_length()
            if length and length + self._counted(ticket) > self.settings.max_waiting:
                raise self._full()
            if ticket.waiting:
                self._waiting += len(ticket.waiting)
                self._turns.append(ticket)
                self._changed.notify()
        for one in queued:
            if not one.tokens:
                empty = self.translator.translation(one.text, [], [])
                listener.translated(one.index, empty, Timing(0.0, 0.0, 0))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Gives a request up: what waits is forgotten, what runs leaves the batch."""
        with self._changed:
            if not ticket.given_up:
                ticket.given_up = True
                self._cancelled += len(ticket.waiting) + ticket.running
                self._waiting -= len(ticket.waiting)
                ticket.waiting.clear()
                with contextlib.suppress(ValueError):
                    self._turns.remove(ticket)
                self._changed.notify()

    def load(self) -> Load:
        """What it is doing now."""
        return Load(
            self._batch.rows,
            self._waiting,
            self.settings.max_rows,
            self._steps,
            self._words,
            self._cancelled,
        )

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._running and not self._waiting

    @property
    def healthy(self) -> bool:
        """Whether the decoder's thread still runs."""
        return self._broken is None and self._thread.is_alive()

    def close(self) -> None:
        """Finishes what runs and waits, then ends the thread; takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def __enter__(self) -> "InflightTranslator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._drop_given_up()
                self._admit()
                if self._running:
                    self._step()
        except BaseException as error:
            self._break(error)

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._running and not self._turns:
                if self._closed:
                    return False
                self._last_end = 0.0  # what comes next says nothing of the pace
                self._changed.wait()
        return True

    def _drop_given_up(self) -> None:
        gone = [one.sentence for one in self._running.values() if one.ticket.given_up]
        if gone:
            self._batch.drop(gone)
            for sentence in gone:
                del self._running[sentence]

    def _admit(self) -> None:
        """Fills free rows: a sentence of each waiting request in turn."""
        chosen: list[tuple[Ticket, _Waiting]] = []
        rows = self._batch.rows
        with self._changed:
            while self._turns and len(chosen) < self.settings.joining:
                ticket = self._turns[0]
                if rows and rows + ticket.settings.beam > self.settings.max_rows:
                    break
                rows += ticket.settings.beam
                self._turns.popleft()
                chosen.append((ticket, ticket.waiting.popleft()))
                ticket.running += 1
                self._waiting -= 1
                if ticket.waiting:
                    self._turns.append(ticket)
        if not chosen:
            return
        languages = self.translator.languages
        source, lengths = pad_ids([languages.source_ids(one.tokens) for _, one in chosen])
        joined = self._batch.join(
            source.to(self.translator.device), lengths, [ticket.settings for ticket, _ in chosen]
        )
        for sentence, (ticket, one) in zip(joined, chosen, strict=True):
            self._running[sentence] = _Running(ticket, one, sentence)

    def _step(self) -> None:
        self._words += self._batch.rows
        self._steps += 1
        ended = self._batch.step()
        now = time.monotonic()
        for one in self._running.values():
            if not one.first_word:
                one.first_word = now - one.ticket.came
            if one.ticket.partial and not one.ticket.given_up:
                one.ticket.listener.grown(one.waiting.index, self._text_so_far(one))
        self._note_pace(len(ended), now)
        for sentence in ended:
            done = self._running.pop(sentence)
            if done.ticket.given_up:
                continue
            done.ticket.running -= 1
            translation = self.translator.translation(
                done.waiting.text, done.waiting.tokens, sentence.hypotheses
            )
            words = len(sentence.hypotheses[0].ids)
            timing = Timing(done.first_word, now - done.ticket.came, words)
            done.ticket.listener.translated(done.waiting.index, translation, timing)

    def _note_pace(self, ended: int, now: float) -> None:
        if not ended:
            return
        if self._last_end:
            latest = (now - self._last_end) / ended
            self._pace += (latest - self._pace) * (0.1 if self._pace else 1.0)
        self._last_end = now

    def _text_so_far(self, one: _Running) -> str:
        languages = self.translator.languages
        tokens = languages.target_tokens(list(one.sentence.ids), one.waiting.tokens, None)
        return languages.target_tokenizer.detokenize(tokens)

    def _break(self, error: BaseException) -> None:
        with self._changed:
            self._broken = error
            tickets = {one.ticket for one in self._running.values()} | set(self._turns)
            self._running.clear()
            self._turns.clear()
            self._waiting = 0
        for ticket in tickets:
            if not ticket.given_up:
                ticket.listener.failed(error)

    def _queue_length(self) -> int:
        return sum(self._counted(ticket) for ticket in tuple(self._turns))

    def _counted(self, ticket: Ticket) -> int:
        """Its sentences that wait; of a long list half a queue, as callers take turns."""
        return min(len(ticket.waiting), self.settings.max_waiting // 2)

    def _full(self) -> BusyError:
        """The refusal, with about how long the queue takes at the pace of the latest sentences."""
        problem = f"{self._waiting:,} sentences are waiting already"
        return BusyError(problem, max(1.0, self._waiting * self._pace))

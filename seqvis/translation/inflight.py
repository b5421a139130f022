"""Translating for many callers at once: sentences join the running batch and leave it singly.

In: texts from any thread, with a callback each. Out: a call of it for every translation, as soon as
its sentence ends, whatever else is being translated. One thread encodes what comes while another
decodes what was encoded. What would surprise a reader: callers take turns, a sentence each, so a
list of a thousand does not keep a single sentence waiting; and callbacks are called by the
decoder's thread, so they must be quick.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from seqvis.errors import BusyError
from seqvis.translation.batches import pad_ids
from seqvis.translation.decode import ReadSentences, RunningBatch, read_sentences
from seqvis.translation.sentences import SearchSettings, Sentence
from seqvis.translation.settings import InflightSettings
from seqvis.translation.tickets import Listener, Load, RunningText, Ticket, Timing, WaitingText
from seqvis.translation.translator import Translator
from seqvis.translation.turns import Turns

_TOGETHER = 8  # sentences that are worth waiting for, to read them at once
_PATIENCE = 8  # steps that they are waited for
_MANY = 8  # rows in hand; with fewer, nothing is waited for


@dataclass(frozen=True)
class _Read:
    ready: ReadSentences
    chosen: list[tuple[Ticket, WaitingText]]  # whose they are, in the same order


class InflightTranslator:
    """A translator that takes requests while it translates. Close it, or use it in a `with`."""

    def __init__(self, translator: Translator, settings: InflightSettings | None = None):
        self.translator = translator
        self.settings = settings or InflightSettings()
        self._batch = RunningBatch(translator.inference)
        self._running: dict[Sentence, RunningText] = {}
        self._turns = Turns(self.settings.max_waiting)
        self._changed = threading.Condition()
        self._read_ones: deque[_Read] = deque()  # encoded, to join before the next step
        self._reading: list[tuple[Ticket, WaitingText]] = []
        self._rows = 0  # of what runs, was read or is being read
        self._steps = self._words = self._cancelled = 0
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
        settings: SearchSettings,
        listener: Listener,
        partial: bool = False,
    ) -> Ticket:
        """Queues texts, a sentence each. With `partial`, `listener.grown` hears of every word.

        Raises BusyError at once if more would wait than may, without taking any.
        """
        came = time.monotonic()
        if self._turns.full:  # a refusal should cost nothing
            raise self._full()
        sources = self.translator.read(texts)
        queued = [WaitingText(index, source) for index, source in enumerate(sources)]
        waiting = deque(one for one in queued if one.source.tokens)
        ticket = Ticket(settings, listener, partial, came, waiting)
        with self._changed:
            if self._broken or self._closed:
                raise BusyError("the translator is being replaced", retry_after=1.0)
            if not self._turns.admits(ticket):
                raise self._full()
            self._turns.add(ticket)
            self._changed.notify_all()
        for one in queued:
            if not one.source.tokens:
                empty = self.translator.translation(one.source, [])
                listener.translated(one.index, empty, Timing(0.0, 0.0, 0))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Gives a request up: what waits is forgotten, what runs leaves the batch."""
        with self._changed:
            if not ticket.given_up:
                ticket.given_up = True
                self._cancelled += self._turns.forget(ticket) + ticket.running
                self._changed.notify_all()

    def load(self) -> Load:
        """What it is doing now."""
        return Load(
            self._batch.rows,
            self._turns.sentences,
            self.settings.max_rows,
            self._steps,
            self._words,
            self._cancelled,
        )

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._rows and not self._turns and not self._running

    @property
    def healthy(self) -> bool:
        """Whether the decoder still works."""
        return self._broken is None and all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """Finishes what runs and waits, then ends the threads; takes nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "InflightTranslator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        """Encodes what waits, as much at once as came meanwhile: the reader's thread."""
        try:
            while chosen := self._choose():
                source, lengths = pad_ids([list(one.source.ids) for _, one in chosen])
                ready = read_sentences(
                    self.translator.inference,
                    source.to(self.translator.device),
                    lengths,
                    [ticket.settings for ticket, _ in chosen],
                )
                with self._changed:
                    self._read_ones.append(_Read(ready, chosen))
                    self._reading = []
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._broken = error  # the decoder's thread tells everyone
                self._changed.notify_all()

    def _choose(self) -> list[tuple[Ticket, WaitingText]]:
        """Waits for sentences and room for them: one of each waiting request in turn.

        Returns none if nothing will come any more.
        """
        with self._changed:
            while not self._reading:
                while not self._may_read():
                    if self._broken or (self._closed and not self._turns):
                        return []
                    self._changed.wait()
                self._gather()
                self._reading = self._take_turns()
            return self._reading

    def _take_turns(self) -> list[tuple[Ticket, WaitingText]]:
        chosen: list[tuple[Ticket, WaitingText]] = []
        while self._may_read() and len(chosen) < self.settings.joining:
            ticket, one = self._turns.take()
            self._rows += ticket.settings.beam
            ticket.running += 1
            chosen.append((ticket, one))
        return chosen

    def _may_read(self) -> bool:
        """Whether a sentence waits and there is room for it."""
        if not self._turns or self._broken:
            return False
        return not self._rows or self._rows + self._turns.next_width() <= self.settings.max_rows

    def _gather(self) -> None:
        """While many sentences are in hand, waits the time of a few words for more to read at once:
        read together they cost half as much each."""
        until = time.monotonic() + _PATIENCE * self._step_seconds
        while self._turns.sentences < _TOGETHER and self._rows >= _MANY and not self._broken:
            left = until - time.monotonic()
            if left <= 0 or self._closed:
                return
            self._changed.wait(left)

    def _decode(self) -> None:
        """Gives each sentence of the batch a word more, again and again: the decoder's thread."""
        try:
            while self._wait_for_work():
                self._join()
                self._drop_given_up()
                if self._running:
                    self._step()
        except BaseException as error:
            self._break(error)

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not self._running and not self._read_ones:
                if self._broken or (self._closed and not self._turns and not self._rows):
                    break
                self._last_end = 0.0  # what comes next says nothing of the pace
                self._changed.wait()
            if self._broken:
                raise self._broken
            return bool(self._running or self._read_ones)

    def _join(self) -> None:
        """Takes what was read into the batch."""
        while self._read_ones:
            read = self._read_ones.popleft()
            self._batch.join(read.ready)
            for sentence, (ticket, one) in zip(read.ready.sentences, read.chosen, strict=True):
                self._running[sentence] = RunningText(ticket, one, sentence)

    def _drop_given_up(self) -> None:
        gone = [one.sentence for one in self._running.values() if one.ticket.given_up]
        if gone:
            self._batch.drop(gone)
            for sentence in gone:
                del self._running[sentence]
            self._leave(gone)

    def _leave(self, gone: Sequence[Sentence]) -> None:
        """Makes room where sentences were."""
        with self._changed:
            self._rows -= sum(sentence.width for sentence in gone)
            self._changed.notify_all()

    def _step(self) -> None:
        self._words += self._batch.rows
        self._steps += 1
        began = time.monotonic()
        ended = self._batch.step()
        if ended:
            self._leave(ended)
        now = time.monotonic()
        self._step_seconds += (now - began - self._step_seconds) * 0.1
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
            translation = self.translator.translation(done.waiting.source, sentence.hypotheses)
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

    def _text_so_far(self, one: RunningText) -> str:
        languages = self.translator.languages
        return languages.target_text(list(one.sentence.ids), one.waiting.source, None)[1]

    def _break(self, error: BaseException) -> None:
        with self._changed:
            self._broken = error
            tickets = {one.ticket for one in self._running.values()} | self._turns.clear()
            read = [self._reading, *(one.chosen for one in self._read_ones)]
            tickets |= {ticket for chosen in read for ticket, _ in chosen}
            self._running.clear()
            self._read_ones.clear()
        for ticket in tickets:
            if not ticket.given_up:
                ticket.listener.failed(error)

    def _full(self) -> BusyError:
        """The refusal, with about how long the queue takes at the pace of the latest sentences."""
        waiting = self._turns.sentences
        problem = f"{waiting:,} sentences are waiting already"
        return BusyError(problem, max(1.0, waiting * self._pace))

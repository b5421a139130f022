"""Translate for many callers at once, in a running batch that sentences join and leave one by one.

Any thread may submit texts with a listener. The listener is called for each translation as soon as
its sentence ends, whatever else is being translated. One thread tokenises and encodes new texts
while another decodes those that are ready. Callers take turns, one sentence each (requests.py).
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from seqvis.decoding.beam import SearchSettings, Sentence
from seqvis.decoding.cost import Cost
from seqvis.decoding.search import ReadSentences, RunningBatch, read_sentences
from seqvis.errors import BusyError, DataError
from seqvis.seq2seq.encoder import pad_ids
from seqvis.seq2seq.settings import InflightSettings
from seqvis.text.languages import SourceSentence
from seqvis.translation.requests import (
    ChosenText,
    Listener,
    Load,
    RunningText,
    Ticket,
    Timing,
    Turns,
    WaitingText,
)
from seqvis.translation.translator import Translator

_TOGETHER = 8  # sentences that are worth waiting for, to read them at once
_PATIENCE = 8  # steps that they are waited for
_MANY = 8  # rows in hand; with fewer, nothing is waited for
_MOMENT = 0.02  # seconds that texts are tokenised for until those that are go on


@dataclass(frozen=True)
class _Read:
    ready: ReadSentences
    chosen: list[ChosenText]  # whose they are, in the same order


class InflightTranslator:
    """A translator that accepts requests while it translates.

    Close it when done, or use it in a `with` block.
    """

    def __init__(self, translator: Translator, settings: InflightSettings | None = None):
        self.translator = translator
        self.settings = settings or InflightSettings()
        self._batch = RunningBatch(translator.inference)
        self._running: dict[Sentence, RunningText] = {}
        self._turns = Turns(self.settings.max_waiting)
        self._changed = threading.Condition()
        self._read_ones: deque[_Read] = deque()  # encoded, to join before the next step
        self._reading: list[Ticket] = []  # whose texts have their turn and are not read yet
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
        most: Cost | None = None,
    ) -> Ticket:
        """Queues texts, a sentence each. With `partial`, `listener.grown` hears of what is written.

        A request whose texts turn out to cost more than `most` ends with `listener.refused`.
        Raises BusyError at once if more would wait than may, without taking any.
        """
        if self._turns.full:  # a refusal should cost nothing
            raise self._full()
        waiting = deque(WaitingText(index, text) for index, text in enumerate(texts))
        ticket = Ticket(settings, listener, partial, time.monotonic(), waiting, most)
        with self._changed:
            if self._broken or self._closed:
                raise BusyError("the translator is being replaced", retry_after=1.0)
            if not self._turns.admits(ticket):
                raise self._full()
            self._turns.add(ticket)
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> int:
        """Gives a request up: what waits is forgotten, what runs leaves the batch.

        Returns how many of its sentences had not ended.
        """
        with self._changed:
            if ticket.given_up:
                return 0
            ticket.given_up = True
            given_up = self._turns.forget(ticket) + ticket.running
            self._cancelled += given_up
            self._changed.notify_all()
            return given_up

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
        """Reads what waits, as much at once as came meanwhile: the reader's thread."""
        try:
            while self._wait_to_read():
                if chosen := self._take_turns():
                    self._encode(chosen)
        except BaseException as error:
            with self._changed:
                self._broken = error  # the decoder's thread tells everyone
                self._changed.notify_all()

    def _wait_to_read(self) -> bool:
        """Waits for a text and room for it; false if nothing will come any more."""
        with self._changed:
            while not self._may_read():
                if self._broken or (self._closed and not self._turns):
                    return False
                self._changed.wait()
            self._gather()
            return True

    def _take_turns(self) -> list[ChosenText]:
        """Tokenises one text of each waiting request in turn, as many as are read at once."""
        chosen: list[ChosenText] = []
        until = time.monotonic() + _MOMENT
        while len(chosen) < self.settings.joining and time.monotonic() < until:
            with self._changed:
                if not self._may_read():
                    break
                ticket, one = self._turns.take()
                self._rows += ticket.settings.beam
                ticket.running += 1
                self._reading.append(ticket)
            source = self._tokenise(ticket, one)
            if source is not None:
                chosen.append(ChosenText(ticket, one.index, source))
                continue
            with self._changed:
                self._reading.remove(ticket)
                self._leave([ticket])
        return chosen

    def _tokenise(self, ticket: Ticket, one: WaitingText) -> SourceSentence | None:
        """The text as the model sees it; None if there is nothing to search for.

        That is so of an empty text, whose translation is told at once, of one whose request was
        given up, and of one for which the request is refused.
        """
        if ticket.given_up:
            return None
        try:
            (source,) = self.translator.read([one.text])
            ticket.spend(source, self.settings.max_tokens)
        except DataError as error:
            self._end(ticket)
            ticket.listener.refused(error)
            return None
        except Exception as error:  # of this text; the others are none the worse
            self._end(ticket)
            ticket.listener.failed(error)
            return None
        if source.tokens:
            return source
        empty = self.translator.translation(source, [])
        ticket.listener.translated(one.index, empty, Timing(0.0, 0.0, 0))
        return None

    def _end(self, ticket: Ticket) -> None:
        """Forgets a request that cannot be answered."""
        with self._changed:
            ticket.given_up = True
            self._turns.forget(ticket)

    def _encode(self, chosen: list[ChosenText]) -> None:
        source, lengths = pad_ids([list(one.source.ids) for one in chosen])
        ready = read_sentences(
            self.translator.inference,
            source.to(self.translator.device),
            lengths,
            [one.ticket.settings for one in chosen],
        )
        with self._changed:
            self._read_ones.append(_Read(ready, chosen))
            self._reading = []
            self._changed.notify_all()

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
            for sentence, one in zip(read.ready.sentences, read.chosen, strict=True):
                self._running[sentence] = RunningText(one, sentence)

    def _drop_given_up(self) -> None:
        gone = [one for one in self._running.values() if one.ticket.given_up]
        if gone:
            self._batch.drop([one.sentence for one in gone])
            for one in gone:
                del self._running[one.sentence]
            self._leave([one.ticket for one in gone])

    def _leave(self, tickets: Sequence[Ticket]) -> None:
        """Makes room where sentences of these requests were, one for each time that it is named."""
        with self._changed:
            for ticket in tickets:
                self._rows -= ticket.settings.beam
                ticket.running -= 1
            self._changed.notify_all()

    def _step(self) -> None:
        self._words += self._batch.rows
        self._steps += 1
        began = time.monotonic()
        ended = self._batch.step()
        if ended:
            self._leave([self._running[sentence].ticket for sentence in ended])
        now = time.monotonic()
        self._step_seconds += (now - began - self._step_seconds) * 0.1
        for one in self._running.values():
            if not one.first_word:
                one.first_word = now - one.ticket.came
            if one.ticket.partial and not one.ticket.given_up and one.is_shown:
                one.ticket.listener.grown(one.chosen.index, self._text_so_far(one))
        self._note_pace(len(ended), now)
        for sentence in ended:
            done = self._running.pop(sentence)
            if done.ticket.given_up:
                continue
            translation = self.translator.translation(done.chosen.source, sentence.hypotheses)
            words = len(sentence.hypotheses[0].ids)
            timing = Timing(done.first_word, now - done.ticket.came, words)
            done.ticket.listener.translated(done.chosen.index, translation, timing)

    def _note_pace(self, ended: int, now: float) -> None:
        if not ended:
            return
        if self._last_end:
            latest = (now - self._last_end) / ended
            self._pace += (latest - self._pace) * (0.1 if self._pace else 1.0)
        self._last_end = now

    def _text_so_far(self, one: RunningText) -> str:
        languages = self.translator.languages
        return languages.target_text(list(one.sentence.ids), one.chosen.source, None)[1]

    def _break(self, error: BaseException) -> None:
        with self._changed:
            self._broken = error
            tickets = {one.ticket for one in self._running.values()} | self._turns.clear()
            tickets |= {*self._reading}
            tickets |= {one.ticket for read in self._read_ones for one in read.chosen}
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

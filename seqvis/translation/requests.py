"""The requests of the in-flight translator: their progress, and whose turn is next.

Sentences of all requests wait for a place in the running batch and take turns, one from each
request, so that a list of a thousand does not keep a single sentence waiting. The queue does not
lock itself: its owner's lock guards it, and only `full` and `length` may be read without that lock.
"""

from collections import deque
from dataclasses import dataclass, field

from seqvis.decoding.beam import SearchSettings, Sentence
from seqvis.decoding.cost import Cost, cost_of
from seqvis.errors import DataError
from seqvis.text.languages import SourceSentence
from seqvis.translation.translator import Translation

_EACH_WORD = 32  # words that a translation is told of one by one; then at each 32nd part more


@dataclass(frozen=True)
class Timing:
    """Seconds from a sentence's arrival to its first word and to its end, and its word count."""

    first_word: float
    total: float
    words: int


@dataclass(frozen=True)
class Load:
    """The current load of a decoder."""

    rows: int
    waiting: int
    max_rows: int
    steps: int  # so far
    words: int  # so far, of all hypotheses that were kept
    cancelled: int  # sentences so far that were given up before their end


class Listener:
    """Callbacks of a request.

    The reader's and the decoder's threads call them, so they must be quick.
    """

    def translated(self, index: int, translation: Translation, timing: Timing) -> None:
        """A sentence ended."""

    def grown(self, index: int, text: str) -> None:
        """A sentence has a word more; called only if the caller asked for it."""

    def refused(self, error: DataError) -> None:
        """A text was too long, or all were together; nothing more will come."""

    def failed(self, error: BaseException) -> None:
        """The decoder broke; nothing more will come."""


@dataclass(eq=False)
class WaitingText:
    """A text of a request that has not been read. It is not even tokenised before its turn."""

    index: int
    text: str


@dataclass(eq=False)
class Ticket:
    """A request in progress."""

    settings: SearchSettings
    listener: Listener
    partial: bool
    came: float
    waiting: deque[WaitingText]
    most: Cost | None = None  # what all its texts may cost; None: whatever they do
    spent: Cost = field(default_factory=Cost)  # what those that were read may cost
    given_up: bool = False
    running: int = 0  # sentences that are being read or are in the batch

    def spend(self, source: SourceSentence, most_tokens: int) -> None:
        """Raises DataError if a text is too long, or all that were read are together."""
        if len(source.tokens) > most_tokens:
            raise DataError(
                f"a text has {len(source.tokens):,} tokens; at most {most_tokens:,} can be "
                "translated at once: send its sentences singly"
            )
        self.spent += cost_of(len(source.ids), self.settings.beam, self.settings.n_best)
        if self.most is not None:
            self.spent.check(self.most)


@dataclass(frozen=True)
class ChosenText:
    """A text whose turn has come, as the model reads it."""

    ticket: Ticket
    index: int
    source: SourceSentence


@dataclass(eq=False)
class RunningText:
    """A text that is being translated."""

    chosen: ChosenText
    sentence: Sentence
    first_word: float = field(default=0.0)

    @property
    def ticket(self) -> Ticket:
        return self.chosen.ticket

    @property
    def is_shown(self) -> bool:
        """Whether what is written is told of now; at every word of a long translation it would
        cost the square of its length."""
        words = len(self.sentence.ids)
        return words % max(1, words // _EACH_WORD) == 0


class Turns:
    """The queue of waiting sentences, with room for about `most` of them."""

    def __init__(self, most: int):
        self.sentences = 0
        """How many wait."""
        self._most = most
        self._tickets: deque[Ticket] = deque()

    def __bool__(self) -> bool:
        return bool(self._tickets)

    @property
    def full(self) -> bool:
        """Whether nothing more may wait."""
        return self._length() >= self._most

    def admits(self, ticket: Ticket) -> bool:
        """Whether there is room for a request; an empty queue takes one of any length."""
        length = self._length()
        return not length or length + self._counted(ticket) <= self._most

    def add(self, ticket: Ticket) -> None:
        if ticket.waiting:
            self.sentences += len(ticket.waiting)
            self._tickets.append(ticket)

    def next_width(self) -> int:
        """The beam of the sentence whose turn it is."""
        return self._tickets[0].settings.beam

    def take(self) -> tuple[Ticket, WaitingText]:
        """The sentence whose turn it is; it waits no longer."""
        ticket = self._tickets.popleft()
        one = ticket.waiting.popleft()
        self.sentences -= 1
        if ticket.waiting:
            self._tickets.append(ticket)
        return ticket, one

    def forget(self, ticket: Ticket) -> int:
        """Drops what waits of a request; how many sentences that were."""
        forgotten = len(ticket.waiting)
        if forgotten:  # else it is not in the queue any more
            self.sentences -= forgotten
            ticket.waiting.clear()
            self._tickets.remove(ticket)
        return forgotten

    def clear(self) -> set[Ticket]:
        """Drops everything; the requests that waited."""
        waited = set(self._tickets)
        for ticket in waited:
            ticket.waiting.clear()
        self._tickets.clear()
        self.sentences = 0
        return waited

    def _length(self) -> int:
        return sum(self._counted(ticket) for ticket in tuple(self._tickets))

    def _counted(self, ticket: Ticket) -> int:
        """Its sentences that wait; of a long list half a queue, as callers take turns."""
        return min(len(ticket.waiting), self._most // 2)

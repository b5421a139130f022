"""The requests of the in-flight translator: their progress, and whose turn is next.

Sentences of all requests queue for a place in the running batch and take turns, one from each
request, so that a list of a thousand does not keep a single sentence waiting.
"""

from collections import deque
from dataclasses import dataclass, field

from seqvis.decoding.beam import DecodingSettings, SentenceDecoding
from seqvis.decoding.cost import Cost, cost_of
from seqvis.errors import DataError
from seqvis.text.languages import SourceSentence
from seqvis.translation.results import Translation

_EACH_WORD = 32  # words after each of which a partial translation is sent; later at each 32nd part


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
    cancelled: int  # sentences so far that were cancelled before their end


class Listener:
    """Callbacks of a request.

    The reader's and the decoder's threads call them, so they must be quick.
    """

    def translated(self, index: int, translation: Translation, timing: Timing) -> None:
        """Take the translation of a sentence that ended."""

    def on_partial(self, index: int, text: str) -> None:
        """Take a sentence so far, after each word; called only if the caller asked for it."""

    def on_error(self, error: BaseException) -> None:
        """Take why it ends early: texts too long (DataError), or the decoder broke."""


@dataclass(frozen=True)
class QueuedSentence:
    """A text that waits for its turn, before which it is not even tokenised."""

    index: int
    text: str


@dataclass(eq=False)
class Request:
    """Texts of one caller, on their way through the queue and the batch."""

    settings: DecodingSettings
    listener: Listener
    partial: bool
    arrived: float
    waiting: deque[QueuedSentence]
    most: Cost | None = None  # what all its texts may cost; None: any amount
    spent: Cost = field(default_factory=Cost)  # what those that were read may cost
    cancelled: bool = False
    running: int = 0  # sentences that are being read or are in the batch

    def spend(self, source: SourceSentence, most_tokens: int) -> None:
        """Raise DataError if a text is too long, or if all that were read are together."""
        if len(source.tokens) > most_tokens:
            raise DataError(
                f"a text has {len(source.tokens):,} tokens; at most {most_tokens:,} can be "
                "translated at once: send its sentences singly"
            )
        self.spent += cost_of(len(source.ids), self.settings.beam, self.settings.n_best)
        if self.most is not None:
            self.spent.check(self.most)


@dataclass(eq=False)
class ActiveSentence:
    """A sentence that is being translated."""

    request: Request
    index: int
    source: SourceSentence
    decoding: SentenceDecoding
    first_word: float = 0.0

    @property
    def sends_partial(self) -> bool:
        """Whether its partial translation is sent now: sending a long one at every word would cost
        the square of its length."""
        words = len(self.decoding.ids)
        wanted = self.request.partial and not self.request.cancelled
        return wanted and words % max(1, words // _EACH_WORD) == 0


class FairQueue:
    """The queue of waiting sentences, with room for about `most` of them.

    Its owner's lock guards it: only `full` and `sentences` may be read without that lock.
    """

    def __init__(self, most: int):
        self.sentences = 0
        """How many wait."""
        self._most = most
        self._requests: deque[Request] = deque()

    def __bool__(self) -> bool:
        return bool(self._requests)

    @property
    def full(self) -> bool:
        return self._length() >= self._most

    def admits(self, request: Request) -> bool:
        """Return whether there is room; an empty queue takes a request of any length."""
        length = self._length()
        return not length or length + self._counted(request) <= self._most

    def add(self, request: Request) -> None:
        if request.waiting:
            self.sentences += len(request.waiting)
            self._requests.append(request)

    def next_width(self) -> int:
        """Return the beam of the sentence whose turn it is."""
        return self._requests[0].settings.beam

    def take(self) -> tuple[Request, QueuedSentence]:
        """Remove and return the sentence whose turn it is."""
        request = self._requests.popleft()
        sentence = request.waiting.popleft()
        self.sentences -= 1
        if request.waiting:
            self._requests.append(request)
        return request, sentence

    def remove(self, request: Request) -> int:
        """Remove the waiting sentences of a request; return how many."""
        removed = len(request.waiting)
        if removed:
            self.sentences -= removed
            request.waiting.clear()
            self._requests.remove(request)
        return removed

    def clear(self) -> set[Request]:
        """Remove everything; return the requests that waited."""
        waited = set(self._requests)
        for request in waited:
            self.remove(request)
        return waited

    def _length(self) -> int:
        return sum(self._counted(request) for request in tuple(self._requests))

    def _counted(self, request: Request) -> int:
        """Return how many of its waiting sentences count: at most half a queue, as callers take
        turns."""
        return min(len(request.waiting), self._most // 2)

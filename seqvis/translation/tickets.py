"""What the in-flight translator knows of the requests it works on, and what it tells them."""

from collections import deque
from dataclasses import dataclass, field

from seqvis.translation.languages import SourceSentence
from seqvis.translation.sentences import SearchSettings, Sentence
from seqvis.translation.translator import Translation


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
class WaitingText:
    index: int
    source: SourceSentence


@dataclass(eq=False)
class Ticket:
    """A request that is under way."""

    settings: SearchSettings
    listener: Listener
    partial: bool
    came: float
    waiting: deque[WaitingText]
    given_up: bool = False
    running: int = 0


@dataclass(eq=False)
class RunningText:
    ticket: Ticket
    waiting: WaitingText
    sentence: Sentence
    first_word: float = field(default=0.0)

"""What the in-flight translator knows of the requests it works on, and what it tells them."""

from collections import deque
from dataclasses import dataclass, field

from seqvis.errors import DataError
from seqvis.text.languages import SourceSentence
from seqvis.translation.cost import Cost, cost_of
from seqvis.translation.sentences import SearchSettings, Sentence
from seqvis.translation.translator import Translation

_EACH_WORD = 32  # words that a translation is told of one by one; then at each 32nd part more


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
    """What a caller is told; called by the reader's and the decoder's thread."""

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
    """A text of a request; it is read when its turn comes."""

    index: int
    text: str


@dataclass(eq=False)
class Ticket:
    """A request that is under way."""

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

"""Upper bounds for the cost of translations, known before any work begins.

The bounds follow from the length of a source, in words as counted here or in the model's own
tokens, and from the kind of search: the work of the longest search, and the number of attention
weights that the answer may contain.
"""

import re
from dataclasses import dataclass

from seqvis.errors import DataError
from seqvis.text.splitting import HAN, SOUTHERN

_SOURCE_BASE = 64
"""A step of a row costs as much as attending to so many source tokens, and attention comes on top.

Measured with the demo's translator: 19 µs a row and step, and 0.27 µs more for each source token,
over sources of 5 to 420 tokens."""
_LONGEST_FACTOR, _LONGEST_MORE = 2.0, 10

_WORD = re.compile(
    rf"[{HAN}{SOUTHERN}]"  # scripts without spaces: each character
    rf"|(?:(?![{HAN}{SOUTHERN}])\w){{1,8}}"  # a word; a long one for each eight letters begun
    r"|[^\w\s]"  # a mark
)


@dataclass(frozen=True)
class Cost:
    """An upper bound for the cost of translations."""

    work: int = 0
    """The sum, over rows and steps, of source tokens attended to plus what a step costs anyway."""
    weights: int = 0
    """Of attention: hypotheses times their words times source tokens."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.work + other.work, self.weights + other.weights)

    def check(self, most: "Cost") -> None:
        """Raises DataError for more than that, with what to lower."""
        if self.work > most.work:
            raise DataError(
                f"this is {self.work / most.work:.1f} times the work that one request may be: "
                "send fewer texts, shorter ones, or a smaller beam"
            )
        if self.weights > most.weights:
            raise DataError(
                f"these are {self.weights:,} weights of attention; at most {most.weights:,} may "
                "be asked for at once: send fewer texts, shorter ones, or a smaller n_best"
            )


def longest_target(source: int, factor: float = _LONGEST_FACTOR) -> int:
    """Words at which a translation of so many source tokens, `_eos_` among them, is cut."""
    return int(source * factor) + _LONGEST_MORE


def cost_of(source: int, beam: int, n_best: int) -> Cost:
    """Of a text of so many tokens, `_eos_` among them."""
    target = longest_target(source)
    return Cost(beam * target * (source + _SOURCE_BASE), n_best * target * source)


def count_words(text: str) -> int:
    """About how many tokens a text has: words, and marks, each by itself.

    Case tokens come on top, at most one a word.
    """
    # No tokenizer is used: a hostile text could make it slow, and a gateway counts before it reads.
    return len(_WORD.findall(text))

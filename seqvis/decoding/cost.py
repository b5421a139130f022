"""Upper bounds for the cost of translations, known before any work begins.

The bounds follow from the length of a source, in words as counted here or in the model's tokens,
and from the decoding settings.
"""

import re
from dataclasses import dataclass

from seqvis.errors import DataError
from seqvis.text.characters import HAN, SOUTHERN

_SOURCE_BASE = 64
"""A row's step costs as much as attending to so many source tokens, without its attention.

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
    """The sum over rows and steps of the source tokens attended to, plus `_SOURCE_BASE` each."""
    weights: int = 0
    """Numbers in the attention of the answer: hypotheses times words times source tokens."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.work + other.work, self.weights + other.weights)

    def check(self, most: "Cost") -> None:
        """Raise DataError, which says what to lower, if this is more than `most`."""
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
    """Return the words at which a translation is cut, given the source's tokens with `_eos_`."""
    return int(source * factor) + _LONGEST_MORE


def cost_of(source: int, beam: int, n_best: int) -> Cost:
    """Return the bound for a text of so many tokens, `_eos_` included."""
    target = longest_target(source)
    return Cost(beam * target * (source + _SOURCE_BASE), n_best * target * source)


def count_words(text: str) -> int:
    """Estimate how many tokens a text has: words, and punctuation marks by themselves.

    Case tokens come on top, at most one a word.
    """
    # No tokenizer is used: a hostile text could make it slow, and a gateway counts before it reads.
    return len(_WORD.findall(text))

"""Spacing as a corpus writes it: corrections of the rules, learned from text.

Rules do not know that a corpus puts a no-break space before `?`, writes ` - ` for a dash, or keeps
`10km` together. Each stage of corrections looks at more of a pair of neighbours and corrects the
stage before it where most of the text does otherwise, as transformation-based learning does
(Brill 1995).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from seqvis.text.protected import HAN

FEWEST = 5  # times that the text must do otherwise more often than as the rule has it
MOST = 5_000  # corrections of a stage
KEPT = ("", " ", "\u00a0", "\u202f", "\u2009", "\u3000")  # other white space counts as a space

Key = tuple[str, str, str]  # left and right of the gap, and what the stage before puts there

_DIGITS = re.compile(r"\d+")
_HAN = re.compile(f"[{HAN}]")


@dataclass(frozen=True)
class LearnedSpacing:
    """Corrections by stage: for kinds of neighbours, right ones, left ones, and for pairs."""

    stages: Sequence[Mapping[Key, str]] = field(default_factory=tuple)

    def correct(self, tokens: Sequence[str], separators: Sequence[str]) -> list[str]:
        """Return what the corpus would have in the place of `separators`, one before each token."""
        corrected = list(separators)
        names = [_name(token) for token in tokens]
        for place in range(1, len(names)):
            for views, corrections in zip(_VIEWS, self.stages, strict=False):
                key = (*views(names[place - 1], names[place]), corrected[place])
                corrected[place] = corrections.get(key, corrected[place])
        return corrected

    def __len__(self) -> int:
        return sum(len(corrections) for corrections in self.stages)

    def to_bytes(self) -> bytes:
        """Return JSON: for each stage a list of `[left, right, by rule, in the corpus]`."""
        stages = [
            [[*key, separator] for key, separator in sorted(corrections.items())]
            for corrections in self.stages
        ]
        return json.dumps(stages, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "LearnedSpacing":
        stages = json.loads(data)
        return cls(
            tuple(
                {(row[0], row[1], row[2]): row[3] for row in corrections} for corrections in stages
            )
        )


def learn(
    sentences: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]],
) -> LearnedSpacing:
    """Learn from sentences: their tokens, what rules put before each, and what the text had there.

    The order of the sentences does not matter. Memory grows with their number: give a sample.
    """
    # (left, right, so far, in the text): how often
    gaps: Counter[tuple[str, str, str, str]] = Counter()
    for tokens, ruled, written in sentences:
        names = [_name(token) for token in tokens]
        gaps.update(zip(names, names[1:], ruled[1:], written[1:], strict=False))
    stages = []
    for view in _VIEWS:
        by_key: dict[Key, Counter[str]] = {}
        for (left, right, so_far, text), count in gaps.items():
            by_key.setdefault((*view(left, right), so_far), Counter())[text] += count
        gains = {}
        for key, texts in by_key.items():
            usual = max(texts, key=lambda text: (texts[text], text == key[2], text))
            gain = texts[usual] - texts[key[2]]
            if gain >= FEWEST:
                gains[key] = (gain, usual)
        best = sorted(gains, key=lambda key: (-gains[key][0], key))[:MOST]
        corrections = {key: gains[key][1] for key in best}
        stages.append(corrections)
        corrected: Counter[tuple[str, str, str, str]] = Counter()
        for (left, right, so_far, text), count in gaps.items():
            now = corrections.get((*view(left, right), so_far), so_far)
            corrected[left, right, now, text] += count
        gaps = corrected
    return LearnedSpacing(tuple(stages))


def as_kept(separator: str) -> str:
    """Return the separator itself if it is one of `KEPT`, however often repeated, else a space."""
    first = separator[:1]
    return first if first in KEPT and separator == first * len(separator) else " "


def _name(token: str) -> str:
    return _DIGITS.sub("0", token.lower())


def _kind(name: str) -> str:
    """Return what kind of token this is; its space cannot be part of a token."""
    if _HAN.match(name):
        return " han"
    if name.isalpha():
        return " word"
    return " number" if name[0] == "0" else name


# What each stage sees of a gap.
_VIEWS = (
    lambda left, right: (_kind(left), _kind(right)),
    lambda left, right: ("", right),
    lambda left, right: (left, ""),
    lambda left, right: (left, right),
)

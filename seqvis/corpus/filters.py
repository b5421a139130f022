"""Filters for sentence pairs: the question filter, length limits, and the tally of drops.

A filter returns the part of a pair to keep, or the reason for dropping it. The question filter
keeps only what its pattern matched: of "What is it? Tell me." it keeps "What is it?".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# The lesson's re_eq and re_fq. A question in another language may begin with any word.
ENGLISH_QUESTION = re.compile(r"^(?P<question>Wh[^?.!]+\?)")
ANY_QUESTION = re.compile(r"^(?P<question>[^?.!]+\?)")
QUESTION_MARKS = re.compile(r"^(?P<question>[^?.!。？！؟]+[?？؟])")

EXAMPLES = 3  # line numbers that the report shows for each reason


def question_pair(
    source: str, target: str, source_language: str, target_language: str
) -> tuple[str, str] | None:
    """Return the questions that both lines start with, or None if one does not."""
    found_source = _question_pattern(source_language).search(source)
    if found_source is None:
        return None
    found_target = _question_pattern(target_language).search(target)
    return None if found_target is None else (found_source[1], found_target[1])


def question_pairs(table: pa.Table, source_language: str, target_language: str) -> pa.Table:
    """Return the rows in which `question_pair` finds questions, with these alone as texts.

    Arrow's engine (RE2) understands the same expressions and takes a whole column at once.
    """
    sides = [("source", source_language), ("target", target_language)]
    for name, language in sorted(sides, key=lambda side: side[1] != "en"):  # the rarest first
        pattern = _question_pattern(language).pattern
        questions = pc.struct_field(pc.extract_regex(table[name], pattern), "question")
        table = table.set_column(table.column_names.index(name), name, questions)
        table = table.filter(pc.is_valid(questions))
    return table


def _question_pattern(language: str) -> re.Pattern[str]:
    if language == "en":
        return ENGLISH_QUESTION
    return QUESTION_MARKS if language in ("zh", "ja", "ar", "fa", "ur") else ANY_QUESTION


def lengths_too_unequal(
    source: np.ndarray, target: np.ndarray, ratio: float, allowance: int = 5
) -> np.ndarray:
    """Return where the longer side has more than `ratio` times the tokens of the shorter one.

    Pairs whose lengths differ by at most `allowance` tokens pass: "Oui." may be "Yes, I do.".
    A ratio of 0 lets everything pass.
    """
    shorter, longer = np.minimum(source, target), np.maximum(source, target)
    return (ratio > 0) & (longer - shorter > allowance) & (longer > ratio * shorter)


@dataclass
class Tally:
    """How many lines were dropped for each reason, with the first few line numbers (from 1)."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[int]] = field(default_factory=dict)

    def add(self, reason: str, count: int, lines: Iterable[int] = ()) -> None:
        """Count `count` drops; of all lines ever added, the lowest few are kept."""
        if count:
            self.counts[reason] = self.counts.get(reason, 0) + count
            known = self.examples.get(reason, [])
            self.examples[reason] = sorted([*known, *lines])[:EXAMPLES]

    def merge(self, other: "Tally") -> None:
        for reason, count in other.counts.items():
            self.add(reason, count, other.examples.get(reason, []))

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> Mapping[str, Any]:
        """Return reason -> {"pairs": n, "first_lines": [...]}, the most frequent reason first."""
        order = sorted(self.counts, key=lambda reason: (-self.counts[reason], reason))
        return {
            reason: {"pairs": self.counts[reason], "first_lines": self.examples[reason]}
            for reason in order
        }

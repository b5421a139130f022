"""What readers of word vectors yield: blocks of words, and a record of what they left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from seqvis.encodings import BadLines
from seqvis.errors import DataError
from seqvis.text.subwords import Subwords

BLOCK = 4096  # words


class Block(NamedTuple):
    """Some words; `rows[i]` is the row of `vectors` of `words[i]` (None: row i)."""

    words: list[str]
    vectors: np.ndarray  # float32 [at most len(words), dimension]
    rows: np.ndarray | None = None


@dataclass
class LeftOut:
    """Entries of a source that are not stored: how many for each reason, and the first few."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    _words: BadLines = field(default_factory=BadLines)

    def add(self, reason: str, entries: Sequence[str]) -> None:
        """Counts entries, given by their words or lines."""
        self.counts[reason] = self.counts.get(reason, 0) + len(entries)
        self.examples[reason] = [*self.examples.get(reason, []), *entries][:3]

    def decode(self, word: bytes, where: str) -> str | None:
        """The word of the entry at `where`; None, and it is counted, if it is not UTF-8."""
        text = self._words.decode(word)
        if text is None:
            self.add("not_utf8", [where])
        return text

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """For the metrics: reason -> {"entries": n, "first": [...]}."""
        return {
            reason: {"entries": count, "first": self.examples[reason]}
            for reason, count in self.counts.items()
        }

    def check(self, name: str, stored: int, share: float) -> None:
        """Raises DataError if these are more than a share of all entries of the source `name`."""
        entries = stored + self.total
        if self.total <= share * entries:
            return
        reasons = "; ".join(
            f"{reason.replace('_', ' ')}: {count}, first {', '.join(self.examples[reason])}"
            for reason, count in self.counts.items()
        )
        advice = f"{self._words.advice()}, or " if self._words.count else ""
        raise DataError(
            f"{name}: {self.total} of {entries} entries have no usable vector ({reasons}); "
            f"{advice}raise --max-bad-share to leave them out"
        )


class VectorSource(Protocol):
    """Words with vectors. `left_out` is known when `blocks` is exhausted."""

    name: str  # of the file or package, for messages
    dimension: int
    left_out: LeftOut
    subwords: Subwords | None

    def blocks(self) -> Iterator[Block]:
        """All words in the order of the source. Raises DataError if the file is damaged."""

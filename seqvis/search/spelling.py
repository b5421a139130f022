"""Suggest known words of similar spelling for a word that has no vector.

The suggestions are the words of a store that differ by the fewest typing errors: a letter too many,
a letter missing or wrong, or two neighbouring letters swapped (optimal string alignment; Damerau
1964). Among equals, frequent words come first.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from seqvis import artifacts
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.storage import Location
from seqvis.vectors.store import KIND, WORD_ENDS, WORDS

_EDIT, _EXCHANGE = 4, 3  # exchanged letters are the likeliest slip, so they cost a little less
_OTHER_FIRST_LETTER = 1  # on top of that: people seldom miss the first key
_FAR = 100
_SHORT_WORD, _LONG_WORD = 3, 40  # letters; a short word may differ by one edit, a long one is none
_BLOCK = 1 << 14  # words compared at once: their part of the table stays in the processor's cache
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += ord("a") - ord("A")


@dataclass(frozen=True)
class Spelling:
    """The words that may be suggested, as UTF-8 laid end to end, and where each begins and ends."""

    text: np.ndarray  # uint8
    begins: np.ndarray  # int64 [words]
    ends: np.ndarray  # int64 [words]

    @classmethod
    def open(cls, vectors: str | Location) -> Self:
        """Return the words of a store of word vectors: about 50 MB for 2.5 million."""
        store = artifacts.load(vectors, KIND, verify=False)
        text = np.frombuffer(store.file(WORDS).read_bytes(), dtype=np.uint8)
        ends = np.load(io.BytesIO(store.file(WORD_ENDS).read_bytes()), allow_pickle=False)
        ends = ends.astype(np.int64)
        return cls(text, np.concatenate([[0], ends[:-1]]), ends)

    def near(self, word: str, count: int = 5, deadline: Deadline = UNBOUNDED) -> tuple[str, ...]:
        """Return at most `count` stored words that look like `word`, the likeliest first.

        They consist of letters, with a hyphen or an apostrophe between them at most: stores of
        words are full of numbers, addresses and markup that nobody means. Raises
        SearchTimeoutError.
        """
        wanted = _LOWER[np.frombuffer(word.lower().encode("utf-8", "replace"), dtype=np.uint8)]
        if not 1 < len(wanted) <= _LONG_WORD:
            return ()
        edits = 1 if len(wanted) <= _SHORT_WORD else 2
        # No index is built: every stored word is compared, tens of thousands at once, which takes a
        # fraction of a second for 2.5 million. Edits are counted in bytes of UTF-8, so a missing
        # accent costs as much as two letters.
        numbers, costs = self._within(wanted, edits, deadline)
        order = np.lexsort((numbers, costs))
        found = dict.fromkeys(self._likely_words(numbers[order], count + 1))
        found.pop(word.lower(), None)  # stored, but its vector is of no use
        return tuple(found)[:count]

    def _within(
        self, wanted: np.ndarray, edits: int, deadline: Deadline
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of all words within so many edits of `wanted`, and what they cost."""
        lengths = self.ends - self.begins
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for length in range(max(1, len(wanted) - edits), len(wanted) + edits + 1):
            of_length = np.flatnonzero(lengths == length)
            for begin in range(0, len(of_length), _BLOCK):
                deadline.check()
                numbers = of_length[begin : begin + _BLOCK]
                letters = _LOWER[self.text[np.arange(length)[:, None] + self.begins[numbers]]]
                costs = edit_costs(wanted, letters, edits)
                near = np.flatnonzero(costs <= edits * _EDIT)
                other_first = letters[0, near] != wanted[0]
                found.append((numbers[near], costs[near] + _OTHER_FIRST_LETTER * other_first))
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        numbers, costs = (np.concatenate(part) for part in zip(*found, strict=True))
        return numbers, costs

    def _likely_words(self, numbers: np.ndarray, count: int) -> Iterator[str]:
        """Yield the first `count` of these words that are words, each in lower case once."""
        seen: set[str] = set()
        for number in numbers:
            word = self.text[self.begins[number] : self.ends[number]].tobytes().decode().lower()
            if len(seen) < count and word not in seen and _is_word(word):
                seen.add(word)
                yield word


def edit_costs(wanted: np.ndarray, letters: np.ndarray, edits: int) -> np.ndarray:
    """Return what it costs to type each word instead of `wanted`, uint8 [words].

    `wanted` is uint8 [m], `letters` uint8 [n, words], a column for each word of n letters. Only
    the table's cells within `edits` of its diagonal are filled; costs of more edits than that are
    too high, but above `edits`.
    """
    length, words = letters.shape
    before = last = np.empty((0, words), dtype=np.uint8)
    row = np.full((length + 1, words), _FAR, dtype=np.uint8)
    for place in range(min(edits, length) + 1):
        row[place] = place * _EDIT
    for typed in range(1, len(wanted) + 1):
        before, last = last, row
        row = np.full((length + 1, words), _FAR, dtype=np.uint8)
        if typed <= edits:
            row[0] = typed * _EDIT
        same = letters == wanted[typed - 1]
        for place in range(max(1, typed - edits), min(length, typed + edits) + 1):
            cost = last[place - 1] + np.uint8(_EDIT) * ~same[place - 1]
            np.minimum(cost, last[place] + np.uint8(_EDIT), out=cost)
            np.minimum(cost, row[place - 1] + np.uint8(_EDIT), out=cost)
            if typed > 1 and place > 1:
                crossed = (letters[place - 1] == wanted[typed - 2]) & same[place - 2]
                exchanged = before[place - 2] + np.uint8(_EXCHANGE)
                np.minimum(cost, exchanged, out=cost, where=crossed)
            row[place] = cost
    return row[length]


def _is_word(word: str) -> bool:
    return word.replace("-", "").replace("'", "").isalpha() and word[0].isalpha()

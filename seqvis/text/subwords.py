"""Vectors of words that a model never saw, from their character n-grams, as fastText makes them.

In: a word and the bucket rows of a fastText model. Out: the word's n-gram numbers, or its vector.
What would surprise a reader: fastText's hash (FNV-1a) takes each byte as a *signed* character,
so bytes of accented letters enter it sign-extended; a model trained with that quirk must be read
with it. The n-grams of many words are hashed at once with NumPy: a word takes microseconds.

Source: Bojanowski et al. 2017, "Enriching Word Vectors with Subword Information", and fastText's
dictionary.cc, whose numbers these are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

END_OF_SENTENCE = "</s>"  # fastText's own token; it has no n-grams
_FNV_OFFSET = np.uint32(2166136261)
_FNV_PRIME = np.uint32(16777619)


@dataclass(frozen=True)
class Subwords:
    """The n-gram half of a fastText model: `matrix` holds one row for each hash bucket."""

    shortest: int  # characters of the shortest n-gram, the word's boundary marks among them
    longest: int
    matrix: np.ndarray  # [buckets, dimension], may be memory-mapped

    def vector(self, word: str) -> np.ndarray | None:
        """The mean of the word's n-gram rows, float32 [dimension]; None if it has no n-gram."""
        numbers, _ = self.numbers([word])
        if not len(numbers):
            return None
        rows = np.asarray(self.matrix[numbers], dtype=np.float32)
        mean: np.ndarray = rows.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def numbers(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Bucket numbers of all n-grams of `words`.

        Returns them word after word (int64 [total]) and how many each word has
        (int64 [len(words)]). An n-gram that occurs twice in a word counts twice.
        """
        return ngram_buckets(words, self.shortest, self.longest, len(self.matrix))


def ngram_buckets(
    words: Sequence[str], shortest: int, longest: int, buckets: int
) -> tuple[np.ndarray, np.ndarray]:
    """The hash buckets of the words' character n-grams; see `Subwords.numbers`."""
    marked = [b"" if w == END_OF_SENTENCE else b"<" + w.encode() + b">" for w in words]
    lengths = np.array([len(word) for word in marked], dtype=np.int64)
    if buckets <= 0 or longest <= 0 or not lengths.sum():
        return np.empty(0, np.int64), np.zeros(len(words), np.int64)
    text = np.frombuffer(b"".join(marked), dtype=np.int8)
    word_of_byte = np.repeat(np.arange(len(words)), lengths)
    ends = np.cumsum(lengths)
    is_start = (text.view(np.uint8) & 0xC0) != 0x80  # not a continuation byte of UTF-8

    start = np.flatnonzero(is_start)  # each character may begin an n-gram
    owner = word_of_byte[start]
    first = start == (ends - lengths)[owner]
    position = start.copy()
    state = np.full(len(start), _FNV_OFFSET, dtype=np.uint32)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for size in range(1, longest + 1):
        alive = position < ends[owner]
        start, owner, first = start[alive], owner[alive], first[alive]
        position, state = position[alive], state[alive]
        if not len(start):
            break
        _append_character(text, is_start, ends[owner], position, state)
        if size >= shortest:
            keep = np.ones(len(start), dtype=bool)
            if size == 1:  # the boundary marks alone are no n-grams
                keep = ~first & (position < ends[owner])
            order = np.full(int(keep.sum()), size)
            found.append((owner[keep], start[keep], order, state[keep] % np.uint32(buckets)))
    if not found:
        return np.empty(0, np.int64), np.zeros(len(words), np.int64)
    owners, starts, sizes, hashed = (np.concatenate(part) for part in zip(*found, strict=True))
    order = np.lexsort((sizes, starts))
    return hashed[order].astype(np.int64), np.bincount(owners, minlength=len(words))


def _append_character(
    text: np.ndarray,
    is_start: np.ndarray,
    ends: np.ndarray,
    position: np.ndarray,
    state: np.ndarray,
) -> None:
    """Hashes the one to four bytes of the character at each `position`, in place."""
    pending = np.arange(len(position))
    while len(pending):
        at = position[pending]
        signed = text[at].astype(np.int32).view(np.uint32)
        state[pending] = (state[pending] ^ signed) * _FNV_PRIME
        position[pending] += 1
        following = position[pending]
        inside = following < ends[pending]
        pending, following = pending[inside], following[inside]
        pending = pending[~is_start[following]]

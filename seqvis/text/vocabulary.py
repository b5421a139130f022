"""The vocabulary of one language: words and their ids.

A vocabulary is made from word counts, or from the bytes of a stored one.
The first four ids are reserved. A word of the text that happens to look like a special token
(`_pad_`) never becomes one: it is unknown.
"""

import hashlib
import heapq
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from seqvis.errors import ArtifactError

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIALS = ("_bos_", "_pad_", "_eos_", "_unk_")
LARGEST = 10_000_000  # words that a corpus may be asked for, without the specials


class Vocabulary:
    """An immutable list of words; the id of a word is its index."""

    def __init__(self, words: tuple[str, ...]):
        """Take the four specials, then every word once. Raises ValueError otherwise."""
        if words[: len(SPECIALS)] != SPECIALS:
            raise ValueError(f"a vocabulary starts with {' '.join(SPECIALS)}")
        if len(set(words)) != len(words):
            raise ValueError("a vocabulary holds each word once")
        self.words = words

    @cached_property
    def _id_of(self) -> dict[str, int]:
        first = len(SPECIALS)
        return {word: number for number, word in enumerate(self.words[first:], first)}

    def __len__(self) -> int:
        return len(self.words)

    @property
    def id_type(self) -> type[np.unsignedinteger[Any]]:
        """The smallest type that sentences of it are stored in."""
        return np.uint16 if len(self) <= 1 << 16 else np.uint32

    def __contains__(self, word: str) -> bool:
        return word in self._id_of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def ids(self, tokens: Sequence[str]) -> list[int]:
        """Return the id of each token, UNK for those that are not here; no EOS is added."""
        get = self._id_of.get
        return [get(token, UNK) for token in tokens]

    def to_bytes(self) -> bytes:
        """Return UTF-8, one word per line; backslash and line feed are escaped."""
        lines = (word.replace("\\", "\\\\").replace("\n", "\\n") for word in self.words)
        return "".join(line + "\n" for line in lines).encode()

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> "Vocabulary":
        """Read what `to_bytes` wrote. Raises ArtifactError, naming `where`, if it is not that."""
        try:
            lines = content.decode().split("\n")
            if lines.pop() != "":
                raise ValueError("its last line is cut off")
            return cls(tuple(_unescape(line) for line in lines))
        except ValueError as error:
            raise ArtifactError(f"{where}: not a vocabulary ({error}); make it again") from error

    @classmethod
    def build(
        cls, counts: Mapping[str, int], max_size: int = 40_000, min_count: int = 1
    ) -> "Vocabulary":
        """Return the `max_size` most frequent words besides the specials; ties in word order."""
        return cls(SPECIALS + tuple(word for word, _ in most_frequent(counts, max_size, min_count)))

    def fingerprint(self) -> str:
        """Return a short SHA-256 of the words in their order."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]


def most_frequent(
    counts: Mapping[str, int], max_size: int, min_count: int = 1
) -> list[tuple[str, int]]:
    """Return the most frequent words with their counts: by falling count, then by word."""
    usable = (
        (word, count)
        for word, count in counts.items()
        if count >= min_count and word not in SPECIALS
    )
    return heapq.nsmallest(max_size, usable, key=lambda item: (-item[1], item[0]))


def _unescape(line: str) -> str:
    if "\\" not in line:
        return line
    return re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], line)

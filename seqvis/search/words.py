"""Encode text queries as points of a collection's space, and suggest known words for unknown ones.

`WordEncoder` turns the text of a query into a unit vector in the space of the model that the
collection was built with. The collection records the location and fingerprint of that model and of
the word vectors. Any other model is refused, because its results would be meaningless. Words need
neither torch nor Pillow.

For a word that has no vector, `Spelling` suggests the words of a store that differ by the fewest
typing errors: a letter too many, a letter missing or wrong, or two neighbouring letters swapped
(optimal string alignment; Damerau 1964). Among equals, frequent words come first.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from seqvis import artifacts
from seqvis.collection.shards import describe
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.devise.space import WordSpaceModel, open_vectors
from seqvis.errors import ArtifactError
from seqvis.search.queries import Query, encode_query, parse_query
from seqvis.search.query_words import function_words_of
from seqvis.storage import Location
from seqvis.vectors.store import KIND, WORD_ENDS, WORDS, WordVectors

Trained = TypeVar("Trained", bound=WordSpaceModel)


class Described(Protocol):
    """A collection, either opened or only described."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def dimension(self) -> int: ...


class WordEncoder:
    """Turn text queries into vectors, each in well under 1 ms. Safe to share between threads."""

    def __init__(self, model: WordSpaceModel, vectors: WordVectors, uri: str | None = None):
        """`uri`: where the word vectors are now, if they were moved."""
        self.model = model
        self._vectors = vectors
        self._vectors_uri = uri or model.vectors_uri
        self._grammar = function_words_of(vectors)

    @classmethod
    def open(
        cls, collection: str | Path, model: str | None = None, vectors: str | None = None
    ) -> Self:
        """Open the model and the word vectors that a collection, sharded or not, records.

        `model` and `vectors` say where these are now, if they were moved. Raises ArtifactError if
        one is missing, or is not the one that the collection was built with.
        """
        trained = load_model_for(WordSpaceModel, describe(collection), model)
        return cls(trained, open_vectors(trained, vectors), vectors)

    @property
    def dimension(self) -> int:
        return self.model.dimension

    def read(self, query: str) -> Query:
        """Return how a query is understood in the language of the word vectors; `str` shows it.

        Raises QueryError if it cannot be read.
        """
        if not isinstance(query, str):
            raise TypeError(f"a query is one str, not {type(query).__name__}: {query!r}")
        return parse_query(query, self._grammar)

    def encode(self, query: str | Query, suggest: bool = True) -> np.ndarray:
        """Return a query's unit vector, float32 [dimension].

        Raises QueryError if it cannot be read or cancels to zero, and UnknownWordError, with near
        spellings if `suggest` is true, for a word that has no vector.
        """
        read = query if isinstance(query, Query) else self.read(query)
        near = self.suggestions if suggest else lambda word: ()
        return encode_query(read, self._vectors, self.model.project_words, near)

    def suggestions(self, word: str, deadline: Deadline = UNBOUNDED) -> tuple[str, ...]:
        """Return known words of similar spelling; among millions it takes a fraction of a second.

        Raises SearchTimeoutError.
        """
        return self._spelling.near(word, deadline=deadline)

    @cached_property
    def _spelling(self) -> "Spelling":
        # Loaded for the first misspelt word, because it takes 50 MB for 2.5 million words.
        return Spelling.open(self._vectors_uri)


def load_model_for(kind: type[Trained], collection: Described, given: str | None = None) -> Trained:
    """Load the model that a collection was built with, at `given` if it was moved.

    `kind`: WordSpaceModel is enough for words, DeviseModel takes pictures too. Raises ArtifactError
    if the model is missing or another one.
    """
    model = kind.open(given) if given else _recorded(kind, collection)
    where = model.artifact.location.uri
    fingerprint = collection.config.get("model_fingerprint")
    if fingerprint not in (None, model.artifact.fingerprint()):
        raise ArtifactError(
            f"{collection.path}: was built by another model than {where}; give --model the one it "
            f"was built with, or build it anew with seqvis build-index"
        )
    if model.dimension != collection.dimension:
        raise ArtifactError(
            f"{collection.path}: has vectors of dimension {collection.dimension}, but {where} "
            f"makes vectors of {model.dimension} numbers; build it anew with "
            f"seqvis build-index"
        )
    return model


def _recorded(kind: type[Trained], collection: Described) -> Trained:
    recorded = collection.config.get("model")
    if not isinstance(recorded, str):
        raise ArtifactError(f"{collection.path}: does not say which model made it; give --model")
    try:
        return kind.open(recorded)
    except ArtifactError as error:
        raise ArtifactError(
            f"{error} ({collection.path} records it; if it was moved, give --model)"
        ) from error


_EDIT, _EXCHANGE = 4, 3  # exchanged letters are the likeliest slip, so they cost a little less
_OTHER_FIRST_LETTER = 1  # on top of that: people seldom miss the first key
_FAR = 100
_SHORT_WORD, _LONG_WORD = 3, 40  # letters; a short word may differ by one edit; no word is longer
_BLOCK = 1 << 14  # words compared at once: their part of the table stays in the processor's cache
_LOWER = np.arange(256, dtype=np.uint8)
_LOWER[ord("A") : ord("Z") + 1] += ord("a") - ord("A")


# Not rapidfuzz: on 374,309 words it took six to ten times as long, and in its distances an exchange
# of two letters cannot cost less than an edit.
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
        words = dict.fromkeys(self._likely_words(numbers[order], count + 1))
        words.pop(word.lower(), None)  # stored, but its vector is of no use
        return tuple(words)[:count]

    def _within(
        self, wanted: np.ndarray, edits: int, deadline: Deadline
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers of all words within so many edits of `wanted`, and what they cost."""
        lengths = self.ends - self.begins
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for length in range(max(1, len(wanted) - edits), len(wanted) + edits + 1):
            of_length = np.flatnonzero(lengths == length)
            for begin in range(0, len(of_length), _BLOCK):
                deadline.check()
                numbers = of_length[begin : begin + _BLOCK]
                letters = _LOWER[self.text[np.arange(length)[:, None] + self.begins[numbers]]]
                costs = edit_costs(wanted, letters, edits)
                near = np.flatnonzero(costs <= edits * _EDIT)
                other_first = letters[0, near] != wanted[0]
                parts.append((numbers[near], costs[near] + _OTHER_FIRST_LETTER * other_first))
        if not parts:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        numbers, costs = (np.concatenate(part) for part in zip(*parts, strict=True))
        return numbers, costs

    def _likely_words(self, numbers: np.ndarray, count: int) -> Iterator[str]:
        """Yield the first `count` of these that look like words, each once, in lower case."""
        seen: set[str] = set()
        for number in numbers:
            word = self.text[self.begins[number] : self.ends[number]].tobytes().decode().lower()
            if len(seen) < count and word not in seen and _is_word(word):
                seen.add(word)
                yield word


def edit_costs(wanted: np.ndarray, letters: np.ndarray, edits: int) -> np.ndarray:
    """Return what it costs to type each word instead of `wanted`, uint8 [words].

    `wanted` is uint8 [m], `letters` uint8 [n, words], a column for each word of n letters. Only the
    table's cells within `edits` of its diagonal are filled; costs above `edits` may be too high.
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

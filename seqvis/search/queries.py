"""Text queries: signed sums of words and phrases, such as `engine + boat` or `2 * dog - puppy`.

    query  = [sign] term { sign term }        sign   = "+" | "-"
    term   = [ number "*" ] phrase            phrase = word { word }  |  '"' anything '"'

In: what a user typed. Out: a `Query`, weights and phrases; `str(query)` is text that reads back as
the same. `place_query` makes it a unit vector of the space that pictures are projected into.

What would surprise a reader: a hyphen between two letters or digits belongs to the word
(`motor-boat`, `1e-3`), any other is a minus; `c++` needs quotes. Dashes, curly quotes and the
signs × and − are read as the keyboard's. Quotes only keep signs from being read as such:
`"fire truck"` and `fire truck` are one phrase.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from seqvis.errors import QueryError, UnknownWordError
from seqvis.text.wordvectors import WordVectors

LONGEST_QUERY = 1000  # characters
MOST_TERMS = 50

# Each stands for one character, so that columns stay what the user sees.
_KEYBOARD = str.maketrans("‐‑‒–—−“”„«»×＋＊’", "------" + '"""""' + "*+*'")
_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e-?\d+)?|inf|infinity|nan", re.ASCII | re.IGNORECASE)
_PARTS = re.compile(r"[-_/']")
_CANCELLED = 1e-5  # of the terms' weights together: below this only rounding is left


@dataclass(frozen=True)
class Term:
    """A phrase, its words separated by single spaces, and its signed weight."""

    weight: float
    phrase: str


@dataclass(frozen=True)
class Query:
    """A signed sum of phrases."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        """The query as text that `parse_query` reads back as an equal one."""
        parts: list[str] = []
        for term in self.terms:
            sign = "-" if math.copysign(1.0, term.weight) < 0 else "+"
            size = repr(abs(term.weight)).replace("+", "")  # 1e+16: no sign inside a number
            parts += [sign] if parts or sign == "-" else []
            parts += [] if size == "1.0" else [size, "*"]
            parts.append(term.phrase if _reads_as_words(term.phrase) else f'"{term.phrase}"')
        return " ".join(parts)


def parse_query(text: str) -> Query:
    """Reads a query. Raises QueryError that names the column (from 1) of what cannot be read."""
    if not text.strip():
        raise QueryError("the query is empty; give a word, such as boat, or a sum: engine + boat")
    if len(text) > LONGEST_QUERY:
        raise QueryError(
            f"the query has {len(text):,} characters; {LONGEST_QUERY:,} at most can be read"
        )
    return _Parser(text).query()


def place_query(
    query: Query,
    vectors: WordVectors,
    place: Callable[[np.ndarray], np.ndarray],
    suggest: Callable[[str], tuple[str, ...]],
) -> np.ndarray:
    """The query as a unit vector, float32 [dimension], in the space of `place`.

    `place` turns raw word vectors [n, word dimension] into unit rows [n, dimension]; each phrase
    has length 1 before it is weighted, so that rare words, whose vectors are often long, do not
    drown the others. Raises UnknownWordError, with what `suggest` finds near in spelling, for the
    first word without a vector, and QueryError if the terms cancel each other.
    """
    raw = np.stack([phrase_vector(term.phrase, vectors, suggest) for term in query.terms])
    rows = np.asarray(place(raw.astype(np.float32)), dtype=np.float64)
    weights = np.array([term.weight for term in query.terms])
    weights = weights / (np.abs(weights).max() or 1.0)  # so that 1e308 + 1e308 is finite
    total = weights @ rows
    length = float(np.linalg.norm(total))
    if not length > _CANCELLED * float(np.abs(weights).sum()):
        raise QueryError(f"{query}: its terms cancel to zero; there is nothing left to look for")
    return np.asarray(total / length, dtype=np.float32)


def phrase_vector(
    phrase: str, vectors: WordVectors, suggest: Callable[[str], tuple[str, ...]]
) -> np.ndarray:
    """The word vector, float64 [word dimension], of a word or a phrase of several.

    A phrase that is stored as one entry (`fire_truck`, `fire-truck`) has that vector, another one
    the mean of its words' unit vectors, as labels of several words have. Raises UnknownWordError
    for a word that has none.
    """
    words = phrase.split()
    for joint in "_- " if len(words) > 1 else "":
        vector = _stored(joint.join(words), vectors)
        if vector is not None:
            return vector
    found = []
    for word in words:
        vector = _word_vector(word, vectors)
        if vector is None:
            raise UnknownWordError(word, suggest(word))
        found.append(vector)
    mean: np.ndarray = np.mean(found, axis=0)
    return mean


def _word_vector(word: str, vectors: WordVectors) -> np.ndarray | None:
    """The unit vector of a stored word, else the mean of its parts', else that of its sub-words."""
    vector = _stored(word, vectors)
    if vector is not None:
        return vector
    parts = [_stored(part, vectors) for part in _PARTS.split(word) if part]
    known = [part for part in parts if part is not None]
    if len(known) == len(parts) > 1:
        mean: np.ndarray = np.mean(known, axis=0)
        return mean
    return _unit(vectors.vector(word))


def _stored(word: str, vectors: WordVectors) -> np.ndarray | None:
    """A stored word's unit vector, in the first case that is stored: as typed, lower, title."""
    for spelling in dict.fromkeys((word, word.lower(), word.title(), word.upper())):
        if vectors.subwords is not None and spelling not in vectors:
            continue  # `vector` would make one of its sub-words
        if (vector := _unit(vectors.vector(spelling))) is not None:
            return vector
    return None


def _unit(vector: np.ndarray | None) -> np.ndarray | None:
    """The vector at length 1, None if it is zero or not finite: some stores hold such rows."""
    if vector is None or not vector.any() or not np.isfinite(vector).all():
        return None
    wide = vector.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide))


@dataclass(frozen=True)
class _Token:
    kind: Literal["sign", "times", "word", "quoted", "end"]
    text: str
    column: int  # from 1


class _Parser:
    """A recursive-descent parser: one method for each rule of the grammar."""

    def __init__(self, text: str):
        self._text = text
        self._tokens = list(_tokens(text.translate(_KEYBOARD), self._error))
        self._place = 0

    def query(self) -> Query:
        terms: list[Term] = []
        sign = self._take().text if self._next.kind == "sign" else "+"
        while True:
            if len(terms) == MOST_TERMS:
                raise self._error(self._next.column, f"a query has {MOST_TERMS} terms at most")
            terms.append(self._term(-1.0 if sign == "-" else 1.0))
            if self._next.kind == "end":
                return Query(tuple(terms))
            if self._next.kind != "sign":
                raise self._error(self._next.column, self._unexpected())
            sign = self._take().text

    def _term(self, sign: float) -> Term:
        weight = 1.0
        if self._next.kind == "word" and self._tokens[self._place + 1].kind == "times":
            weight = self._weight()
        if self._next.kind == "quoted":
            return Term(sign * weight, _tidy(self._take().text))
        if self._next.kind != "word":
            raise self._error(self._next.column, self._unexpected())
        words = []
        while self._next.kind == "word":
            words.append(self._take().text)
        return Term(sign * weight, _tidy(" ".join(words)))

    def _weight(self) -> float:
        token = self._take()
        self._take()  # the *
        if not _NUMBER.fullmatch(token.text):
            raise self._error(
                token.column, f"{token.text} is not a number; before * stands one, as in 2 * dog"
            )
        weight = float(token.text)
        if not math.isfinite(weight):
            raise self._error(token.column, f"the weight {token.text} is not finite")
        return weight

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self) -> _Token:
        self._place += 1
        return self._tokens[self._place - 1]

    def _unexpected(self) -> str:
        """What is wrong with the next token where it stands."""
        kind, text = self._next.kind, self._next.text
        if kind == "end":
            return "the query ends where a word is expected"
        if kind == "sign":
            return f"a second sign ({text}) where a word is expected; quote words that hold signs"
        if kind == "times":
            return "a * needs a number before it and a phrase after it, as in 2 * dog"
        return f"a + or - is missing before {text}"

    def _error(self, column: int, problem: str) -> QueryError:
        return QueryError(f"{self._text!r}, column {column}: {problem}")


def _tokens(text: str, error: Callable[[int, str], QueryError]) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        character, begin = text[at], at
        at += 1
        if character.isspace():
            continue
        if character == '"':
            at = text.find('"', begin + 1) + 1
            if not at:
                raise error(begin + 1, "this quote is not closed")
            quoted = text[begin + 1 : at - 1]
            _check_characters(quoted, begin + 2, error)
            if not quoted.strip():
                raise error(begin + 1, "nothing stands between the quotes")
            yield _Token("quoted", quoted, begin + 1)
        elif character in "+-":
            yield _Token("sign", character, begin + 1)
        elif character == "*":
            yield _Token("times", character, begin + 1)
        else:
            while at < len(text) and _goes_on(text, at):
                at += 1
            _check_characters(text[begin:at], begin + 1, error)
            yield _Token("word", text[begin:at], begin + 1)
    yield _Token("end", "", len(text) + 1)


def _goes_on(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the word that the one before it is in."""
    if text[at] == "-":
        return _is_letter(text[at - 1]) and _is_letter(text[at + 1 : at + 2])
    return not text[at].isspace() and text[at] not in '"+*'


def _is_letter(character: str) -> bool:
    """A letter, a digit, or a mark that combines with one."""
    return bool(character) and unicodedata.category(character)[0] in "LNM"


def _check_characters(part: str, column: int, error: Callable[[int, str], QueryError]) -> None:
    """No word holds a control character, nor half of a surrogate pair (bytes not in UTF-8)."""
    for offset, character in enumerate(part):
        if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace():
            raise error(column + offset, f"the character U+{ord(character):04X} is in no word")


def _tidy(phrase: str) -> str:
    """Composed characters, as stores of words have them, and single spaces."""
    return " ".join(unicodedata.normalize("NFC", phrase).split())


def _reads_as_words(phrase: str) -> bool:
    """Whether the phrase means itself without quotes."""
    tokens = list(_tokens(phrase, lambda column, problem: QueryError(problem)))[:-1]
    return all(token.kind == "word" for token in tokens)

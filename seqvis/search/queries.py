"""Text queries: signed sums of words and phrases, such as `engine + boat` or `2 * dog - puppy`.

    query  = [sign] term { sign term }        sign   = "+" | "-" | "," | not, no, without …
    term   = [ number "*" ] phrase            phrase = word { word }  |  '"' anything '"'

Punctuation at the edges of words is dropped, and so are function words (`a photo of a dog` is
`dog`; query_words.py) unless nothing else would be left. A phrase after a minus or a negation has
weight one half unless a number is given: names of similar things lie close together, and
subtracting all of `cat` from `dog` leaves nothing of the dog. A number sets the weight exactly:
`dog - 1 * cat`.

A hyphen between two letters or digits belongs to the word (`motor-boat`, `1e-3`); any other is a
minus. Dashes, curly quotes and the signs × and − are read like their keyboard equivalents. Text in
quotes is kept as it stands: signs, function words and negations (`"no parking"`, `"c++"`).
`str(query)` shows how a query was understood, as text that parses to the same query.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from seqvis.errors import QueryError, UnknownWordError
from seqvis.search.query_words import (
    FunctionWords,
    Token,
    english,
    tidy,
    tokens_of,
    without_edges,
)
from seqvis.vectors.store import WordVectors

LONGEST_QUERY = 1000  # characters
MOST_TERMS = 50
SUBTRACTED = 0.5  # of a term after a minus without a number; measured in docs/results/pictures.md

_NUMBER = re.compile(r"(\d+\.?\d*|\.\d+)(e-?\d+)?|inf|infinity|nan", re.ASCII | re.IGNORECASE)
_PARTS = re.compile(r"[\W_]+")
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
    grammar: FunctionWords = field(default_factory=english, compare=False, repr=False)

    def __str__(self) -> str:
        """Return the query as text that `parse_query` reads back as an equal one."""
        parts: list[str] = []
        for term in self.terms:
            sign = "-" if math.copysign(1.0, term.weight) < 0 else "+"
            size = repr(abs(term.weight)).replace("+", "")  # 1e+16: no sign inside a number
            parts += [sign] if parts or sign == "-" else []
            parts += [] if term.weight == 1.0 else [size, "*"]
            parts.append(self._written(term.phrase))
        return " ".join(parts)

    def _written(self, phrase: str) -> str:
        """Return the phrase, in quotes unless it means itself beside another term without them."""
        try:
            read = parse_query(f'"x" + {phrase}', self.grammar).terms
        except QueryError:
            read = ()
        return phrase if read[1:] == (Term(1.0, phrase),) else f'"{phrase}"'


def parse_query(text: str, grammar: FunctionWords | None = None) -> Query:
    """Read a query with the function words of a language, English if none is given.

    Raises QueryError that names the column (from 1) of what cannot be read.
    """
    if not text.strip():
        raise QueryError("the query is empty; give a word, such as boat, or a sum: engine + boat")
    if len(text) > LONGEST_QUERY:
        raise QueryError(
            f"the query has {len(text):,} characters; {LONGEST_QUERY:,} at most can be read"
        )
    return _Parser(text, grammar or english()).query()


def encode_query(
    query: Query,
    vectors: WordVectors,
    project: Callable[[np.ndarray], np.ndarray],
    suggest: Callable[[str], tuple[str, ...]],
) -> np.ndarray:
    """Return the query as a unit vector, float32 [dimension], in the space of `project`.

    `project` turns raw word vectors [n, word dimension] into unit rows [n, dimension]; each phrase
    has length 1 before it is weighted, so that rare words, whose vectors are often long, do not
    drown the others. Raises UnknownWordError, with what `suggest` finds near in spelling, for the
    first word without a vector, and QueryError if the terms cancel each other.
    """
    raw = np.stack([phrase_vector(term.phrase, vectors, suggest) for term in query.terms])
    rows = np.asarray(project(raw.astype(np.float32)), dtype=np.float64)
    weights = np.array([term.weight for term in query.terms])
    weights = weights / (np.abs(weights).max() or 1.0)  # so that 1e308 + 1e308 is finite
    wanted, unwanted = np.maximum(weights, 0) @ rows, np.maximum(-weights, 0) @ rows
    total = wanted - unwanted
    length = float(np.linalg.norm(total))
    too_short = not length > _CANCELLED * float(np.abs(weights).sum())
    if too_short or _same_direction(wanted, unwanted):
        raise QueryError(f"{query}: its terms cancel to zero; there is nothing left to look for")
    return np.asarray(total / length, dtype=np.float32)


def _same_direction(first: np.ndarray, second: np.ndarray) -> bool:
    """Tell whether two vectors have the same direction, as those of dog and 2 * dog have."""
    lengths = float(np.linalg.norm(first)), float(np.linalg.norm(second))
    if not all(lengths):
        return False
    return bool(np.linalg.norm(first / lengths[0] - second / lengths[1]) < _CANCELLED)


def phrase_vector(
    phrase: str, vectors: WordVectors, suggest: Callable[[str], tuple[str, ...]]
) -> np.ndarray:
    """Return the word vector, float64 [word dimension], of a word or a phrase of several.

    A phrase that is stored as one entry (`fire_truck`, `fire-truck`) has that vector, another one
    the mean of its words' unit vectors, as labels of several words have. Raises UnknownWordError
    for a word that has none.
    """
    words = phrase.split()
    for joint in "_- " if len(words) > 1 else "":
        vector = _stored(joint.join(words), vectors)
        if vector is not None:
            return vector
    known = []
    for word in words:
        vector = _word_vector(word, vectors)
        if vector is None:
            raise UnknownWordError(word, suggest(word))
        known.append(vector)
    mean: np.ndarray = np.mean(known, axis=0)
    return mean


def _word_vector(word: str, vectors: WordVectors) -> np.ndarray | None:
    """Return a stored word's unit vector, else the mean of its parts', else its sub-words'."""
    vector = _stored(word, vectors)
    if vector is not None:
        return vector
    names = [part for part in _PARTS.split(word) if part]
    known = [part for name in names if (part := _stored(name, vectors)) is not None]
    if known and len(known) == len(names):
        mean: np.ndarray = np.mean(known, axis=0)
        return mean
    return _unit(vectors.vector(word))


def _stored(word: str, vectors: WordVectors) -> np.ndarray | None:
    """Return a word's unit vector in the first case that is stored: as typed, lower, title."""
    for spelling in dict.fromkeys((word, word.lower(), word.title(), word.upper())):
        if vectors.subwords is not None and spelling not in vectors:
            continue  # `vector` would make one of its sub-words
        if (vector := _unit(vectors.vector(spelling))) is not None:
            return vector
    return None


def _unit(vector: np.ndarray | None) -> np.ndarray | None:
    """Return the vector at length 1, or None if it is zero or not finite, as a few stored are."""
    if vector is None or not vector.any() or not np.isfinite(vector).all():
        return None
    wide = vector.astype(np.float64)
    return np.asarray(wide / np.linalg.norm(wide))


class _Parser:
    """A recursive-descent parser: one method for each rule of the grammar."""

    def __init__(self, text: str, grammar: FunctionWords):
        self._text = text
        self._grammar = grammar
        tokens = list(tokens_of(text, self._error))
        self._tokens = [self._tagged(tokens, place) for place in range(len(tokens))]
        self._place = 0

    def query(self) -> Query:
        terms: list[Term] = []
        meant: list[Term] = []  # without those of function words alone
        while True:
            sign = self._sign()
            if len(terms) == MOST_TERMS:
                raise self._error(self._next.column, f"a query has {MOST_TERMS} terms at most")
            term, means = self._term(sign)
            terms.append(term)
            meant += [term] if means else []
            broken = self._skip_breaks()
            if self._next.kind == "end":
                return Query(tuple(meant or terms), self._grammar)
            if not broken and self._next.kind not in ("sign", "not"):
                raise self._error(self._next.column, self._unexpected())

    def _sign(self) -> str:
        """Return the sign of the next term: "+", "-", or "not" for a negation in words."""
        self._skip_breaks()
        sign = self._take().text if self._next.kind == "sign" else "+"
        self._skip_breaks()
        if self._next.kind == "not" and sign == "-":
            raise self._error(self._next.column, self._unexpected())
        while self._next.kind == "not":
            self._take()
            sign = "not"
        return sign

    def _skip_breaks(self) -> bool:
        before = self._place
        while self._next.kind == "break":
            self._take()
        return self._place > before

    def _term(self, sign: str) -> tuple[Term, bool]:
        """Return a term, and whether it is more than function words."""
        weight = 1.0 if sign == "+" else SUBTRACTED
        if self._next.kind == "word" and self._tokens[self._place + 1].kind == "times":
            weight = self._weight()
        weight = weight if sign == "+" else -weight
        if self._next.kind == "quoted":
            return Term(weight, tidy(self._take().text)), True
        if self._next.kind != "word":
            raise self._error(self._next.column, self._unexpected())
        words: list[str] = []
        while self._next.kind == "word":
            ends = sign == "not" and _plain(self._next) in self._grammar.scope_ends
            if ends and self._grammar.meaning(words):
                self._tokens[self._place] = replace(self._next, kind="break")
                break
            words.append(without_edges(tidy(self._take().text)))
        meaning = self._grammar.meaning(words)
        return Term(weight, " ".join(meaning or words)), bool(meaning)

    def _weight(self) -> float:
        token = self._take()
        self._take()  # the *
        if not _NUMBER.fullmatch(token.text):
            raise self._error(
                token.column,
                f"{token.text} is not a number; * needs a number before it, as in 2 * dog",
            )
        weight = float(token.text)
        if not math.isfinite(weight):
            raise self._error(token.column, f"the weight {token.text} is not finite")
        return weight

    @property
    def _next(self) -> Token:
        return self._tokens[self._place]

    def _take(self) -> Token:
        self._place += 1
        return self._tokens[self._place - 1]

    def _unexpected(self) -> str:
        """Return why the next token is an error here."""
        kind, text = self._next.kind, self._next.text
        if kind == "end":
            return "the query ends where a word is expected"
        if kind in ("sign", "not"):
            return f"a second sign ({text}) where a word is expected; quote words that hold signs"
        if kind == "times":
            return "a * needs a number before it and a phrase after it, as in 2 * dog"
        return f"a + or - is missing before {text}"

    def _tagged(self, tokens: Sequence[Token], place: int) -> Token:
        """Return the token as what its word does here: a negation, a break, or a word."""
        token = tokens[place]
        if token.kind == "word" and tokens[place + 1].kind in ("word", "quoted"):
            if self._grammar.is_negation(_plain(token)):
                return replace(token, kind="not")
            if place and _plain(token) in self._grammar.contrasts:
                return replace(token, kind="break")
        return token

    def _error(self, column: int, problem: str) -> QueryError:
        return QueryError(f"{self._text!r}, column {column}: {problem}")


def _plain(token: Token) -> str:
    return without_edges(tidy(token.text)).lower()

"""Split a text query into words, signs and quotes, and tell which words only carry grammar.

A query for `a photo of a dog` is a query for dogs. `function_words.yaml` lists the function words
of each language, `tokens_of` gives a query's tokens with their columns.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, Literal

import yaml

from seqvis.errors import QueryError
from seqvis.vectors.store import WordVectors

# Each stands for one character, so that columns stay what the user sees.
_KEYBOARD = str.maketrans("‐‑‒–—−“”„«»×＋＊’", "------" + '"""""' + "*+*'")
_BREAKS = ",;、，；،"  # each begins a new term, unless digits stand on both sides


@dataclass(frozen=True)
class Token:
    """A piece of a query, as the user typed it."""

    kind: Literal["sign", "not", "break", "times", "word", "quoted", "end"]
    text: str
    column: int  # from 1


def tokens_of(text: str, error: Callable[[int, str], QueryError]) -> Iterator[Token]:
    """Yield the tokens of a query, the last of kind "end". `error` makes the error of a column."""
    text = text.translate(_KEYBOARD)
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
            yield Token("quoted", quoted, begin + 1)
        elif character in "+-":
            yield Token("sign", character, begin + 1)
        elif character == "*":
            yield Token("times", character, begin + 1)
        elif _is_break(text, begin):
            yield Token("break", character, begin + 1)
        else:
            while at < len(text) and _goes_on(text, at):
                at += 1
            _check_characters(text[begin:at], begin + 1, error)
            if without_edges(text[begin:at]):
                yield Token("word", text[begin:at], begin + 1)
    yield Token("end", "", len(text) + 1)


def _goes_on(text: str, at: int) -> bool:
    """Tell whether the character at `at` continues the word of the one before it."""
    if text[at] == "-":
        return _is_letter(text[at - 1]) and _is_letter(text[at + 1 : at + 2])
    return not text[at].isspace() and text[at] not in '"+*' and not _is_break(text, at)


def _is_break(text: str, at: int) -> bool:
    """Tell whether the character at `at` separates two terms; the comma of 1,000 does not."""
    around = text[at - 1 : at] + text[at + 1 : at + 2]
    return text[at] in _BREAKS and not (len(around) == 2 and around.isdigit())


def without_edges(word: str) -> str:
    """Return the word without punctuation at its edges; signs alone are a word only if an emoji."""
    kept = [at for at, character in enumerate(word) if unicodedata.category(character)[0] in "LN"]
    if kept:
        end = kept[-1] + 1
        while end < len(word) and unicodedata.category(word[end])[0] == "M":
            end += 1
        return word[kept[0] : end]
    return word if any(unicodedata.category(sign) == "So" for sign in word) else ""


def _is_letter(character: str) -> bool:
    """Return a letter, a digit, or a mark that combines with one."""
    return bool(character) and unicodedata.category(character)[0] in "LNM"


def _check_characters(part: str, column: int, error: Callable[[int, str], QueryError]) -> None:
    """Refuse control characters and halves of surrogate pairs (bytes not in UTF-8)."""
    for offset, character in enumerate(part):
        if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace():
            raise error(column + offset, f"the character U+{ord(character):04X} is in no word")


def tidy(phrase: str) -> str:
    """Compose characters, as stores of words have them, and leave single spaces."""
    return " ".join(unicodedata.normalize("NFC", phrase).split())


_COMMON = 300  # first words of a store, in which a language's function words stand


@dataclass(frozen=True)
class FunctionWords:
    """The function words of one language, in lower case; `d'` and `'s` are written together."""

    words: frozenset[str]
    negations: frozenset[str]
    """Words that subtract what follows them."""
    scope_ends: frozenset[str]
    """Words at which a negation ends: `no people in the street` is a street."""
    contrasts: frozenset[str]
    """Words that begin a new term, as a comma does."""
    carriers: tuple[tuple[frozenset[str], frozenset[str]], ...]
    """Words that say nothing before certain others: `photo` before `of`, `show` before `me`."""

    def is_negation(self, word: str) -> bool:
        return word in self.negations or word.endswith("n't")

    def meaning(self, words: Iterable[str]) -> list[str]:
        """Return what is left of the words without those that only carry grammar."""
        shown = list(words)
        lower = [word.lower() for word in shown]
        kept = []
        for place, word in enumerate(shown):
            following = self._begin(lower[place + 1]) if place + 1 < len(shown) else ""
            carries = any(
                lower[place] in before and following in joint for before, joint in self.carriers
            )
            stem = self._without_elision(word)
            if stem and not carries and not self._says_nothing(stem.lower()):
                kept.append(stem)
        return kept

    def _says_nothing(self, word: str) -> bool:
        return word in self.words or word in self.contrasts or self.is_negation(word)

    def _begin(self, word: str) -> str:
        head, apostrophe, _ = word.partition("'")
        return head + apostrophe if head + apostrophe in self.words else word

    def _without_elision(self, word: str) -> str:
        head, apostrophe, rest = word.partition("'")
        if apostrophe and (head + "'").lower() in self.words:
            word = rest
        stem, apostrophe, ending = word.rpartition("'")
        return stem if apostrophe and ("'" + ending).lower() in self.words else word


def function_words_of(vectors: WordVectors) -> FunctionWords:
    """Return the list of a store's language, by its most frequent words; English if none fits."""
    common = set(islice(vectors.words(), _COMMON))
    return max(_languages().values(), key=lambda language: len(language.words & common))


def english() -> FunctionWords:
    return _languages()["english"]


@cache
def _languages() -> dict[str, FunctionWords]:
    text = (resources.files("seqvis.search") / "function_words.yaml").read_text(encoding="utf-8")
    return {name: _read(lists) for name, lists in yaml.safe_load(text).items()}


def _read(lists: Mapping[str, Any]) -> FunctionWords:
    return FunctionWords(
        words=_set(lists["words"]),
        negations=_set(lists["negations"]),
        scope_ends=_set(lists["scope_ends"]),
        contrasts=_set(lists["contrasts"]),
        carriers=tuple((_set(part["before"]), _set(part["joint"])) for part in lists["carriers"]),
    )


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())

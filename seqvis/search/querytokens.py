"""Split a text query into words, signs and quotes, with their columns."""

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from seqvis.errors import QueryError

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
    """The tokens of a query, the last of kind "end". `error` makes the error of a column."""
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
    """Whether the character at `at` belongs to the word that the one before it is in."""
    if text[at] == "-":
        return _is_letter(text[at - 1]) and _is_letter(text[at + 1 : at + 2])
    return not text[at].isspace() and text[at] not in '"+*' and not _is_break(text, at)


def _is_break(text: str, at: int) -> bool:
    """Whether the character at `at` separates two terms; the comma of 1,000 does not."""
    around = text[at - 1 : at] + text[at + 1 : at + 2]
    return text[at] in _BREAKS and not (len(around) == 2 and around.isdigit())


def without_edges(word: str) -> str:
    """The word without punctuation at its edges; an emoji by itself is a word, other signs none."""
    kept = [place for place, one in enumerate(word) if unicodedata.category(one)[0] in "LN"]
    if kept:
        end = kept[-1] + 1
        while end < len(word) and unicodedata.category(word[end])[0] == "M":
            end += 1
        return word[kept[0] : end]
    return word if any(unicodedata.category(one) == "So" for one in word) else ""


def _is_letter(character: str) -> bool:
    """A letter, a digit, or a mark that combines with one."""
    return bool(character) and unicodedata.category(character)[0] in "LNM"


def _check_characters(part: str, column: int, error: Callable[[int, str], QueryError]) -> None:
    """No word holds a control character, nor half of a surrogate pair (bytes not in UTF-8)."""
    for offset, character in enumerate(part):
        if unicodedata.category(character) in ("Cc", "Cs") and not character.isspace():
            raise error(column + offset, f"the character U+{ord(character):04X} is in no word")


def tidy(phrase: str) -> str:
    """Composed characters, as stores of words have them, and single spaces."""
    return " ".join(unicodedata.normalize("NFC", phrase).split())

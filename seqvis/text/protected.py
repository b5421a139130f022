"""Keep text whole that the splitting rules of a language would tear apart.

Placeholders (`%d`, `%(name)s`, `{0}`, `${price}`), markup (`<b>`, `&amp;`) and addresses
(`https://…`, `me@example.org`) stay one token each, together with letters that touch a placeholder
(`%ds`, `v{version}`). The text inside a token is restored exactly.
"""

import re
from collections.abc import Callable

Splitter = Callable[[str], list[str]]

# Scripts without spaces between words: Han, kana and their punctuation; Thai, Lao, Tibetan,
# Burmese and Khmer. Full-width letters and digits are not among them.
HAN = (
    "\u2e80-\u312f\u3190-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40"
    "\uff5b-\uff9f\U00020000-\U0003ffff"
)
SOUTHERN = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"

_LETTER = rf"(?:(?![{HAN}{SOUTHERN}])\w)"
_PRINTF = r"(?<![0-9%])%(?:\(\w+\)|\d+\$)?[-+#0]*(?:\d+|\*)?(?:\.(?:\d+|\*))?[@A-Za-z](?:%%)*"
_BRACES = r"[$#%@]?\{+[\w.:!?,|$#@\[\]-]{0,60}\}+"
_PLACEHOLDER = f"(?:{_PRINTF}|{_BRACES})"
_PLACEHOLDERS = rf"{_LETTER}*{_PLACEHOLDER}(?:(?:[-:/.,]|{_LETTER}+)?{_PLACEHOLDER})*{_LETTER}*"
_ADDRESS_CHARACTER = rf"(?:(?![{HAN}])[^\s<>\"“”«»()…])"
_URL = (
    rf"(?:(?:https?|ftp|file)://|www\.)(?:{_ADDRESS_CHARACTER}|\({_ADDRESS_CHARACTER}*\))*"
    r"(?<![.,;:!?'’*])"
)
_EMAIL = r"[0-9A-Za-z._+-]+@[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)+"
_TAG = r"</?[A-Za-z][\w:-]*/?>|^<[A-Za-z][\w:-]*$|^[\w:-]+=\"[^\"<>]*\"/?>|/>"
_ENTITY = r"&(?:[A-Za-z]\w{1,30}|#\d{1,7}|#[xX][0-9A-Fa-f]{1,6});"
# An entity with letters on both sides is part of their word, as in AT&amp;T.
_ENTITIES = rf"{_LETTER}+(?:{_ENTITY}{_LETTER}+)+|{_ENTITY}"

_PROTECTED = re.compile("|".join((_URL, _EMAIL, _TAG, _ENTITIES, _PLACEHOLDERS)))
_FOREIGN_WORD = re.compile(rf"(?:^[+-](?=\d))?{_LETTER}+(?:[.,:/+#&'’-]+{_LETTER}+)*[+#]*")
_HAN_RUN = re.compile(f"[{HAN}]+")
_HINT = re.compile(r"[%{<&@]|://|/>|www\.")  # quick to look for, and rare


def is_protected(token: str) -> bool:
    """Whether `token` is a placeholder, a piece of markup or an address as a whole."""
    return _HINT.search(token) is not None and _PROTECTED.fullmatch(token) is not None


def protecting(split: Splitter) -> Splitter:
    """Return a splitter that keeps protected parts whole and gives the rest to `split`."""

    def split_around(word: str) -> list[str]:
        if not _HINT.search(word):
            return split(word)
        return _split_around(_PROTECTED, word, lambda part: [part], split)

    return split_around


def by_character(split: Splitter) -> Splitter:
    """Return a splitter that makes each Han character a token and gives the rest to `split`.

    Words of other scripts and numbers stay whole (`Wi-Fi`, `5G`, `12.50`): their spaces could not
    be known.
    """

    def split_between(part: str) -> list[str]:
        return _split_around(_FOREIGN_WORD, part, lambda word: [word], split)

    return lambda word: _split_around(_HAN_RUN, word, list, split_between)


def _split_around(
    pattern: re.Pattern[str], word: str, whole: Splitter, between: Splitter
) -> list[str]:
    tokens: list[str] = []
    end = 0
    for match in pattern.finditer(word):
        if match.start() > end:
            tokens += between(word[end : match.start()])
        tokens += whole(match[0])
        end = match.end()
    return tokens + between(word[end:]) if end < len(word) else tokens

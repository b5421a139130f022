"""Rules for characters: the invisible, those that look alike, and those that belong in one token.

`clean_text` is applied to every text before it is split into words, in training and in use.
`normalize_punctuation` maps typographic marks to plain ones; a corpus may ask for it, and a word
that is missing from a vocabulary is tried in its plain form.

Placeholders (`%d`, `%(name)s`, `{0}`, `${price}`), markup (`<b>`, `&amp;`) and addresses
(`https://…`, `me@example.org`) stay one token each, together with letters that touch a placeholder
(`%ds`, `v{version}`). The text inside a token is restored exactly. In scripts without spaces each
character is a token.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

_PLAIN = {
    "'": "‘’‚‛´`ʼ′＇ʻʹ",
    '"': "“”„‟″«»＂",
    "-": "‐‑‒–—―−－",
    "...": "…",
    " ": "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\t\x0b\x0c\x85",
}
_TABLE = {ord(mark): plain for plain, marks in _PLAIN.items() for mark in marks}
# Searching first is much faster than translating every text.
_ANY = re.compile(f"[{re.escape(''.join(map(chr, _TABLE)))}]")

# Soft hyphen, zero-width space, word joiner, byte order mark, marks of writing direction, and
# control characters other than white space.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f"
    "\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)
# The zero-width joiners spell words in Persian and Indic scripts and join emoji; beside Latin,
# Greek and Cyrillic letters, digits and spaces they are left-overs of typesetting.
_STRAY_JOINER = re.compile(
    "(?<![^\x00-\u052f\u1e00-\u206f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\x00-\u052f\u1e00-\u206f])"
)
_TYPOGRAPHIC = (  # what a plain mark may be in a text that is set with care
    str.maketrans({"'": "’"}),
    str.maketrans({"'": "‘"}),
    str.maketrans({"-": "–"}),
    str.maketrans({"-": "—"}),
    str.maketrans({"-": "‑"}),
)
_QUOTES = (("“", "”"), ("„", "“"), ("«", "»"), ("»", "«"), ("”", "”"), ("‘", "’"), ("‚", "‘"))


def clean_text(text: str) -> str:
    """Return the text composed (Unicode NFC) and without invisible characters."""
    if not text.isprintable():  # as no text is that has any of these
        text = _INVISIBLE.sub("", text)
        if "\u200c" in text or "\u200d" in text:
            text = _STRAY_JOINER.sub("", text)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def normalize_punctuation(text: str) -> str:
    """Return the text with plain quotes, hyphens, dots and spaces."""
    return text.translate(_TABLE) if _ANY.search(text) else text


def spellings(word: str) -> Iterator[str]:
    """Yield other ways to write a word: plain or typographic marks, compatible characters.

    The nearest come first. `word` has no white space.
    """
    plain = normalize_punctuation(word)
    forms = [plain, *(plain.translate(table) for table in _TYPOGRAPHIC), *_quoted(plain)]
    forms.append(plain.replace("...", "…"))
    compatible = normalize_punctuation(unicodedata.normalize("NFKC", word))
    forms += [compatible, unicodedata.normalize("NFD", word)]
    seen = {word}
    for form in forms:
        if form not in seen and form.strip():
            seen.add(form)
            yield form


def _quoted(plain: str) -> Iterator[str]:
    """Yield `plain` with typographic quotes around it in place of straight ones."""
    if '"' not in plain:
        return
    for opening, closing in _QUOTES:
        curly = re.sub(r'(?<!\w)"(?=\w)', opening, plain)
        yield curly.replace('"', closing)
        if plain.strip('"') == "":  # a quote that stands alone
            yield plain.replace('"', opening)


def split_pictographs(text: str) -> list[str]:
    """Return the text cut before and after each run of emoji and other pictographs."""
    pieces: list[str] = []
    inside = False
    for character in text:
        joins = character in "\u200d\ufe0e\ufe0f\u20e3" or "\U000e0020" <= character <= "\U000e007f"
        pictograph = is_pictograph(character) or (inside and joins)
        if not pieces or pictograph != inside:
            pieces.append("")
        pieces[-1] += character
        inside = pictograph
    return pieces


def is_pictograph(text: str) -> bool:
    """Tell whether the text starts with an emoji or another pictograph."""
    first = text[:1]
    return first >= "\u2190" and (
        unicodedata.category(first) == "So" or "\U0001f3fb" <= first <= "\U0001f3ff"
    )


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
    """Tell whether `token` is a placeholder, a piece of markup or an address as a whole."""
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

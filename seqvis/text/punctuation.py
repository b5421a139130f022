"""Characters that look alike or are invisible: cleaning that is always done, and plain forms.

`clean_text` is applied to every text before it is split into words, in training and in use.
`normalize_punctuation` maps typographic marks to plain ones; a corpus may ask for it, and a word
that is missing from a vocabulary is tried in its plain form.
"""

import re
import unicodedata
from collections.abc import Iterator

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
    if text.isascii() and text.isprintable():
        return text
    text = _STRAY_JOINER.sub("", _INVISIBLE.sub("", text))
    return unicodedata.normalize("NFC", text)


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

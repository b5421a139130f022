"""Typographic punctuation mapped to the plain one: curly quotes, dashes, ellipsis, odd spaces.

In: a line of text. Out: the same line in which variants of one mark are one character, so that
`l’homme` and `l'homme` are the same words. Letters and accents are left alone.
"""

import re

_REPLACEMENTS = {
    "'": "‘’‚‛´`ʼ′＇",
    '"': "“”„‟″«»＂",
    "-": "‐‑‒–—―−",
    "...": "…",
    " ": "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\t\x0b\x0c\x85",
    "": "\u00ad\u200b\u200c\u200d\u2060\ufeff",
}
_TABLE = {ord(mark): plain for plain, marks in _REPLACEMENTS.items() for mark in marks}
# Looked for first: translating is slow.
_ANY = re.compile(f"[{re.escape(''.join(map(chr, _TABLE)))}]")


def normalize_punctuation(text: str) -> str:
    """The text with plain quotes, hyphens, dots and spaces; invisible characters are removed."""
    return text.translate(_TABLE) if _ANY.search(text) else text

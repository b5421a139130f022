"""Tokens back into readable text: where a space belongs, and where none does.

In: tokens of a spaCy blank pipeline and the language code. Out: text. Rules, not a model: each
token may refuse the space before it (`.`, `n't`, `-nous`) or after it (`(`, `l'`, an opening
quote). What is lost for good: whether the writer put a space around a dash or a slash.
"""

import re
from collections.abc import Iterable, Sequence

CAPITALIZED, UPPER = CASE_TOKENS = ("_cap_", "_up_")

_CLOSING = re.compile(r"[.,;:?!%…)\]}»”]+|\.{2,}|°|™|®|[.,:]\d+")
_FRENCH_SPACED = re.compile(r"[;:?!%»]+")  # French puts a space before these
_OPENING = frozenset("([{«“¿¡#$£@")
_BETWEEN = frozenset(["-", "/", "‐", "‑", "_", "~", "\\"])  # no space on either side

# English (Penn Treebank style): the second half of a contraction, and the words spaCy splits
_ENGLISH_SUFFIX = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m|em))", re.IGNORECASE)
_ENGLISH_SPLIT = re.compile(
    r"can not|gon na|got ta|(?:do|does|did|ca|wo|is|are|was|could) nt|i d|(?:let|that|what) s",
    re.IGNORECASE,
)
# French: an elided word ends in an apostrophe; inverted pronouns start with a hyphen
_FRENCH_ELISION = re.compile(r"\w+['’]")
_FRENCH_SUFFIX = re.compile(r"-\w+(?:-\w+)*|['’]\w+")


def join_tokens(tokens: Sequence[str], language: str) -> str:
    """One line of text from the tokens of a sentence in `language` (a code such as `fr`)."""
    pieces: list[str] = []
    glued = True  # nothing may stand between the last piece and the next
    quote_open = {'"': False, "'": False}
    previous = ""
    for position, token in enumerate(tokens):
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        before, after = _refuses(token, previous, following, language)
        if token == '"' or (token == "'" and language != "fr"):
            opens = not quote_open[token] and (
                token == '"' or not previous.endswith("s") or "'" in tokens[position + 1 :]
            )  # a lone apostrophe after an s is a plural's possessive
            quote_open[token] = opens
            before, after = (False, True) if opens else (True, False)
        if not (glued or before):
            pieces.append(" ")
        pieces.append(token)
        glued = after
        previous = token
    return "".join(pieces)


def _refuses(token: str, previous: str, following: str, language: str) -> tuple[bool, bool]:
    """Whether `token` takes no space before it, and none after it."""
    if token in _OPENING:
        return False, not (token == "«" and language == "fr")
    if token in _BETWEEN and previous and following:
        return True, True
    if language == "en":
        if _ENGLISH_SUFFIX.fullmatch(token) or _ENGLISH_SPLIT.fullmatch(f"{previous} {token}"):
            return True, False
    elif language == "fr":
        if _FRENCH_ELISION.fullmatch(token):
            return False, True
        if _FRENCH_SUFFIX.fullmatch(token):
            return True, False
        if _FRENCH_SPACED.fullmatch(token):
            return False, False
    return bool(_CLOSING.fullmatch(token)), False


def restore_case(tokens: Iterable[str]) -> list[str]:
    """Undoes the case tokens: each acts on the word that follows it and disappears."""
    restored: list[str] = []
    mark = ""
    for token in tokens:
        if token in CASE_TOKENS:
            mark = token
            continue
        restored.append(_with_case(token, mark))
        mark = ""
    return restored


def upper_first(text: str) -> str:
    """The text with its first letter in upper case; leading quotes and brackets stay."""
    for position, character in enumerate(text):
        if character.isalpha():
            return text[:position] + character.upper() + text[position + 1 :]
        if character.isdigit():
            return text
    return text


def _with_case(token: str, mark: str) -> str:
    if mark == UPPER:
        return token.upper()
    return upper_first(token) if mark == CAPITALIZED else token

"""Where a space belongs between tokens, by rules of scripts and languages.

Each token may refuse the space before it (`.`, `n't`, `-nous`) or after it (`(`, `l'`, an opening
quote). Rules cannot know whether a writer put spaces around a dash or before `%`: what a corpus
does otherwise is learned from it (`seqvis.text.learnedspacing`).
"""

import html
import re
from collections.abc import Sequence

from seqvis.text.protected import HAN, SOUTHERN

# Languages whose rules are tested on round trips.
# fmt: off
RULED = frozenset([
    "am", "ar", "bg", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "ga", "he", "hi",
    "hu", "hy", "it", "ja", "nb", "nl", "no", "pl", "pt", "ro", "ru", "sk", "sv", "tr", "uk", "ur",
    "zh",
])
# fmt: on

_CLOSERS = (
    ".,;:?!%‰…)]}"
    "،؛؟٪۔"  # Arabic, Persian, Urdu
    "।॥"  # Devanagari
    "։՝።፣፤፥፦፧។៕၊။།"  # Armenian, Ethiopic, Khmer, Burmese, Tibetan
    "、。，．：；？！％）］｝」』】》〉〕〗｠｣⟩"
)
_CLOSING = re.compile(rf"[{re.escape(_CLOSERS)}]+|\.{{2,}}|°|™|®|[.,:]\d+")
_FRENCH_SPACED = re.compile(r"[;:?!%»›]+")  # French puts a space before these
_OPENING = frozenset("([{¿¡#$£¥￥@（［｛「『【《〈〔〖｟｢⟨")
_BETWEEN = frozenset(["-", "/", "‐", "‑", "_", "~", "\\", "־"])  # no space on either side

# What each quotation mark can close, and which can open; then what languages do otherwise.
_CLOSES = {"”": "“„", "“": "„", "’": "‘‚", "‘": "‚", "»": "«", "«": "»", "›": "‹", "‹": "›"}
_OPENS = "„‚“‘«‹"
_SAME_ON_BOTH_SIDES = frozenset(["fi", "sv"])  # ”så” and »så»
_POINTING_INWARDS = frozenset(
    ["bg", "bs", "cs", "da", "de", "dsb", "hr", "hsb", "hu", "pl", "sk", "sl", "sr"]
)  # »so«
_MIRRORED = frozenset(["ur"])  # ”…“

# English (Penn Treebank style): the second half of a contraction, and the words spaCy splits
_ENGLISH_SUFFIX = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m|em))", re.IGNORECASE)
_ENGLISH_SPLIT = re.compile(
    r"can not|gon na|got ta|(?:do|does|did|ca|wo|is|are|was|could) nt|i d|(?:let|that|what) s",
    re.IGNORECASE,
)
# An elided word ends in an apostrophe; a pronoun or particle after its verb starts with a mark.
_ELIDING = frozenset(
    ["br", "ca", "co", "fr", "fur", "ga", "ht", "it", "lij", "oc", "pms", "sc", "scn", "vec", "wa"]
)
_ELISION = re.compile(r"-?\w+['’]")
_ITALIAN_CUT = re.compile(r"(?:a|be|co|da|de|di|e|fa|mo|ne|po|que|sta|to|va|vo)['’]", re.IGNORECASE)
_HYPHEN_SUFFIXED = frozenset(["ca", "fr", "ga", "oc", "pt", "ro"])
_HYPHEN_SUFFIX = re.compile(r"-\w+(?:-\w+)*['’]?")
_APOSTROPHE_SUFFIXED = frozenset(["ca", "de", "fr", "lb", "oc", "tl", "fil"])
_APOSTROPHE_SUFFIX = re.compile(r"['’]\w+")
_ROMANIAN_PREFIX = re.compile(r"\w+-")

_SPACELESS = {
    **dict.fromkeys(("ja", "lzh", "wuu", "yue", "zh"), re.compile(f"[{HAN}]")),
    **dict.fromkeys(("bo", "dz", "km", "lo", "my", "th"), re.compile(f"[{SOUTHERN}]")),
}
_CHINESE_OR_JAPANESE = frozenset(["ja", "lzh", "wuu", "yue", "zh"])

_ENTITY = re.compile(r"&#?\w+;")
_OPENING_TAG = re.compile(r"(?:<(?!(?:br|hr|img|wbr)>)[A-Za-z][\w:-]*|[\w:-]+=\"[^\"]*\")>")


def separators(tokens: Sequence[str], language: str | None) -> list[str]:
    """Return what stands before each token: a space or nothing, and nothing before the first.

    `language` is a canonical code; with None, as for text split at white space, all are spaces.
    """
    if language is None:
        return [" " if position else "" for position in range(len(tokens))]
    tokens = [html.unescape(token) if _ENTITY.fullmatch(token) else token for token in tokens]
    quotes = _Quotes(language)
    found: list[str] = []
    glued = True  # nothing may stand between the previous token and this
    for position, token in enumerate(tokens):
        previous = tokens[position - 1] if position else ""
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        refused = quotes.refuses(token, previous, tokens[position + 1 :])
        before, after = refused or _refuses(token, previous, following, language)
        if _written_together(previous, token, language):
            before = True
        found.append("" if glued or before else " ")
        glued = after
    return found


def _refuses(token: str, previous: str, following: str, language: str) -> tuple[bool, bool]:
    """Whether `token` takes no space before it, and none after it."""
    if token in _OPENING or _OPENING_TAG.fullmatch(token):
        return False, True
    if token == "\u00a0" or (token in _BETWEEN and previous and following):
        return True, True
    if token in "–—" and previous[-1:].isdigit() and following[:1].isdigit():
        return True, True  # a range
    if token == "°" and following in ("C", "F", "K", "c", "f", "k"):
        return True, True
    if token == "%" and language == "tr" and following[:1].isdigit():
        return False, True
    if language == "fr" and _FRENCH_SPACED.fullmatch(token):
        return previous in ("?", "!") and token in "?!", False
    if language == "el" and token == "·":
        return True, False
    if token.startswith("</"):
        return True, False
    return bool(_CLOSING.fullmatch(token)) or _is_suffix(token, previous, language), _is_prefix(
        token, language
    )


def _is_suffix(token: str, previous: str, language: str) -> bool:
    if language == "en":
        return bool(
            _ENGLISH_SUFFIX.fullmatch(token) or _ENGLISH_SPLIT.fullmatch(f"{previous} {token}")
        )
    if language in _HYPHEN_SUFFIXED and _HYPHEN_SUFFIX.fullmatch(token):
        return True
    return language in _APOSTROPHE_SUFFIXED and bool(_APOSTROPHE_SUFFIX.fullmatch(token))


def _is_prefix(token: str, language: str) -> bool:
    if language in _ELIDING and _ELISION.fullmatch(token):
        return not (language == "it" and _ITALIAN_CUT.fullmatch(token))
    return language == "ro" and bool(_ROMANIAN_PREFIX.fullmatch(token))


def _written_together(previous: str, token: str, language: str) -> bool:
    """Whether the script of either token has no spaces."""
    script = _SPACELESS.get(language)
    if script is None or not previous:
        return False
    ends, starts = script.match(previous[-1]), script.match(token[0])
    if language not in _CHINESE_OR_JAPANESE:
        return bool(ends and starts)
    return bool(ends or starts) or (previous == token and not token.isalnum())  # ……, ——


class _Quotes:
    """The quotation marks of one sentence that are open."""

    def __init__(self, language: str):
        self._language = language
        self._open: list[str] = []
        self._closes, self._opens = _CLOSES, _OPENS
        if language in _SAME_ON_BOTH_SIDES:
            self._closes = _CLOSES | {"”": "”“„", "’": "’‘‚", "»": "»«"}
            self._opens = _OPENS + "”’»"
        elif language in _POINTING_INWARDS:
            self._opens = _OPENS + "»›"
        elif language in _MIRRORED:
            self._closes = _CLOSES | {"“": "”", "‘": "’"}
            self._opens = _OPENS + "”’"

    def refuses(self, token: str, previous: str, rest: Sequence[str]) -> tuple[bool, bool] | None:
        """Whether a quotation mark takes no space before it, and none after it; None for others."""
        if token in ('"', "'"):
            return self._plain(token, previous, rest)
        if token not in self._closes and token not in self._opens:
            return None
        spaced = self._language == "fr" and token in "«»‹›"
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place] in self._closes.get(token, ""):
                del self._open[place:]
                return not spaced, False
        ends = not rest or (rest[0] != "…" and bool(_CLOSING.fullmatch(rest[0])))
        if token in self._opens and not (ends and previous):
            self._open.append(token)
            return False, not spaced
        return not spaced, False

    def _plain(self, token: str, previous: str, rest: Sequence[str]) -> tuple[bool, bool]:
        if token in self._open:
            self._open.remove(token)
            return True, False
        # A lone apostrophe after a word is a part of it: the girls', perche', 4'.
        if token == "'" and previous[-1:].isalnum() and "'" not in rest:
            next_token = rest[0] if rest else ""
            starts = next_token[:1].isdigit() or (  # the '90s, 's-Hertogenbosch
                self._language == "nl" and next_token.startswith(("s-", "t-"))
            )
            return not starts, starts
        self._open.append(token)
        return False, True

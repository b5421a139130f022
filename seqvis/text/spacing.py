"""Decide where spaces belong between tokens, by rules of scripts and languages and by a corpus.

A token may refuse the space before it (`.`, `n't`, `-nous`) or after it (`(`, `l'`, an opening
quote). Such rules do not know that a corpus puts a no-break space before `?`, writes ` - ` for a
dash, or keeps `10km` together, so corrections are learnt from it. Each stage of corrections looks
at more of a pair of neighbours than the stage before, and overrides that stage where most of the
text disagrees with it, as in transformation-based learning (Brill 1995).
"""

import html
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqvis.text.characters import HAN, SOUTHERN

CAPITALIZED, UPPER = CASE_TOKENS = ("_cap_", "_up_")

_TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_LANGUAGES = {habit: frozenset(codes) for habit, codes in _TABLES.items()}
RULED = _LANGUAGES["ruled"]  # languages whose rules are tested on round trips

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

# What each quotation mark can close, and which can open, in most languages.
_CLOSES = {"”": "“„", "“": "„", "’": "‘‚", "‘": "‚", "»": "«", "«": "»", "›": "‹", "‹": "›"}
_OPENS = "„‚“‘«‹"

# English (Penn Treebank style): the second half of a contraction, and the words spaCy splits
_ENGLISH_SUFFIX = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m|em))", re.IGNORECASE)
_ENGLISH_SPLIT = re.compile(
    r"can not|gon na|got ta|(?:do|does|did|ca|wo|is|are|was|could) nt|i d|(?:let|that|what) s",
    re.IGNORECASE,
)
_ELISION = re.compile(r"-?\w+['’]")
_ITALIAN_CUT = re.compile(r"(?:a|be|co|da|de|di|e|fa|mo|ne|po|que|sta|to|va|vo)['’]", re.IGNORECASE)
_SUFFIXES = {
    "hyphen_suffixed": re.compile(r"-\w+(?:-\w+)*['’]?"),
    "apostrophe_suffixed": re.compile(r"['’]\w+"),
}
_ROMANIAN_PREFIX = re.compile(r"\w+-")

_SOUTHERN = re.compile(f"[{SOUTHERN}]")
_HAN = re.compile(f"[{HAN}]")

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
    gaps: list[str] = []
    glued = True  # nothing may stand between the previous token and this
    for position, token in enumerate(tokens):
        previous = tokens[position - 1] if position else ""
        following = tokens[position + 1] if position + 1 < len(tokens) else ""
        refused = quotes.refuses(token, previous, tokens[position + 1 :])
        before, after = refused or _refuses(token, previous, following, language)
        if _written_together(previous, token, language):
            before = True
        gaps.append("" if glued or before else " ")
        glued = after
    return gaps


def _refuses(token: str, previous: str, following: str, language: str) -> tuple[bool, bool]:
    """Tell whether `token` takes no space before it, and none after it."""
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
    closes = _CLOSING.fullmatch(token) is not None or _is_suffix(token, previous, language)
    if language in _LANGUAGES["eliding"] and _ELISION.fullmatch(token):
        return closes, not (language == "it" and _ITALIAN_CUT.fullmatch(token))
    return closes, language == "ro" and _ROMANIAN_PREFIX.fullmatch(token) is not None


def _is_suffix(token: str, previous: str, language: str) -> bool:
    if language == "en":
        return bool(
            _ENGLISH_SUFFIX.fullmatch(token) or _ENGLISH_SPLIT.fullmatch(f"{previous} {token}")
        )
    return any(
        language in _LANGUAGES[habit] and suffix.fullmatch(token)
        for habit, suffix in _SUFFIXES.items()
    )


def _written_together(previous: str, token: str, language: str) -> bool:
    """Tell whether the script of either token has no spaces."""
    if not previous:
        return False
    if language in _LANGUAGES["southern"]:
        return bool(_SOUTHERN.match(previous[-1]) and _SOUTHERN.match(token[0]))
    if language not in _LANGUAGES["han"]:
        return False
    touches_han = _HAN.match(previous[-1]) or _HAN.match(token[0])
    return bool(touches_han) or (previous == token and not token.isalnum())  # ……, ——


class _Quotes:
    """The open quotation marks of one sentence."""

    def __init__(self, language: str):
        self._language = language
        self._open: list[str] = []
        self._closes, self._opens = _CLOSES, _OPENS
        if language in _LANGUAGES["same_on_both_sides"]:
            self._closes = _CLOSES | {"”": "”“„", "’": "’‘‚", "»": "»«"}
            self._opens = _OPENS + "”’»"
        elif language in _LANGUAGES["pointing_inwards"]:
            self._opens = _OPENS + "»›"
        elif language in _LANGUAGES["mirrored"]:
            self._closes = _CLOSES | {"“": "”", "‘": "’"}
            self._opens = _OPENS + "”’"

    def refuses(self, token: str, previous: str, rest: Sequence[str]) -> tuple[bool, bool] | None:
        """Tell whether a quotation mark takes no space before and after it; None for others."""
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


FEWEST = 5  # times that the text must do otherwise more often than as the rule has it
MOST = 5_000  # corrections of a stage
KEPT = ("", " ", "\u00a0", "\u202f", "\u2009", "\u3000")  # other white space counts as a space

Key = tuple[str, str, str]  # left and right of the gap, and what the stage before puts there

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class LearnedSpacing:
    """Corrections by stage: for kinds of neighbours, right and left neighbours, and pairs."""

    stages: Sequence[Mapping[Key, str]] = field(default_factory=tuple)

    def correct(self, tokens: Sequence[str], separators: Sequence[str]) -> list[str]:
        """Return what the corpus would have in the place of `separators`, one before each token."""
        corrected = list(separators)
        names = [_name(token) for token in tokens]
        for place in range(1, len(names)):
            for views, corrections in zip(_VIEWS, self.stages, strict=False):
                key = (*views(names[place - 1], names[place]), corrected[place])
                corrected[place] = corrections.get(key, corrected[place])
        return corrected

    def __len__(self) -> int:
        return sum(len(corrections) for corrections in self.stages)

    def to_bytes(self) -> bytes:
        """Return JSON: for each stage a list of `[left, right, by rule, in the corpus]`."""
        stages = [
            [[*key, separator] for key, separator in sorted(corrections.items())]
            for corrections in self.stages
        ]
        return json.dumps(stages, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "LearnedSpacing":
        stages = json.loads(data)
        return cls(
            tuple(
                {(row[0], row[1], row[2]): row[3] for row in corrections} for corrections in stages
            )
        )


def learn(
    sentences: Iterable[tuple[Sequence[str], Sequence[str], Sequence[str]]],
) -> LearnedSpacing:
    """Learn from sentences: their tokens, what rules put before each, and what the text had there.

    The order of the sentences does not matter. Memory grows with their number: give a sample.
    """
    # (left, right, so far, in the text): how often
    gaps: Counter[tuple[str, str, str, str]] = Counter()
    for tokens, ruled, written in sentences:
        names = [_name(token) for token in tokens]
        gaps.update(zip(names, names[1:], ruled[1:], written[1:], strict=False))
    stages = []
    for view in _VIEWS:
        by_key: dict[Key, Counter[str]] = {}
        for (left, right, so_far, text), count in gaps.items():
            by_key.setdefault((*view(left, right), so_far), Counter())[text] += count
        gains = {}
        for key, texts in by_key.items():
            usual = max(texts, key=lambda text: (texts[text], text == key[2], text))
            gain = texts[usual] - texts[key[2]]
            if gain >= FEWEST:
                gains[key] = (gain, usual)
        best = sorted(gains, key=lambda key: (-gains[key][0], key))[:MOST]
        corrections = {key: gains[key][1] for key in best}
        stages.append(corrections)
        corrected: Counter[tuple[str, str, str, str]] = Counter()
        for (left, right, so_far, text), count in gaps.items():
            now = corrections.get((*view(left, right), so_far), so_far)
            corrected[left, right, now, text] += count
        gaps = corrected
    return LearnedSpacing(tuple(stages))


def as_kept(separator: str) -> str:
    """Return the separator itself if it is one of `KEPT`, however often repeated, else a space."""
    first = separator[:1]
    return first if first in KEPT and separator == first * len(separator) else " "


def _name(token: str) -> str:
    return _DIGITS.sub("0", token.lower())


def _kind(name: str) -> str:
    """Return what kind of token this is; its space cannot be part of a token."""
    if _HAN.match(name):
        return " han"
    if name.isalpha():
        return " word"
    return " number" if name[0] == "0" else name


# What each stage sees of a gap.
_VIEWS = (
    lambda left, right: (_kind(left), _kind(right)),
    lambda left, right: ("", right),
    lambda left, right: (left, ""),
    lambda left, right: (left, right),
)


def join_tokens(
    tokens: Sequence[str], language: str | None, learned: LearnedSpacing | None = None
) -> str:
    """Join the tokens of a sentence in `language` (a code such as `fr`) to a line of text.

    With None a space stands between all of them. `learned` corrects what the rules say.
    """
    gaps = separators(tokens, language)
    if learned is not None:
        gaps = learned.correct(tokens, gaps)
    return "".join(before + token for before, token in zip(gaps, tokens, strict=True))


def restore_case(tokens: Iterable[str]) -> list[str]:
    """Apply each case token to the word that follows it, and leave it out."""
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
    """Return the text with its first letter in upper case; leading quotes and brackets stay."""
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

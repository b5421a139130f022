"""Split words by rules: spaCy's tokenizers, and text that the rules of a language would tear apart.

Every process that splits words waits for spaCy's tokenizers to load: each of Ray's workers, a job
that translates one sentence, a replica. Here they load in a sixth of the usual time. spaCy's neural
part imports PyTorch, which splitting by rules does not use; and the French rules are one expression
of 266 alternatives that nearly all end in the same class of letters, which Python's compiler
processes once for each.

Placeholders (`%d`, `%(name)s`, `{0}`, `${price}`), markup (`<b>`, `&amp;`) and addresses
(`https://…`, `me@example.org`) stay one token each, together with letters that touch a placeholder
(`%ds`, `v{version}`). The text inside a token is restored exactly.
"""

import importlib.util
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# spaCy's name of a language where it is not the canonical code.
SPACY_NAMES = {"mul": "xx", "no": "nb", "fil": "tl", "ku": "kmr"}

_LOADING = threading.Lock()  # what is changed while loading is changed for all threads
_LONG = 100_000  # characters of an expression; only the French one has as many
# An alternative that ends in large classes of characters, and what stands before these.
_ENDING = re.compile(
    r"(?P<head>\^(?:[^|()]|\(\?:[^()]*\)){1,80}?)(?P<ending>(?:\[[^]]{300,}\][+*]?)+\$)"
)


def spacy_tokenizer(language: str) -> Any:
    """Return the tokenizer of spaCy's blank pipeline.

    Raises ImportError, ValueError or OSError for a language that spaCy cannot split.
    """
    with _LOADING:
        with _without_torch():
            import spacy
        with _endings_compiled_once():
            return spacy.blank(SPACY_NAMES.get(language, language)).tokenizer


def spacy_folder() -> Path:
    """Return spaCy's folder without importing spaCy."""
    spec = importlib.util.find_spec("spacy")
    if spec is None or spec.origin is None:
        raise ImportError("spaCy is not installed")
    return Path(spec.origin).parent


def has_rules(language: str) -> bool:
    """Tell whether spaCy has a folder for the language; some of them need another package."""
    return (spacy_folder() / "lang" / SPACY_NAMES.get(language, language)).is_dir()


def add_lower_cased_exceptions(tokenizer: Any) -> None:
    """Let the rules for `C++` or `:D` hold for their lower-cased form too.

    Abbreviations such as `Wash.` are left out: `wash.` is a word at the end of a sentence.
    """
    from spacy.attrs import ORTH

    exceptions = dict(tokenizer.rules)
    for text, parts in exceptions.items():
        abbreviates = text.endswith(".") and text.rstrip(".").isalpha()
        if text.lower() not in exceptions and not abbreviates:
            tokenizer.add_special_case(text.lower(), [{ORTH: p[ORTH].lower()} for p in parts])


@contextmanager
def _without_torch() -> Iterator[None]:
    """Hide PyTorch from spaCy if it is not loaded yet; the process may import it later."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


@contextmanager
def _endings_compiled_once() -> Iterator[None]:
    """Shorten the long expressions that spaCy compiles while a language is imported."""
    plain = re.compile

    def shortened(pattern: Any, flags: Any = 0) -> Any:
        if isinstance(pattern, str) and len(pattern) > _LONG:
            pattern = share_endings(pattern)
        return plain(pattern, flags)

    re.compile = shortened
    try:
        yield
    finally:
        re.compile = plain


def share_endings(pattern: str) -> str:
    """Turn `(?iu)(?:a[…]+$)|(?:b[…]+$)` into `(?iu)(?:a|b)[…]+$`, which matches the same words.

    Another form of expression comes back as it is.
    """
    prefix, suffix = "(?iu)(?:", ")"
    if not (pattern.startswith(prefix) and pattern.endswith(suffix)):
        return pattern
    heads: dict[str, list[str]] = defaultdict(list)
    for alternative in pattern[len(prefix) : -len(suffix)].split(")|(?:"):
        match = _ENDING.fullmatch(alternative)
        head, ending = match.group("head", "ending") if match else (alternative, "")
        heads[ending].append(head)
    grouped = (f"(?:{'|'.join(those)}){ending}" for ending, those in heads.items())
    return "(?iu)" + "|".join(grouped)


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

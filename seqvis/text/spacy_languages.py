"""Languages as spaCy knows them: their codes as users write them, and its tokenizers, loaded fast.

`fra`, `fre`, `FR` and `fr_CA` all become `fr`: the shortest ISO 639 code of the language, without
region or script, on which no rule here depends.

Every process that splits words waits for spaCy's tokenizers to load: each of Ray's workers, a job
that translates one sentence, a replica. Here they load in a sixth of the usual time. spaCy's neural
part imports PyTorch, which splitting by rules does not use; and the French rules are one expression
of 266 alternatives that nearly all end in the same class of letters, which Python's compiler
processes once for each.
"""

import difflib
import importlib.util
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from seqvis.errors import did_you_mean

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


def canonical_language(code: str) -> str:
    """Return the canonical code of an ISO 639-1, -2 or -3 code or a BCP 47 tag.

    A member of a macrolanguage gets the macrolanguage's code: `cmn` is `zh`, `arb` is `ar`.

    Raises:
        ValueError: `code` is no language's; the message suggests one.
    """
    language = _language_of(code)
    if language is None:
        meant = _suggestion(code)
        remedy = did_you_mean([meant]) if meant else "; give one such as fr, fra or pt-BR"
        raise ValueError(f"is not a language code of ISO 639 or BCP 47{remedy}")
    return language


def canonical_or_same(code: str) -> str:
    """Return the canonical code, or `code` if it is none: older artifacts may hold any text."""
    return _language_of(code) or code


LanguageCode = Annotated[str, AfterValidator(canonical_language)]
"""A language that a user gives; stored in its canonical form."""


def _language_of(code: str) -> str | None:
    import langcodes  # 40 ms, which most commands need not spend

    try:
        if not langcodes.tag_is_valid(code):
            return None
        language = langcodes.get(langcodes.standardize_tag(code, macro=True)).language
    except langcodes.LanguageTagError:
        return None
    return language if language and re.fullmatch("[a-z]{2,3}", language) else None


def _suggestion(code: str) -> str | None:
    """Return the code that was probably meant by an English name, a country or a locale."""
    import langcodes

    start = re.split("[^a-z]", code.strip().lower())[0]
    names = _english_names()
    close = difflib.get_close_matches(start, names, n=1, cutoff=0.8)
    if close:
        return names[close[0]]
    if re.fullmatch("(?!zz)[a-z]{2}", start) and langcodes.tag_is_valid(f"und-{start}"):
        return langcodes.get(f"und-{start}").maximize().language  # jp, cz: countries
    return _language_of(start)


def _english_names() -> dict[str, str]:
    """Return spaCy's languages, `french` -> `fr`, from its files: importing it takes a second."""
    canonical = {name: code for code, name in SPACY_NAMES.items()}
    names = {name: code for code, name in SPACY_NAMES.items()}
    for file in sorted(spacy_folder().glob("lang/*/__init__.py")):
        declared = re.search(
            r'^__all__ = \["(\w+)"', file.read_text(encoding="utf-8"), re.MULTILINE
        )
        if declared:
            names[declared[1].lower()] = canonical.get(file.parent.name, file.parent.name)
    return names

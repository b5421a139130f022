"""Load spaCy's tokenizers in a sixth of the usual time.

Every process that splits words waits for them to load: each of Ray's workers, a job that translates
one sentence, a replica. Most of that time is wasted. spaCy's neural part imports PyTorch, which
splitting by rules does not use; and the French rules are one expression of 266 alternatives that
nearly all end in the same class of letters, which Python's compiler processes once for each.
"""

import importlib.util
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
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
    """The tokenizer of spaCy's blank pipeline.

    Raises ImportError, ValueError or OSError for a language that spaCy cannot split.
    """
    with _LOADING:
        with _without_torch():
            import spacy
        with _endings_compiled_once():
            return spacy.blank(SPACY_NAMES.get(language, language)).tokenizer


def spacy_folder() -> Path:
    """spaCy's folder, found without importing it."""
    spec = importlib.util.find_spec("spacy")
    if spec is None or spec.origin is None:
        raise ImportError("spaCy is not installed")
    return Path(spec.origin).parent


def has_rules(language: str) -> bool:
    """Whether spaCy has a folder for the language; some of them need another package."""
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
    """Lets spaCy find no PyTorch where none is loaded yet; the process may import it later."""
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
    """spaCy compiles its expressions while a language is imported: a long one is shortened."""
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
    """`(?iu)(?:a[…]+$)|(?:b[…]+$)` as `(?iu)(?:a|b)[…]+$`, which matches the same words.

    Another form of expression comes back as it is.
    """
    prefix, suffix = "(?iu)(?:", ")"
    if not (pattern.startswith(prefix) and pattern.endswith(suffix)):
        return pattern
    heads: dict[str, list[str]] = defaultdict(list)
    for alternative in pattern[len(prefix) : -len(suffix)].split(")|(?:"):
        found = _ENDING.fullmatch(alternative)
        head, ending = found.group("head", "ending") if found else (alternative, "")
        heads[ending].append(head)
    grouped = (f"(?:{'|'.join(those)}){ending}" for ending, those in heads.items())
    return "(?iu)" + "|".join(grouped)

"""Normalise language codes as users write them.

`fra`, `fre`, `FR` and `fr_CA` all become `fr`: the shortest ISO 639 code of the language, without
region or script, on which no rule here depends.
"""

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator

from seqvis.text.splitting import SPACY_NAMES, spacy_folder


def canonical_language(code: str) -> str:
    """Return the canonical code of an ISO 639-1, -2 or -3 code or a BCP 47 tag.

    A member of a macrolanguage gets the macrolanguage's code: `cmn` is `zh`, `arb` is `ar`.

    Raises:
        ValueError: `code` is no language's; the message suggests one.
    """
    language = _language_of(code)
    if language is None:
        close = _suggestion(code)
        remedy = f"did you mean {close}?" if close else "give one such as fr, fra or pt-BR"
        raise ValueError(f"is not a language code of ISO 639 or BCP 47; {remedy}")
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

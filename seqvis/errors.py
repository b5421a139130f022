"""The exceptions that a caller may catch.

    SeqvisError                 every error that a user can cause and fix
    ├── ConfigError             a flag or a YAML key: unknown, missing, or out of range
    ├── DataError               an input file: missing, empty, badly encoded, of the wrong shape
    ├── ArtifactError           a directory written by a job: wrong kind, altered, of another corpus
    ├── StorageError            a disk or an object store that refuses to take or give data
    ├── TrainingError           a run that cannot continue: a loss that is not finite, a lost worker
    ├── ServingError            a server that cannot be started
    ├── BusyError               a server that cannot take more work; says when to try again
    ├── SearchTimeoutError      a search that takes longer than allowed
    └── QueryError              a search query that cannot be parsed, or that names nothing known
        ├── UnknownWordError    a query with a word that has no vector; suggests similar words
        ├── FilterSyntaxError   a filter that cannot be read; says where, and what was expected
        ├── UnknownFieldError   a filter by a field that no picture has; says which exist
        └── BadPictureError     a query's picture that cannot be used; says why, in a few words

A message names the file or the value, and says what to do; secrets in URIs are left out of it. Any
other exception is a defect of seqvis and keeps its traceback.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

_COMPARED = 1000  # fields of a collection among which the one that was meant is looked for
_SHOWN = 20  # of which a message lists
_FOUND = 30  # characters that a message shows of what stands in a wrong place


_CREDENTIALS = re.compile(
    r"""(\b[a-z][a-z0-9+.-]{0,20}://)(?:[^/?#\s'"]{0,2000}@|[^/?#@\s'":]{0,300}:[^'"@?\n]{0,300}@)""",
    re.IGNORECASE,
)
_OPTION = re.compile(r"""([?&][^=&?\s'"]{1,100}=)([^&\s'"]+)""")
_SECRET = re.compile("secret|key|token|pass|sig|cred", re.IGNORECASE)


class SeqvisError(Exception):
    """Base of every error that a user can cause and fix."""

    def __init__(self, *arguments: object):
        super().__init__(*(redacted(part) if isinstance(part, str) else part for part in arguments))


def redacted(text: str) -> str:
    """Return the text with *** in place of the secrets that URIs in it hold.

    These are user and password, and options whose names or values look like credentials.
    """
    if "://" not in text:
        return text
    return _OPTION.sub(_without_secret, _CREDENTIALS.sub(r"\1***@", text))


def _without_secret(option: re.Match[str]) -> str:
    name, value = option.groups()
    hidden = _SECRET.search(name) or "@" in value or "%40" in value
    return f"{name}***" if hidden else option[0]


def did_you_mean(names: Sequence[str], before: str = "; ") -> str:
    """Return `before` and a question for the names that were probably meant; "" for none."""
    return f"{before}did you mean {', '.join(names)}?" if names else ""


class ConfigError(SeqvisError):
    """A flag or a YAML key is unknown, missing or out of range."""


class DataError(SeqvisError):
    """An input file is missing, empty, badly encoded or of the wrong shape."""


class ArtifactError(SeqvisError):
    """A directory written by a job is of the wrong kind, incomplete, altered, or does not match."""


class StorageError(SeqvisError):
    """A disk or an object store refuses to take or give data."""


class TrainingError(SeqvisError):
    """A training run cannot continue."""


class ServingError(SeqvisError):
    """A server cannot be started."""


class BusyError(SeqvisError):
    """There is more work than can be taken. `retry_after` is the number of seconds to wait."""

    def __init__(self, message: str, retry_after: float):
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["BusyError"], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class SearchTimeoutError(SeqvisError):
    """A search takes longer than allowed."""


class QueryError(SeqvisError):
    """A search query cannot be parsed, or names nothing known."""


class UnknownWordError(QueryError):
    """A query's word has no vector; `suggestions` are known words spelt similarly, best first."""

    def __init__(self, word: str, suggestions: tuple[str, ...] = ()):
        super().__init__(f"{word}: has no word vector{did_you_mean(suggestions)}")
        self.word = word
        self.suggestions = suggestions

    def __reduce__(self) -> tuple[type["UnknownWordError"], tuple[str, tuple[str, ...]]]:
        return type(self), (self.word, self.suggestions)


class FilterSyntaxError(QueryError):
    """A filter's `text` cannot be read: at `position`, from 0, `expected` is missing."""

    def __init__(self, text: str, position: int, expected: str):
        there = text[position:].split(maxsplit=1)
        found = f"{there[0][:_FOUND]!r} in" if there else "the end of"
        super().__init__(f"{found} the filter, at column {position + 1}: expected {expected}")
        self.text = text
        self.position = position
        self.expected = expected

    def __reduce__(self) -> tuple[type["FilterSyntaxError"], tuple[str, int, str]]:
        return type(self), (self.text, self.position, self.expected)


class UnknownFieldError(QueryError):
    """A filter asks for fields that no item has.

    `missing` holds these fields, `fields` the existing ones, and `suggestions` existing ones that
    are spelt like the first missing one. `answer` is what a shard finds all the same, since the
    items of another may have the fields; else None.
    """

    def __init__(self, missing: tuple[str, ...], fields: tuple[str, ...], answer: Any = None):
        first = missing[0]
        lower = {field.lower(): field for field in fields[:_COMPARED]}
        self.suggestions = tuple(lower[name] for name in get_close_matches(first.lower(), lower))
        hint = did_you_mean(self.suggestions)
        there = ", ".join(fields[:_SHOWN]) + (", …" if len(fields) > _SHOWN else "")
        has = f"they have {there}" if fields else "they have no metadata"
        super().__init__(f"{first[:100]!r}: no picture has such a field to filter by; {has}{hint}")
        self.missing = missing
        self.fields = fields
        self.answer = answer

    def __reduce__(self) -> tuple[type["UnknownFieldError"], tuple[Any, ...]]:
        return type(self), (self.missing, self.fields, self.answer)


class BadPictureError(QueryError):
    """A query's picture cannot be used; `reason` is one of a few texts, so it can be counted."""

    def __init__(self, message: str, reason: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["BadPictureError"], tuple[str, str]]:
        return type(self), (str(self), self.reason)

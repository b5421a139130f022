"""What a server answers. Fields that this version does not know are left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, Literal, Self

Content = bytes | str | PathLike[str]
"""A picture: the bytes of its file, or its path."""


class _Answer:
    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        """Take the fields of JSON."""
        known = {each.name for each in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in answer.items() if name in known})


@dataclass(frozen=True)
class Candidate(_Answer):
    """A translation, one of the best few."""

    text: str
    tokens: list[str]
    score: float
    complete: bool
    attention: list[list[float]] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Translation(_Answer):
    """The translations of a text; `str` is the best of them.

    `text` is None where the model is less sure than was wanted; `refused` then says so.
    """

    source: str
    text: str | None
    candidates: list[Candidate] = field(repr=False)
    source_tokens: list[str] = field(repr=False)
    unknown_words: list[str]
    confidence: float | None = None
    refused: str | None = None

    def __str__(self) -> str:
        return self.text or ""

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        candidates = [Candidate.read(each) for each in answer["candidates"]]
        return super().read({**answer, "candidates": candidates})


@dataclass(frozen=True)
class Streamed:
    """Of a stream: the translation of text number `index`, or what is written of it so far."""

    index: int
    translation: Translation | None = None
    partial: str | None = None


@dataclass(frozen=True)
class Picture(_Answer):
    """A stored picture; `image` is the path of its thumbnail."""

    id: str
    metadata: dict[str, Any]
    image: str = field(repr=False)


@dataclass(frozen=True)
class Match(Picture):
    """A picture that a search found; `score` is the cosine."""

    score: float


@dataclass(frozen=True)
class Found(_Answer):
    """The matches of a search, best first; `read_as` is how a query in words was read."""

    model: str
    matches: list[Match]
    read_as: str = ""

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        return super().read({**answer, "matches": [Match.read(each) for each in answer["matches"]]})


@dataclass(frozen=True)
class Word(_Answer):
    """A word near a picture."""

    word: str
    labels: list[str]
    score: float


@dataclass(frozen=True)
class Search:
    """A search by words or by a stored picture, one of several."""

    query: str | None = None
    id: str | None = None
    k: int = 10
    min_score: float | None = None
    where: Any = None


@dataclass(frozen=True)
class NewPicture:
    """A picture to add, one of several, and what to store with it."""

    content: Content = field(repr=False)
    id: str | None = None
    label: str | None = None
    name: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Added(_Answer):
    """What became of a picture; `error` says why it was refused."""

    id: str | None
    status: Literal["added", "replaced", "refused"]
    error: dict[str, Any] | None = None


@dataclass(frozen=True)
class Version(_Answer):
    """A live model; `about` is what its replicas say of it. Only an admin learns its path."""

    name: str
    share: float
    ready: bool
    about: dict[str, Any]
    path: str | list[str] | None = None


@dataclass(frozen=True)
class Application(_Answer):
    """The live versions of an application, and for an admin why others that were wanted are not."""

    versions: list[Version]
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        versions = [Version.read(each) for each in answer["versions"]]
        return super().read({**answer, "versions": versions})

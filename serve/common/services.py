"""What the gateway asks of replicas. Replicas implement these services, and so do their clients.

`version` is the key of a live version (versions.version_key); a replica that has not loaded it
raises VersionMissingError.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import numpy as np

from seqvis.collection.filters.where import Where
from seqvis.collection.items import Item, Match
from seqvis.collection.scroll import Page
from seqvis.errors import QueryError, UnknownFieldError
from seqvis.search.requests import EncodedImage, NameSet, SearchRequest
from serve.common.settings import TranslateOptions, Version

Found = tuple[str, list[Match]]
"""How a query in words is read, and a shard's best matches."""


class Service(Protocol):
    """What every replica is asked."""

    async def describe(self) -> dict[str, Any]:
        """Return what each loaded version is, by key, and why live ones are not loaded."""
        ...

    async def try_version(self, version: Version) -> None:
        """Load a version before it is live. Raises the reason if it cannot be used."""
        ...


class TranslatorService(Service, Protocol):
    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        """Return all translations, in the order of the texts.

        Raises BusyError if the queue is full, DataError if the texts turn out to cost too much.
        """
        ...

    def stream(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield each translation as it ends, and before it what is written so far if wanted."""
        ...

    async def detect(self, version: str, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return the share of each text's words that is known in each language of the pair."""
        ...


class EncoderService(Service, Protocol):
    async def encode(self, version: str, content: bytes) -> EncodedImage:
        """Return a picture's place among words, its size and its thumbnail.

        Raises BadPictureError if it cannot be used, BusyError if too many wait.
        """
        ...

    async def encode_many(
        self, version: str, contents: Sequence[bytes]
    ) -> list[EncodedImage | QueryError]:
        """Return the same of several pictures; of one that cannot be used, the error."""
        ...

    async def classify(
        self, version: str, vector: np.ndarray, k: int, candidates: NameSet
    ) -> list[dict[str, Any]]:
        """Return the words nearest to a picture's place, best first. Raises SearchTimeoutError."""
        ...


class IndexService(Service, Protocol):
    """One shard of the collection."""

    async def search(
        self, version: str, requests: Sequence[SearchRequest]
    ) -> list[Found | QueryError]:
        """Return what each request finds, or its error: UnknownWordError, UnknownFieldError, ….

        Queries are TextQueries and VectorQueries. Raises DataError, SearchTimeoutError.
        """
        ...

    async def scroll(
        self, version: str, limit: int, after: str | None, where: Where | None
    ) -> Page | UnknownFieldError:
        """Return a page of the shard's pictures. Raises DataError, SearchTimeoutError."""
        ...

    async def vectors(self, version: str, names: Sequence[str]) -> list[np.ndarray | None]:
        """Return the vectors of stored pictures; None where there is none of this id."""
        ...

    async def thumbnail(self, version: str, name: str) -> bytes | None:
        """Return the JPEG of a stored picture; None if there is none of this id."""
        ...


class WriterService(Service, Protocol):
    async def add(self, version: str, items: Sequence[Item]) -> list[bool]:
        """Add or replace pictures; they are durable on return. Return which were there before.

        Raises DataError if one cannot be stored, UnavailableError if the disk refuses them for now.
        """
        ...

    async def delete(self, version: str, name: str) -> bool:
        """Delete a picture; this is durable on return. Return whether there was one."""
        ...

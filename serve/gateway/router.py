"""Carry out checked requests, independently of HTTP: ask replicas, merge answers, make changes.

Answers are dictionaries ready for JSON. The gateway holds no model; the replicas do.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from seqvis.collection.items import Match
from seqvis.collection.shards import merge
from seqvis.errors import QueryError, UnknownFieldError
from serve.common.http import ApiError, UnavailableError
from serve.common.settings import Version, Work
from serve.common.versions import VersionMissingError, version_key
from serve.gateway.live import LiveModels


class Router:
    """Sends requests to the replicas of a live version, and merges their answers."""

    def __init__(self, live: LiveModels):
        self.live = live

    async def translate(
        self, texts: Sequence[str], work: Work, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """The version's name and the translations, in the order of the texts."""
        part = self.live.translator_service()

        async def ask(version: Version) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = await part.call(
                "translate", version_key(version), texts, work
            )
            return found

        return await self.live.ask("translator", name, ask)

    async def stream(
        self, texts: Sequence[str], work: Work, name: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Translations and beginnings as they come, then how many there were."""
        part = self.live.translator_service()
        versions = self.live.order("translator", name)
        for place, version in enumerate(versions):
            try:
                async for item in part.stream("stream", version_key(version), texts, work):
                    yield item
                yield {"done": True, "count": len(texts), "model": version.name}
                return
            except VersionMissingError:
                if place + 1 == len(versions):
                    raise UnavailableError("the model is being loaded") from None

    async def find_words(
        self, query: str, k: int, min_score: float | None, where: Any, name: str | None
    ) -> tuple[str, str, list[dict[str, Any]]]:
        """The version's name, how the query is read, and pictures near it."""
        search = self.live.search_services()

        async def ask(version: Version) -> tuple[str, list[Match]]:
            key = version_key(version)
            answers = await search.ask("search_words", key, query, k, min_score, where)
            read = [one[0] for one in answers if not isinstance(one, UnknownFieldError)]
            found = [one if isinstance(one, UnknownFieldError) else one[1] for one in answers]
            return "".join(read[:1]), merge(found, k)

        model, (read, found) = await self.live.ask("search", name, ask)
        return model, read, _matches(found)

    async def find_picture(
        self, content: bytes, k: int, min_score: float | None, where: Any, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Pictures near an uploaded one."""
        search = self.live.search_services()

        async def ask(version: Version) -> list[Match]:
            placed = await search.encoder.call("place", version_key(version), content)
            return await self._near(version, placed.vector, k, min_score, where)

        model, found = await self.live.ask("search", name, ask)
        return model, _matches(found)

    async def find_like(
        self, picture: str, k: int, min_score: float | None, where: Any, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Pictures near a stored one, itself left out."""

        async def ask(version: Version) -> list[Match]:
            vector = await self._vector(version, picture)
            found = await self._near(version, vector, k + 1, min_score, where)
            return [match for match in found if match.id != picture][:k]

        model, found = await self.live.ask("search", name, ask)
        return model, _matches(found)

    async def classify(
        self, picture: bytes | str, k: int, candidates: str, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """The words nearest to an uploaded picture, or to the stored one of an id."""
        search = self.live.search_services()

        async def ask(version: Version) -> list[dict[str, Any]]:
            key = version_key(version)
            if isinstance(picture, str):
                vector = await self._vector(version, picture)
            else:
                vector = (await search.encoder.call("place", key, picture)).vector
            words: list[dict[str, Any]] = await search.encoder.call(
                "classify", key, vector, k, candidates
            )
            return words

        return await self.live.ask("search", name, ask)

    async def thumbnail(self, picture: str) -> bytes:
        """The JPEG of a stored picture. Raises ApiError (404) if there is none of this id."""
        owner = self.live.search_services().owner(picture)

        async def ask(version: Version) -> bytes | None:
            content: bytes | None = await owner.call("thumbnail", version_key(version), picture)
            return content

        _, content = await self.live.ask("search", None, ask)
        if not content:
            raise ApiError(404, f"{picture}: no picture has this id")
        return content

    async def add(self, content: bytes, name: str, metadata: Mapping[str, Any]) -> bool:
        """Adds a picture to every live version, or replaces it; durable when it returns.

        Returns whether a version had one of this id.
        """
        search = self.live.search_services()
        replaced = False
        for version in self.live.wanted("search").versions:
            key = version_key(version)
            placed = await search.encoder.call("place", key, content)
            about = {
                "label": None,
                "name": None,
                "path": name,
                "width": placed.width,
                "height": placed.height,
                **metadata,
            }
            replaced |= await search.writer.call(
                "add", key, name, placed.vector, about, placed.thumbnail
            )
        return replaced

    async def delete(self, name: str) -> bool:
        """Deletes a picture from every live version; returns whether one had it."""
        search = self.live.search_services()
        found = False
        for version in self.live.wanted("search").versions:
            found |= await search.writer.call("delete", version_key(version), name)
        return found

    async def _vector(self, version: Version, picture: str) -> np.ndarray:
        owner = self.live.search_services().owner(picture)
        vector: np.ndarray | None = await owner.call("vector", version_key(version), picture)
        if vector is None:
            raise ApiError(404, f"{picture}: no picture has this id")
        return vector

    async def _near(
        self, version: Version, vector: np.ndarray, k: int, min_score: float | None, where: Any
    ) -> list[Match]:
        if not np.isfinite(vector).all():
            raise QueryError("the picture's place is not finite")
        search, key = self.live.search_services(), version_key(version)
        return merge(await search.ask("search_vector", key, vector, k, min_score, where), k)


def id_of_upload(content: bytes) -> str:
    """The id of a picture that was added without one: adding it twice is as good as once."""
    return f"uploads/{hashlib.sha256(content).hexdigest()[:20]}"


def image_path(name: str) -> str:
    """Where a picture's thumbnail is, and what to DELETE.

    The id is in the query: in the path, clients and proxies resolve `..`, merge slashes and decode
    percent signs, and so reach another picture.
    """
    return f"/v1/images?id={quote(name, safe='')}"


def _matches(found: Sequence[Match]) -> list[dict[str, Any]]:
    return [
        {
            "id": match.id,
            "score": round(match.score, 4),
            "metadata": match.metadata,
            "image": image_path(match.id),
        }
        for match in found
    ]

"""Carry out checked requests, independently of HTTP: ask replicas, merge answers, make changes.

Answers are dictionaries ready for JSON. The gateway holds no model; the replicas do.
"""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from seqvis.collection.items import Item, Match
from seqvis.collection.shards import merge
from seqvis.errors import UnknownFieldError
from seqvis.search.requests import ImageQuery, LikeQuery, NameSet, SearchRequest
from serve.common.http import ApiError, UnavailableError
from serve.common.settings import TranslateOptions
from serve.common.versions import VersionMissingError, version_key
from serve.gateway.live import LiveModels


class Router:
    """Sends requests to the replicas of a live version, and merges their answers."""

    def __init__(self, live: LiveModels):
        self.live = live

    async def translate(
        self, texts: Sequence[str], options: TranslateOptions, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Return the version's name and the translations, in the order of the texts."""
        translator = self.live.translator_service()
        return await self.live.ask(
            "translator", name, lambda key: translator.translate(key, texts, options)
        )

    async def stream(
        self, texts: Sequence[str], options: TranslateOptions, name: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield translations and beginnings as they come, then how many there were."""
        translator = self.live.translator_service()
        for version in self.live.order("translator", name):
            try:
                async for item in translator.stream(version_key(version), texts, options):
                    yield item
                yield {"done": True, "count": len(texts), "model": version.name}
                return
            except VersionMissingError:
                continue
        raise UnavailableError("the model is being loaded")

    async def search(
        self, request: SearchRequest, name: str | None
    ) -> tuple[str, str, list[dict[str, Any]]]:
        """Return the version's name, how a query in words is read, and the matches."""
        services = self.live.search_services()

        async def ask(key: str) -> tuple[str, list[Match]]:
            query, placed = request.query, request
            if isinstance(query, ImageQuery | LikeQuery):
                placed = request.at(await self._place(key, query))
            answers = await services.search(key, placed)
            read = [answer[0] for answer in answers if not isinstance(answer, UnknownFieldError)]
            matches = [
                answer if isinstance(answer, UnknownFieldError) else answer[1] for answer in answers
            ]
            return "".join(read[:1]), request.select(merge(matches, placed.k))

        model, (read_as, matches) = await self.live.ask("search", name, ask)
        return model, read_as, [_match_json(match) for match in matches]

    async def classify(
        self, picture: ImageQuery | LikeQuery, k: int, candidates: NameSet, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Return the version's name and the words nearest to a picture."""
        encoder = self.live.search_services().encoder

        async def ask(key: str) -> list[dict[str, Any]]:
            return await encoder.classify(key, await self._place(key, picture), k, candidates)

        return await self.live.ask("search", name, ask)

    async def thumbnail(self, picture: str) -> bytes:
        """Return the JPEG of a stored picture. Raises ApiError (404) if none has this id."""
        owner = self.live.search_services().owner(picture)
        _, content = await self.live.ask("search", None, lambda key: owner.thumbnail(key, picture))
        if not content:
            raise ApiError(404, f"{picture}: no picture has this id")
        return content

    async def add(self, content: bytes, name: str, metadata: Mapping[str, Any]) -> bool:
        """Add a picture to every live version, or replace it; it is durable on return.

        Returns whether a version had one of this id.
        """
        services = self.live.search_services()
        replaced = False
        for version in self.live.live_versions("search").versions:
            key = version_key(version)
            placed = await services.encoder.encode(key, content)
            stored = {
                "label": None,
                "name": None,
                "path": name,
                "width": placed.width,
                "height": placed.height,
                **metadata,
            }
            item = Item(name, placed.vector, stored, placed.thumbnail)
            replaced |= await services.writer.add(key, item)
        return replaced

    async def delete(self, name: str) -> bool:
        """Delete a picture from every live version; return whether one had it."""
        writer = self.live.search_services().writer
        deleted = False
        for version in self.live.live_versions("search").versions:
            deleted |= await writer.delete(version_key(version), name)
        return deleted

    async def _place(self, key: str, picture: ImageQuery | LikeQuery) -> np.ndarray:
        services = self.live.search_services()
        if isinstance(picture, ImageQuery):
            return (await services.encoder.encode(key, picture.content)).vector
        vector = await services.owner(picture.id).vector(key, picture.id)
        if vector is None:
            raise ApiError(404, f"{picture.id}: no picture has this id")
        return vector


def id_of_upload(content: bytes) -> str:
    """Return the id of a picture that comes without one; adding it twice changes nothing."""
    return f"uploads/{hashlib.sha256(content).hexdigest()[:20]}"


def image_path(name: str) -> str:
    """Return the path of a picture, for its thumbnail and to DELETE it.

    The id is in the query: in the path, clients and proxies resolve `..`, merge slashes and decode
    percent signs, and so reach another picture.
    """
    return f"/v1/images?id={quote(name, safe='')}"


def _match_json(match: Match) -> dict[str, Any]:
    return {
        "id": match.id,
        "score": round(match.score, 4),
        "metadata": match.metadata,
        "image": image_path(match.id),
    }

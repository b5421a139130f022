"""What the gateway does with a request, apart from HTTP: choose a version, ask, merge, change.

In: checked requests. Out: dictionaries ready for JSON. It holds no model; the replicas do.
What would surprise a reader: every answer comes from one version alone. If a replica has not loaded
the version that was chosen, the whole request is asked anew of another, never the rest of it.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np

from seqvis.collection.items import Match
from seqvis.collection.shards import merge, shard_of
from seqvis.errors import QueryError, SeqvisError, UnknownFieldError, redacted
from serve.common.http import ApiError, UnavailableError
from serve.common.roots import Roots
from serve.common.settings import Application, Version, Work
from serve.common.versions import Store, VersionMissingError, Wanted, change, version_key
from serve.gateway.clients import Part

T = TypeVar("T")

FOLLOW_EVERY = 0.5  # seconds
READY_WITHIN = 0.9  # seconds in which a part must say that it is ready

_log = logging.getLogger("ray.serve")


class SearchParts:
    """The deployments of the application `search`."""

    def __init__(self, encoder: Part, writer: Part, index: Callable[[int], Part]):
        """`index`: gives the deployment of a shard."""
        self.encoder = encoder
        self.writer = writer
        self._index = index
        self.shards: list[Part] = []

    async def find_shards(self) -> None:
        """Asks the first shard how many there are, unless that is known."""
        if self.shards:
            return
        described = await self._index(0).call("describe")
        for about in described["versions"].values():
            self.shards = [self._index(shard) for shard in range(about["shards"])]

    async def ask(self, method: str, *arguments: Any) -> list[Any]:
        """The answer of each shard, or its UnknownFieldError."""
        calls = [
            asyncio.ensure_future(_answer_of(shard.call(method, *arguments)))
            for shard in self.shards
        ]
        try:
            return await asyncio.gather(*calls)
        finally:
            for call in calls:  # of those that still run none is of use
                call.cancel()

    def owner(self, name: str) -> Part:
        return self.shards[shard_of(name, len(self.shards))]


class Core:
    """The gateway's work. `close` it."""

    def __init__(
        self,
        store: Store,
        translator: Part | None,
        search: SearchParts | None,
        roots: Roots | None = None,
    ):
        """`roots`: where models may come from; by default where those are that were configured."""
        self._store = store
        self.translator = translator
        self.search = search
        self._roots = roots or Roots()
        self._wanted: dict[Application, Wanted] = {}
        self._switching = asyncio.Lock()
        self.draining = False  # whether the server ends, so that nothing new is to be taken
        self._looked = asyncio.Event()  # whether it was read at all which models are wanted

    async def follow(self) -> None:
        """Keeps up with what is wanted, for ever."""
        while True:
            try:
                await self.take_up()
            except Exception:  # the head node may be away; what was wanted goes on
                _log.exception("cannot read which models are wanted")
                self._looked.set()
            await asyncio.sleep(FOLLOW_EVERY)

    async def looked(self) -> None:
        """Waits until `follow` has read for the first time which models are wanted.

        Else a gateway that has just come would refuse its first request.
        """
        await self._looked.wait()

    async def take_up(self) -> None:
        """Reads what is wanted now, and whether the server ends."""
        self.draining = await asyncio.to_thread(self._store.draining)
        for application in self._served():
            wanted = await asyncio.to_thread(self._store.read, application)
            if wanted is not None:
                self._wanted[application] = wanted
        self._looked.set()
        if self.search is not None:
            await self.search.find_shards()

    async def translate(
        self, texts: Sequence[str], work: Work, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """The version's name and the translations, in the order of the texts."""
        part = self._translator()

        async def ask(version: Version) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = await part.call(
                "translate", version_key(version), texts, work
            )
            return found

        return await self._ask("translator", name, ask)

    async def stream(
        self, texts: Sequence[str], work: Work, name: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        """Translations and beginnings as they come, then how many there were."""
        part = self._translator()
        versions = self._order("translator", name)
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
        search = self._search()

        async def ask(version: Version) -> tuple[str, list[Match]]:
            key = version_key(version)
            answers = await search.ask("search_words", key, query, k, min_score, where)
            read = [one[0] for one in answers if not isinstance(one, UnknownFieldError)]
            found = [one if isinstance(one, UnknownFieldError) else one[1] for one in answers]
            return "".join(read[:1]), merge(found, k)

        model, (read, found) = await self._ask("search", name, ask)
        return model, read, _matches(found)

    async def find_picture(
        self, content: bytes, k: int, min_score: float | None, where: Any, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Pictures near an uploaded one."""
        search = self._search()

        async def ask(version: Version) -> list[Match]:
            placed = await search.encoder.call("place", version_key(version), content)
            return await self._near(version, placed.vector, k, min_score, where)

        model, found = await self._ask("search", name, ask)
        return model, _matches(found)

    async def find_like(
        self, picture: str, k: int, min_score: float | None, where: Any, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Pictures near a stored one, itself left out."""

        async def ask(version: Version) -> list[Match]:
            vector = await self._vector(version, picture)
            found = await self._near(version, vector, k + 1, min_score, where)
            return [match for match in found if match.id != picture][:k]

        model, found = await self._ask("search", name, ask)
        return model, _matches(found)

    async def classify(
        self, picture: bytes | str, k: int, candidates: str, name: str | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """The words nearest to an uploaded picture, or to the stored one of an id."""
        search = self._search()

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

        return await self._ask("search", name, ask)

    async def thumbnail(self, picture: str) -> bytes:
        """The JPEG of a stored picture. Raises ApiError (404) if there is none of this id."""
        owner = self._search().owner(picture)

        async def ask(version: Version) -> bytes | None:
            content: bytes | None = await owner.call("thumbnail", version_key(version), picture)
            return content

        _, content = await self._ask("search", None, ask)
        if not content:
            raise ApiError(404, f"{picture}: no picture has this id")
        return content

    async def add(self, content: bytes, name: str, metadata: Mapping[str, Any]) -> bool:
        """Adds a picture to every live version, or replaces it; durable when it returns.

        Returns whether a version had one of this id.
        """
        search = self._search()
        replaced = False
        for version in self._live("search").versions:
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
        search = self._search()
        found = False
        for version in self._live("search").versions:
            found |= await search.writer.call("delete", version_key(version), name)
        return found

    async def models(self) -> dict[str, Any]:
        """What is live, for GET /v1/models."""
        return {
            application: await self.application(application)
            if application in self._served()
            else None
            for application in ("translator", "search")
        }

    async def application(self, application: Application) -> dict[str, Any]:
        """What is live of one application."""
        wanted = self._live(application)
        # The encoder is not asked: it may have no replica, and would be started for it.
        parts = [self._translator()] if application == "translator" else self._search().shards
        reports = await asyncio.gather(*(part.call("describe") for part in parts))
        versions = []
        for version in wanted.versions:
            key = version_key(version)
            told = [report["versions"].get(key) for report in reports]
            about: dict[str, Any] = {}
            for one in told:
                for field, value in (one or {}).items():
                    about[field] = (
                        about[field] + value if field == "items" and field in about else value
                    )
            ready = all(one is not None for one in told)
            shown = {**version.model_dump(), "path": redacted(version.path)}
            versions.append({**shown, "ready": ready, "about": about})
        refused = {
            redacted(key): redacted(why)
            for report in reports
            for key, why in report["refused"].items()
        }
        if wanted.refused:
            refused["user_config"] = wanted.refused
        return {"versions": versions, "refused": refused}

    async def change(self, application: Application, versions: Sequence[Version]) -> None:
        """Makes these versions live: each is loaded and tried by a replica of every part first.

        Raises ApiError if one cannot be used (422, bad_artifact) or may not be loaded from where
        it is (403); then nothing changes.
        """
        if application not in self._served():
            raise ApiError(404, f"{application} is not served here")
        async with self._switching:
            wanted = self._live(application)
            await asyncio.to_thread(self._check_paths, wanted, versions)
            live = {version_key(version) for version in wanted.versions}
            for version in versions:
                if version_key(version) not in live:
                    await self._try(application, version)
            await asyncio.to_thread(change, self._store, application, versions)
            await self.take_up()

    async def ready(self) -> dict[str, bool]:
        """Whether each application answers, known within a second."""
        served = self._served()
        answers = await asyncio.gather(*(self._answers(application) for application in served))
        return dict(zip(served, answers, strict=True))

    async def _answers(self, application: Application) -> bool:
        try:
            async with asyncio.timeout(READY_WITHIN):
                described = await self.application(application)
        except (TimeoutError, SeqvisError):
            return False
        return any(version["ready"] for version in described["versions"])

    def _check_paths(self, wanted: Wanted, versions: Sequence[Version]) -> None:
        """Raises ApiError if a path may not be loaded. One that was live before is not checked."""
        configured = [version.path for version in wanted.configured]
        known = {*configured, *(version.path for version in wanted.all())}
        for version in versions:
            if version.path not in known:
                self._roots.check(version.name, version.path, configured)

    async def _try(self, application: Application, version: Version) -> None:
        for part in self._parts(application):
            try:
                await part.call("try_version", version)
            except UnavailableError:
                raise
            except Exception as error:
                raise ApiError(
                    422, f"{version.name}: cannot be used ({error})", "bad_artifact"
                ) from error

    async def _ask(
        self,
        application: Application,
        name: str | None,
        ask: Callable[[Version], Awaitable[T]],
    ) -> tuple[str, T]:
        """Asks the versions in turn until one is loaded wherever it is needed."""
        for version in self._order(application, name):
            try:
                return version.name, await ask(version)
            except VersionMissingError:
                continue
        raise UnavailableError("the model is being loaded")

    def _order(self, application: Application, name: str | None) -> list[Version]:
        """The version to ask, then those to ask if it is not loaded."""
        wanted = self._live(application)
        if name is None:
            shares = [version.share for version in wanted.versions]
            chosen = random.choices(wanted.versions, shares)[0]
            return [chosen, *(one for one in wanted.all() if one is not chosen)]
        named = [version for version in wanted.all() if version.name == name]
        if not named:
            there = ", ".join(version.name for version in wanted.versions)
            raise ApiError(404, f"no model is called {name}; there are: {there}")
        return named

    def _live(self, application: Application) -> Wanted:
        if application not in self._wanted:
            raise UnavailableError(f"{application} is starting")
        return self._wanted[application]

    def _served(self) -> list[Application]:
        served: list[Application] = []
        if self.translator is not None:
            served.append("translator")
        if self.search is not None:
            served.append("search")
        return served

    def _parts(self, application: Application) -> list[Part]:
        if application == "translator":
            return [self._translator()]
        search = self._search()
        return [search.encoder, *search.shards, search.writer]

    def _translator(self) -> Part:
        if self.translator is None:
            raise ApiError(404, "translation is not served here")
        return self.translator

    def _search(self) -> SearchParts:
        if self.search is None:
            raise ApiError(404, "search is not served here")
        if not self.search.shards:
            raise UnavailableError("search is starting")
        return self.search

    async def _vector(self, version: Version, picture: str) -> np.ndarray:
        owner = self._search().owner(picture)
        vector: np.ndarray | None = await owner.call("vector", version_key(version), picture)
        if vector is None:
            raise ApiError(404, f"{picture}: no picture has this id")
        return vector

    async def _near(
        self, version: Version, vector: np.ndarray, k: int, min_score: float | None, where: Any
    ) -> list[Match]:
        if not np.isfinite(vector).all():
            raise QueryError("the picture's place is not finite")
        search, key = self._search(), version_key(version)
        return merge(await search.ask("search_vector", key, vector, k, min_score, where), k)


async def _answer_of(asked: Awaitable[Any]) -> Any:
    try:
        return await asked
    except UnknownFieldError as error:
        return error


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

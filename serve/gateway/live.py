"""The live models: follow which they are, choose one for a request, change and describe them.

Every answer comes from a single version. If a replica has not loaded the version that was chosen,
the whole request is sent again for another version, never just the rest of it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from seqvis.errors import SeqvisError, redacted
from serve.common.http import ApiError, UnavailableError
from serve.common.roots import Roots
from serve.common.settings import Application, Version
from serve.common.versions import Store, VersionMissingError, Wanted, change, version_key
from serve.gateway.clients import Part, SearchServices

T = TypeVar("T")

FOLLOW_EVERY = 0.5  # seconds
READY_WITHIN = 0.9  # seconds in which a part must say that it is ready

_log = logging.getLogger("ray.serve")


class LiveModels:
    """The live versions of each application, and the replicas that serve them."""

    def __init__(
        self,
        store: Store,
        translator: Part | None,
        search: SearchServices | None,
        roots: Roots | None = None,
    ):
        """`roots`: where models may come from; by default where those are that were configured."""
        self._store = store
        self._translator = translator
        self._search = search
        self._roots = roots or Roots()
        self._wanted: dict[Application, Wanted] = {}
        self._switching = asyncio.Lock()
        self.draining = False  # whether the server ends, so that nothing new is to be taken
        self._read_once = asyncio.Event()  # whether it was read at all which models are wanted

    async def follow(self) -> None:
        """Read the live versions twice a second, for ever."""
        while True:
            try:
                await self.refresh()
            except Exception:  # the head node may be away; what was wanted goes on
                _log.exception("cannot read which models are wanted")
                self._read_once.set()
            await asyncio.sleep(FOLLOW_EVERY)

    async def wait_until_ready(self) -> None:
        """Wait until the live versions are known, so that a new gateway accepts requests."""
        await self._read_once.wait()

    async def refresh(self) -> None:
        """Read which versions are live now, and whether the server ends."""
        self.draining = await asyncio.to_thread(self._store.draining)
        for application in self._served():
            wanted = await asyncio.to_thread(self._store.read, application)
            if wanted is not None:
                self._wanted[application] = wanted
        self._read_once.set()
        if self._search is not None:
            await self._search.find_shards()

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
        wanted = self.wanted(application)
        # The encoder is not asked: it may have no replica, and would be started for it.
        parts = (
            [self.translator_service()]
            if application == "translator"
            else self.search_services().shards
        )
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
            wanted = self.wanted(application)
            await asyncio.to_thread(self._check_paths, wanted, versions)
            live = {version_key(version) for version in wanted.versions}
            for version in versions:
                if version_key(version) not in live:
                    await self._try(application, version)
            await asyncio.to_thread(change, self._store, application, versions)
            await self.refresh()

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

    async def ask(
        self,
        application: Application,
        name: str | None,
        ask: Callable[[Version], Awaitable[T]],
    ) -> tuple[str, T]:
        """Asks the versions in turn until one is loaded wherever it is needed."""
        for version in self.order(application, name):
            try:
                return version.name, await ask(version)
            except VersionMissingError:
                continue
        raise UnavailableError("the model is being loaded")

    def order(self, application: Application, name: str | None) -> list[Version]:
        """The version to ask, then those to ask if it is not loaded."""
        wanted = self.wanted(application)
        if name is None:
            shares = [version.share for version in wanted.versions]
            chosen = random.choices(wanted.versions, shares)[0]
            return [chosen, *(one for one in wanted.all() if one is not chosen)]
        named = [version for version in wanted.all() if version.name == name]
        if not named:
            there = ", ".join(version.name for version in wanted.versions)
            raise ApiError(404, f"no model is called {name}; there are: {there}")
        return named

    def wanted(self, application: Application) -> Wanted:
        if application not in self._wanted:
            raise UnavailableError(f"{application} is starting")
        return self._wanted[application]

    def _served(self) -> list[Application]:
        served: list[Application] = []
        if self._translator is not None:
            served.append("translator")
        if self._search is not None:
            served.append("search")
        return served

    def _parts(self, application: Application) -> list[Part]:
        if application == "translator":
            return [self.translator_service()]
        search = self.search_services()
        return [search.encoder, *search.shards, search.writer]

    def translator_service(self) -> Part:
        if self._translator is None:
            raise ApiError(404, "translation is not served here")
        return self._translator

    def search_services(self) -> SearchServices:
        if self._search is None:
            raise ApiError(404, "search is not served here")
        if not self._search.shards:
            raise UnavailableError("search is starting")
        return self._search

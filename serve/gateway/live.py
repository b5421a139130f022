"""The live models: follow which they are, choose one for a request, change and describe them.

Every answer comes from a single version. If a replica has not loaded the version that was chosen,
the whole request is sent again for another version, never just the rest of it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, get_args

from seqvis.errors import SeqvisError, redacted
from serve.common.http import ApiError, UnavailableError
from serve.common.services import Service, TranslatorService
from serve.common.settings import Application, Roots, Version
from serve.common.versions import (
    FOLLOW_EVERY,
    LiveVersions,
    Store,
    VersionMissingError,
    change,
    version_key,
)
from serve.gateway.clients import SearchServices

T = TypeVar("T")

READY_WITHIN = 0.9  # seconds in which an application must say that it is ready

_log = logging.getLogger("ray.serve")


class LiveModels:
    """The live versions of each application, and the services that have them."""

    def __init__(
        self,
        store: Store,
        translator: TranslatorService | None,
        search: SearchServices | None,
        roots: Roots | None = None,
    ):
        """`roots`: where models may come from; by default where the configured ones are."""
        self._store = store
        self._translator = translator
        self._search = search
        self._roots = roots or Roots()
        self._live: dict[Application, LiveVersions] = {}
        self._switching = asyncio.Lock()
        self.draining = False  # whether the server is being stopped
        self._read_once = asyncio.Event()  # whether the store was read, or failed to be

    async def follow(self) -> None:
        """Read the live versions twice a second, for ever."""
        while True:
            try:
                await self.refresh()
            except Exception:  # the head node may be away; what was live stays
                _log.exception("cannot read which models are live")
                self._read_once.set()
            await asyncio.sleep(FOLLOW_EVERY)

    async def wait_until_ready(self) -> None:
        """Wait until the live versions were read once, so that a new gateway accepts requests."""
        await self._read_once.wait()

    async def refresh(self) -> None:
        """Read which versions are live now, and whether the server is being stopped."""
        self.draining = await asyncio.to_thread(self._store.draining)
        for application in self._served():
            live = await asyncio.to_thread(self._store.read, application)
            if live is not None:
                self._live[application] = live
        self._read_once.set()
        if self._search is not None:
            await self._search.find_shards()

    async def models(self) -> dict[str, Any]:
        """Return what is live, for GET /v1/models."""
        served = self._served()
        return {
            application: await self.application(application) if application in served else None
            for application in get_args(Application)
        }

    async def application(self, application: Application) -> dict[str, Any]:
        """Return what is live of one application."""
        live = self.live_versions(application)
        # The encoder is not asked: it may have no replica, and would be started for it.
        services: Sequence[Service] = (
            [self.translator_service()]
            if application == "translator"
            else self.search_services().shards
        )
        reports = await asyncio.gather(*(service.describe() for service in services))
        versions = []
        for version in live.versions:
            described = [report["versions"].get(version_key(version)) for report in reports]
            loaded = [fields for fields in described if fields is not None]
            merged = {name: value for fields in loaded for name, value in fields.items()}
            if "items" in merged:
                merged["items"] = sum(fields["items"] for fields in loaded)
            paths = [redacted(path) for path in version.paths]
            shown = {**version.model_dump(), "path": paths if len(paths) > 1 else paths[0]}
            versions.append({**shown, "ready": len(loaded) == len(described), "about": merged})
        refused = {
            redacted(key): redacted(reason)
            for report in reports
            for key, reason in report["refused"].items()
        }
        if live.refused:
            refused["user_config"] = live.refused
        return {"versions": versions, "refused": refused}

    async def change(self, application: Application, versions: Sequence[Version]) -> None:
        """Make these versions live, once a replica of every deployment has loaded and tried them.

        Raises ApiError if one cannot be used (422, bad_artifact) or may not be loaded from where
        it is (403); then nothing changes.
        """
        if application not in self._served():
            raise ApiError(404, f"{application} is not served here")
        async with self._switching:
            live = self.live_versions(application)
            await asyncio.to_thread(self._check_paths, live, versions)
            keys = {version_key(version) for version in live.versions}
            for version in versions:
                if version_key(version) not in keys:
                    await self._try(application, version)
            await asyncio.to_thread(change, self._store, application, versions)
            await self.refresh()

    async def ready(self) -> dict[str, bool]:
        """Return whether each application answers, which is known within a second."""
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

    def _check_paths(self, live: LiveVersions, versions: Sequence[Version]) -> None:
        """Raise ApiError if a path may not be loaded. One that was live before is not checked."""
        configured = [path for version in live.configured for path in version.paths]
        known = {*configured, *(path for version in live.all() for path in version.paths)}
        for version in versions:
            for path in version.paths:
                if path not in known:
                    self._roots.check(version.name, path, configured)

    async def _try(self, application: Application, version: Version) -> None:
        services: Sequence[Service]
        if application == "translator":
            services = [self.translator_service()]
        else:
            search = self.search_services()
            services = [search.encoder, *search.shards, search.writer]
        for service in services:
            try:
                await service.try_version(version)
            except UnavailableError:
                raise
            except Exception as error:
                raise ApiError(
                    422, f"{version.name}: cannot be used ({error})", "bad_artifact"
                ) from error

    async def ask(
        self, application: Application, name: str | None, ask: Callable[[str], Awaitable[T]]
    ) -> tuple[str, T]:
        """Call `ask` with versions' keys in turn, until one is loaded wherever it is needed.

        Returns the version's name and the answer.
        """
        for version in self.order(application, name):
            try:
                return version.name, await ask(version_key(version))
            except VersionMissingError:
                continue
        raise UnavailableError("the model is being loaded")

    def order(self, application: Application, name: str | None) -> list[Version]:
        """Return the version to ask, then those to ask if it is not loaded."""
        live = self.live_versions(application)
        if name is None:
            shares = [version.share for version in live.versions]
            chosen = random.choices(live.versions, shares)[0]
            return [chosen, *(version for version in live.all() if version is not chosen)]
        named = [version for version in live.all() if version.name == name]
        if not named:
            there = ", ".join(version.name for version in live.versions)
            raise ApiError(404, f"no model is called {name}; there are: {there}")
        return named

    def live_versions(self, application: Application) -> LiveVersions:
        """Return what is live. Raises UnavailableError as long as this is not known."""
        if application not in self._live:
            raise UnavailableError(f"{application} is starting")
        return self._live[application]

    def _served(self) -> list[Application]:
        services = {"translator": self._translator, "search": self._search}
        return [name for name in get_args(Application) if services[name] is not None]

    def translator_service(self) -> TranslatorService:
        if self._translator is None:
            raise ApiError(404, "translation is not served here")
        return self._translator

    def search_services(self) -> SearchServices:
        if self._search is None:
            raise ApiError(404, "search is not served here")
        if not self._search.shards:
            raise UnavailableError("search is starting")
        return self._search

"""A front: the interface in a replica that takes HTTP, kept up to date.

Every replica of the gateway is one. A replica of the translator that has a route is one too, so
that what it answers need not cross the gateway. All have the gateway's settings and keys, which the
gateway publishes in the head node's store.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from ray import serve
from starlette.types import Receive, Scope, Send

from seqvis.config import Settings
from seqvis.errors import ConfigError
from seqvis.ray_internals import serve_logs_folder
from serve.common.http import ApiError, UnavailableError
from serve.common.keys import KeyFile, KeyHolder, Keys
from serve.common.metrics import RequestMetrics
from serve.common.services import TranslatorService
from serve.common.settings import GatewaySettings, TranslateOptions, Version
from serve.common.versions import FOLLOW_EVERY, FrontReport, Store
from serve.gateway.access import KEY_FILE, audit_keys, audited, write_audit_to
from serve.gateway.clients import Places
from serve.gateway.live import LiveModels
from serve.gateway.routes import build_api

T = TypeVar("T")

KEYS_EVERY = 1.0  # seconds between looks at the file of keys

_log = logging.getLogger("ray.serve")


class FrontSettings(Settings):
    """What every front needs to know."""

    gateway: GatewaySettings
    holders: tuple[KeyHolder, ...] | None
    """Of the keys; None: only this machine may ask."""


class Front:
    """The interface as an ASGI application, and what follows the other processes meanwhile."""

    def __init__(
        self,
        settings: FrontSettings,
        live: LiveModels,
        store: Store,
        metrics: RequestMetrics,
        name: str,
        key_file: KeyFile | None = None,
    ):
        """
        Args:
            name: of this replica, unlike all others.
            key_file: of the keys, which are taken from there, and published, when it changes.
        """
        self._settings = settings
        keys = None if settings.holders is None else Keys(settings.holders)
        self._live = live
        self._store = store
        self._name = name
        self._api = build_api(live, settings.gateway, keys, metrics.count)
        self._key_file = key_file
        self._following: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._following:
            loop = asyncio.get_running_loop()
            follow = self._live.follow(), self._report(), self._follow_keys()
            self._following = [loop.create_task(work) for work in follow]
        await self._live.wait_until_ready()
        await self._api(scope, receive, send)

    def use_keys(self, keys: Keys) -> None:
        """Accept these keys from now on, in place of those of before."""
        self._api.use_keys(keys)

    def stop(self) -> None:
        """Stop following. Requests under way go on."""
        for task in self._following:
            task.cancel()

    async def _follow_keys(self) -> None:
        """Take the keys of a file that changes; those of before stay if it cannot be used."""
        while self._key_file is not None:
            await asyncio.sleep(KEYS_EVERY)
            try:
                keys = await asyncio.to_thread(self._key_file.changed)
                if keys is not None and keys.holders != self._settings.holders:
                    await self._change_keys(keys)
            except ConfigError as error:
                _log.error(json.dumps({"keys": "refused", "reason": str(error)}))
                with suppress(ApiError), audited("keys", KEY_FILE):
                    raise ApiError(422, str(error)) from error
            except Exception:  # the head node may be away
                _log.exception("cannot read or publish the keys")

    async def _change_keys(self, keys: Keys) -> None:
        audit_keys(self._settings.holders or (), keys.holders)
        self.use_keys(keys)
        self._settings = self._settings.model_copy(update={"holders": keys.holders})
        published = self._settings.model_dump_json()
        await asyncio.to_thread(self._store.publish_gateway, published)

    async def _report(self) -> None:
        """Exchange, twice a second, what was granted to keys; while draining, what is under way."""
        while True:
            if self._api.limiter.has_limits or self._live.draining:
                try:
                    await self._exchange()
                except Exception:  # the head node may be away
                    _log.exception("cannot exchange what is granted to keys")
            await asyncio.sleep(FOLLOW_EVERY)

    async def _exchange(self) -> None:
        api = self._api
        report = FrontReport(
            granted=dict(api.limiter.granted),
            under_way=api.under_way,
            draining=self._live.draining,
        )
        await asyncio.to_thread(self._store.report, self._name, report)
        reports = await asyncio.to_thread(self._store.reports)
        api.limiter.note(
            {name: report.granted for name, report in reports.items() if name != self._name}
        )


class OwnTranslator(TranslatorService):
    """The translator of this process, with the limits of places and time of a remote one."""

    def __init__(self, translator: TranslatorService, timeout: float, most: int):
        """
        Args:
            timeout: seconds after which a call, or the next item of a stream, is given up.
            most: as in `Places`.
        """
        self._translator = translator
        self._timeout = timeout
        self._places = Places("Translator", most)

    async def describe(self) -> dict[str, Any]:
        return await self._translator.describe()

    async def try_version(self, version: Version) -> None:
        await self._translator.try_version(version)

    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        with self._places.taken():
            return await self._in_time(self._translator.translate(version, texts, options))

    async def stream(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> AsyncIterator[dict[str, Any]]:
        items = self._translator.stream(version, texts, options)
        with self._places.taken():
            while True:
                try:
                    item = await self._in_time(anext(items))
                except StopAsyncIteration:
                    return
                yield item

    async def detect(self, version: str, texts: Sequence[str]) -> list[dict[str, float]]:
        with self._places.taken():
            return await self._in_time(self._translator.detect(version, texts))

    async def _in_time(self, answer: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                return await answer
        except TimeoutError:
            raise UnavailableError("Translator does not answer in time") from None


class PublishedFront:
    """A front around a translator of this process, with the settings that the gateway publishes."""

    def __init__(self, translator: TranslatorService, store: Store, name: str):
        """`name`: as in `Front`."""
        self._translator = translator
        self._store = store
        self._name = name
        self._metrics = RequestMetrics()
        self._published: str | None = None
        self._settings: FrontSettings | None = None
        self._front: Front | None = None
        self._known = asyncio.Event()
        self._following: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())
        if scope["type"] == "lifespan":  # the replica starts, whether or not there is a gateway
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        await self._known.wait()
        assert self._front is not None
        # Serve takes the application's route for a place that it is mounted at.
        await self._front({**scope, "root_path": ""}, receive, send)

    async def _follow(self) -> None:
        while True:
            try:
                published = await asyncio.to_thread(self._store.gateway)
                if published is not None and published != self._published:
                    self._use(FrontSettings.model_validate_json(published))
                    self._published = published
            except Exception:  # the head node may be away; what was published stays
                _log.exception("cannot read the gateway's settings")
            await asyncio.sleep(FOLLOW_EVERY)

    def _use(self, settings: FrontSettings) -> None:
        before, self._settings = self._settings, settings
        if self._front is not None:
            if settings.holders is not None and before and settings.gateway == before.gateway:
                self._front.use_keys(Keys(settings.holders))
                return
            self._front.stop()
        gateway = settings.gateway
        own = OwnTranslator(self._translator, gateway.timeout_s, gateway.under_way.translator)
        live = LiveModels(self._store, own, None)
        self._front = Front(settings, live, self._store, self._metrics, self._name)
        self._known.set()


def front_of(translator: TranslatorService, store: Store) -> PublishedFront:
    """Return the front of a replica that translates. Call it in the replica."""
    name = serve.get_replica_context().replica_id.unique_id
    write_audit_to(serve_logs_folder() / f"audit_translator_{name}.log")
    return PublishedFront(translator, store, name)

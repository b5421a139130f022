"""The deployment Gateway: the HTTP front of the applications. It loads no model.

A change of `user_config` (settings.GatewayUserConfig) is carried out like one made through the API:
the models are loaded and tried, then switched. A model that cannot be used is logged and shown by
GET /v1/models, and nothing changes.
"""

import asyncio
import json
import logging
from typing import Any, TypeVar

from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from seqvis.config import explain
from seqvis.errors import SeqvisError
from seqvis.ray_internals import keep_replica_local, serve_logs_folder
from serve.common.http import ApiError
from serve.common.keys import KeyFile, keys_for
from serve.common.metrics import RequestMetrics
from serve.common.settings import Application, GatewaySettings, GatewayUserConfig, Roots, Versions
from serve.common.versions import Store, change, refuse
from serve.gateway.access import audit_keys, changing_models, write_audit_to
from serve.gateway.clients import (
    RemoteEncoder,
    RemoteIndex,
    RemoteReplica,
    RemoteTranslator,
    RemoteWriter,
    SearchServices,
)
from serve.gateway.front import Front, FrontSettings
from serve.gateway.live import LiveModels

R = TypeVar("R", bound=RemoteReplica)

_RETRY_CONFIG = 5.0  # seconds until a configured switch is tried again while replicas start

_log = logging.getLogger("ray.serve")


class GatewayReplica:
    """One replica of the gateway."""

    UserConfig = GatewayUserConfig

    def __init__(self, settings: GatewaySettings):
        keep_replica_local()
        replica = serve.get_replica_context().replica_id.unique_id
        write_audit_to(serve_logs_folder() / f"audit_gateway_{replica}.log")
        most = settings.under_way

        def remote(client: type[R], name: str, application: Application, most: int) -> R:
            handle = serve.get_deployment_handle(name, application)
            control: DeploymentHandle[Any] = DeploymentHandle(name, application)
            return client(handle, control, settings.timeout_s, most)

        search = translator = None
        if settings.translator:
            translator = remote(RemoteTranslator, "Translator", "translator", most.translator)
        if settings.search:
            search = SearchServices(
                remote(RemoteEncoder, "Encoder", "search", most.encoder),
                remote(RemoteWriter, "Writer", "search", most.writer),
                lambda shard: remote(RemoteIndex, f"Index-{shard}", "search", most.index),
            )
        self._store = Store()
        self._live = LiveModels(self._store, translator, search, Roots(settings.model_roots))
        file = KeyFile(settings.keys, settings.legacy_keys) if settings.keys else None
        keys = keys_for(settings.keys, settings.host, legacy=settings.legacy_keys)
        if keys:
            audit_keys((), keys.holders)
        front = FrontSettings(gateway=settings, holders=keys and keys.holders)
        self._store.publish_gateway(front.model_dump_json())
        self._front = Front(front, self._live, self._store, RequestMetrics(), replica, file)
        self._tasks: set[asyncio.Task[None]] = set()
        self._configured: dict[str, Any] = {}

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application that Serve runs for this replica."""
        return self._front

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Carry out a `user_config`. It never raises: Serve would restart the replica."""
        try:
            user_config = GatewayUserConfig.model_validate(config)
        except ValidationError as error:
            reason = "; ".join(explain(error, GatewayUserConfig, flags=False))
            _log.error(json.dumps({"user_config": "refused", "reason": reason}))
            return
        chosen: list[tuple[Application, Versions | None]] = [
            ("translator", user_config.translator),
            ("search", user_config.search),
        ]
        for application, versions in chosen:
            if versions is not None and self._configured.get(application) != versions:
                self._configured[application] = versions
                task = asyncio.get_running_loop().create_task(self._switch(application, versions))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _switch(self, application: Application, versions: Versions) -> None:
        """Make the configured versions live, once the replicas answer."""
        while self._configured.get(application) == versions:
            live = await asyncio.to_thread(self._store.read, application)
            if live is not None and live.configured == versions.versions:
                return
            try:
                await self._live.refresh()
                with changing_models(application, versions.versions, "user_config"):
                    await self._live.change(application, versions.versions)
                await asyncio.to_thread(
                    change, self._store, application, versions.versions, versions.versions
                )
                return
            except ApiError as error:
                _log.error(json.dumps({"user_config": "refused", "reason": str(error)}))
                await asyncio.to_thread(refuse, self._store, application, str(error))
                return
            except SeqvisError:
                await asyncio.sleep(_RETRY_CONFIG)

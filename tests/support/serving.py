"""The gateway with its parts in one process: the real models and routes, without Ray."""

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from seqvis.collection.shards import shard_paths
from serve.common.keys import Keys
from serve.common.metrics import RequestRecord
from serve.common.settings import Application, GatewaySettings, ImageSearchSettings, Roots
from serve.common.versions import FrontReport, LiveVersions, Store
from serve.gateway.clients import SearchServices
from serve.gateway.live import LiveModels
from serve.gateway.routes import build_api
from serve.replicas.collection import IndexReplica, WriterReplica
from serve.replicas.encoder import EncoderReplica
from serve.replicas.translator import TranslatorReplica, TranslatorSettings

LOCAL = "http://127.0.0.1:8000"


class MemoryStore(Store):
    """Keeps what is wanted in this process."""

    def __init__(self) -> None:
        self._kept: dict[str, LiveVersions] = {}
        self._published: str | None = None
        self._reports: dict[str, FrontReport] = {}
        self.ends = False

    def read(self, application: Application) -> LiveVersions | None:
        return self._kept.get(application)

    def write(self, application: Application, wanted: LiveVersions) -> None:
        self._kept[application] = wanted

    def draining(self) -> bool:
        return self.ends

    def publish_gateway(self, settings: str) -> None:
        self._published = settings

    def gateway(self) -> str | None:
        return self._published

    def announce_draining(self, draining: bool) -> None:
        self.ends = draining

    def report(self, front: str, report: FrontReport) -> None:
        self._reports[front] = report

    def reports(self) -> dict[str, FrontReport]:
        return dict(self._reports)


@dataclass
class Served:
    """A running gateway: a client of it, and what it is made of."""

    client: TestClient
    live: LiveModels
    store: MemoryStore
    seen: list[RequestRecord]


@contextmanager
def served(
    translator: str | Sequence[str] | None,
    collection: Path | None,
    keys: Keys | None = None,
    **settings: Any,
) -> Iterator[Served]:
    """A gateway over a translator and a collection (or its shards)."""
    store, seen = MemoryStore(), []
    translating = search = None
    if translator:
        translating = TranslatorReplica(TranslatorSettings(model=translator), store)
    if collection:
        shards = len(shard_paths(collection))
        chosen = ImageSearchSettings(collection=str(collection), shards=shards, recall_sample=1.0)
        index = [IndexReplica(chosen, shard, store) for shard in range(shards)]
        search = SearchServices(
            EncoderReplica(chosen, store=store), WriterReplica(chosen, store), index.__getitem__
        )
    gateway = GatewaySettings(**settings)
    live = LiveModels(store, translating, search, Roots(gateway.model_roots))
    api = build_api(live, gateway, keys, seen.append)
    with TestClient(api, base_url=LOCAL, client=("127.0.0.1", 50000)) as client:
        client.portal.call(live.refresh)
        yield Served(client, live, store, seen)


@contextmanager
def listening(app: Any) -> Iterator[str]:
    """The address of a real server of an ASGI application, on a free port of loopback."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, and what arrives at it."""
    arrived: list[bytes] = []
    open_at = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                connection, _ = open_at.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                arrived.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\nconnection: close\r\n\r\n")

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield open_at.getsockname()[1], arrived
    finally:
        open_at.shutdown(socket.SHUT_RDWR)
        open_at.close()
        thread.join(5)


def error_of(response: Any, status: int, code: str) -> dict[str, Any]:
    """The error in an answer, checked for its form."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in response.text
    return error

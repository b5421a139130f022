"""Serve a translator and a search of pictures.

On this machine, or as applications of a Serve YAML:

    seqvis serve --translator runs/translator --collection runs/collection
    serve deploy serve/config/gpu.yaml

A YAML finds here the functions `translator`, `search` and `gateway` (serve/applications.py); their
`args` are the settings they take. What loads Ray is imported where it is used, so that `--help` and
messages about flags come at once.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from pydantic import Field, field_validator, model_validator

from seqvis import artifacts
from seqvis.checks import require_extra
from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.cluster import amount, can_grow, ray_session
from seqvis.collection.shards import describe, shard_paths
from seqvis.config import Texts
from seqvis.errors import ConfigError, ServingError
from seqvis.process import usable_processors
from seqvis.ray_internals import hide_controllers_end
from serve import NEEDS
from serve.common import tracing
from serve.common.keys import keys_for
from serve.common.settings import GatewaySettings, ImageSearchSettings, Replicas
from serve.common.versions import FOLLOW_EVERY, Store
from serve.environment import server_environment

if TYPE_CHECKING:
    from ray.serve.api import RunTarget

    from serve.applications import gateway, search, translator

__all__ = ["Serve", "gateway", "run", "search", "serving", "translator"]

_LAST_BYTES = 0.5  # seconds for what a gateway has answered to pass the proxy
_NOTICED = 3 * FOLLOW_EVERY  # seconds in which all that take requests notice it and say so
_LOGGING = {"enable_access_log": False, "encoding": "JSON"}  # the gateway writes its own


def __getattr__(name: str) -> Any:
    """Return one of the functions that a Serve YAML finds here."""
    if name not in ("gateway", "search", "translator"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from serve import applications

    return getattr(applications, name)


class Serve(JobSettings):
    """Serves a translator and a search of pictures on this machine, until Ctrl-C.

    The page, the interface and its documentation are at the address that is printed.
    """

    translator: Texts = ()
    """Directory or URI that train_translator wrote, or several, which translate together."""
    collection: str | None = None
    """Directory that build_index wrote, or one of shards."""
    host: str = "127.0.0.1"
    """Address to listen at; any but this machine's own needs --keys."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to listen at."""
    keys: str | None = None
    """File of API keys; seqvis make-key makes one."""
    legacy_keys: bool = False
    """Keys in the file without scopes keep their old meaning, all but admin unless admin: true."""
    model_roots: tuple[str, ...] = ()
    """Directories or URIs that other models may be made live from; by default those around what
    is served."""
    min_confidence: float = Field(0.0, ge=0, le=1)
    """Translations of less confidence are refused, unless a request asks otherwise."""
    traces: str | None = None
    """Address to which traces go by OTLP over HTTP, such as http://localhost:4318."""
    trace_share: float = Field(0.01, gt=0, le=1)
    """Share of the requests that are traced, with --traces; those that a client traces always
    are."""
    attribution: str | None = None
    """Whose pictures these are, shown by the page."""
    use_gpu: bool = False
    """Translate, embed pictures and search on GPUs; searches are exact there."""
    gpus_per_replica: float = Field(0.25, gt=0, le=1)
    """Share of a GPU that each replica of the translator, the encoder and the index takes, with
    --use-gpu."""
    translator_replicas: Replicas = Replicas(target=24)
    encoder_replicas: Replicas = Replicas(target=4)
    index_replicas: Replicas = Replicas(target=16)
    gateway_replicas: Replicas = Replicas(target=32)
    drain_s: float = Field(30.0, ge=0, le=3600)
    """Seconds that requests under way have to end after Ctrl-C or SIGTERM."""

    @field_validator("traces")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError(f"{value} is no address; give one such as http://localhost:4318")
        return value

    @model_validator(mode="after")
    def _something(self) -> "Serve":
        if not (self.translator or self.collection):
            raise ValueError("give --translator, --collection or both")
        return self


def run(settings: Serve) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish what is under way."""
    say = partial(print, file=sys.stderr, flush=True)
    with serving(settings) as address:
        say(f"\n{address}/       the page\n{address}/docs   the interface\n\nCtrl-C stops it.")
        wait_for_signal()
        say(f"stopping; what is under way has {settings.drain_s:g} s")


def free_port(preferred: int = 0, host: str = "127.0.0.1") -> int:
    """Return `preferred` if it is free, else another port."""
    for port in (preferred, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    raise ConfigError(f"no port of {host} is free")


@contextmanager
def serving(settings: Serve) -> Iterator[str]:
    """Serve for the length of the block; yields the address.

    At its end, also if it is interrupted while the last of it starts, requests under way have
    `drain_s` seconds. Raises ConfigError if the port is taken or strangers could ask without a
    key, SeqvisError if an artifact cannot be used.
    """
    require_extra("serve", *NEEDS)
    keys_for(settings.keys, settings.host, legacy=settings.legacy_keys)
    if settings.traces:
        os.environ.update(tracing.environment(settings.traces, settings.trace_share))
    from seqvis.translation.confidence import CALIBRATION  # loads PyTorch

    # Starting Ray takes ten seconds, so what is missing is found before.
    for path in settings.translator:
        artifact = artifacts.load(_absolute(path), "translator", verify=False)
        if settings.min_confidence and CALIBRATION not in artifact.files:
            raise ConfigError(
                f"--min-confidence: {path} is not calibrated, so it does not know how sure it is; "
                "seqvis evaluate-translator --calibrate adds that"
            )
    if settings.collection:
        describe(_absolute(settings.collection))
    _check_port(settings.host, settings.port)
    with tempfile.TemporaryDirectory(prefix="sv-", dir="/tmp") as folder:  # sockets: a short path
        for name, value in server_environment(Path(folder)).items():
            os.environ.setdefault(name, value)
        with _served(settings) as address:
            yield address


@contextmanager
def _served(settings: Serve) -> Iterator[str]:
    from ray import serve
    from ray.serve.config import HTTPOptions

    address = f"http://{settings.host}:{settings.port}"
    with ExitStack() as end:
        end.enter_context(hide_controllers_end())
        end.enter_context(ray_session(num_cpus=max(4, usable_processors())))
        _check_gpus(settings)
        Store().announce_draining(False)
        end.callback(serve.shutdown)
        serve.start(http_options=HTTPOptions(host=settings.host, port=settings.port))
        end.callback(drain, settings.drain_s)
        _start(list(_applications(settings)))
        yield address


def drain(seconds: float) -> None:
    """Refuse new requests, and wait for those under way as long as they may take.

    Everything that takes requests refuses them with 503 `draining`, and reports how many it still
    works on. Without a gateway, as when a server is stopped while it starts, there are none.
    """
    store, began = Store(), time.time()
    store.announce_draining(True)
    until = began + seconds
    time.sleep(min(seconds, _NOTICED))
    while any(
        report.under_way
        for report in store.reports().values()
        if report.draining and report.at > began
    ):
        if time.time() > until:
            print("not all of it ended in time", file=sys.stderr, flush=True)
            return
        time.sleep(0.1)
    time.sleep(_LAST_BYTES)


def wait_for_signal() -> None:
    """Return at Ctrl-C or SIGTERM; the next one ends the process at once."""
    stop = threading.Event()

    def use(handler: Callable[[int, FrameType | None], None]) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, handler)

    def handler(signum: int, frame: FrameType | None) -> None:
        use(signal.default_int_handler)
        stop.set()

    use(handler)
    while not stop.wait(1.0):
        pass


def _start(targets: "list[RunTarget]") -> None:
    """Start all at once. Raises ServingError with what the replicas say if one cannot start."""
    from ray import serve

    try:
        serve.run_many(targets)
    except RuntimeError as error:
        problems = [
            deployment.message.strip().splitlines()[-1]
            for application in serve.status().applications.values()
            for deployment in application.deployments.values()
            if deployment.message
        ]
        raise ServingError("; ".join(problems) or str(error)) from error


def _applications(settings: Serve) -> "Iterator[RunTarget]":
    from ray.serve.api import RunTarget

    from serve.applications import TRANSLATE_ROUTE, build_gateway, build_search, build_translator
    from serve.replicas.translator import TranslatorSettings

    gpus = settings.gpus_per_replica
    if settings.translator:
        model = tuple(map(_absolute, settings.translator))
        app = build_translator(
            TranslatorSettings(model=model, use_gpu=settings.use_gpu),
            settings.translator_replicas,
            gpus,
        )
        yield RunTarget(app, "translator", TRANSLATE_ROUTE, _LOGGING)
    if settings.collection:
        path = _absolute(settings.collection)
        app = build_search(
            ImageSearchSettings(
                collection=path,
                shards=len(shard_paths(path)),
                attribution=settings.attribution,
                encoder_on_gpu=settings.use_gpu,
                index_on_gpu=settings.use_gpu,
            ),
            settings.encoder_replicas,
            settings.index_replicas,
            gpus,
        )
        yield RunTarget(app, "search", None, _LOGGING)
    app = build_gateway(
        GatewaySettings(
            translator=bool(settings.translator),
            search=bool(settings.collection),
            keys=settings.keys and _absolute(settings.keys),
            legacy_keys=settings.legacy_keys,
            model_roots=tuple(map(_absolute, settings.model_roots)),
            host=settings.host,
            min_confidence=settings.min_confidence,
        ),
        settings.gateway_replicas,
    )
    yield RunTarget(app, "gateway", "/", _LOGGING)


def _check_gpus(settings: Serve) -> None:
    """Raise ConfigError if this Ray has not the GPUs that the replicas need at the start."""
    if not settings.use_gpu or can_grow():
        return
    replicas = settings.translator_replicas.min if settings.translator else 0
    if settings.collection:
        shards = len(shard_paths(_absolute(settings.collection)))
        replicas += settings.encoder_replicas.min + shards * settings.index_replicas.min
    there, on_each = amount("GPU"), int(1 / settings.gpus_per_replica)
    if replicas > there * on_each:
        raise ConfigError(
            f"--use-gpu: {replicas} replicas, {on_each} on a GPU, do not fit on the {there} GPUs "
            f"that Ray finds here; give each a smaller share (--gpus-per-replica), or leave "
            f"--use-gpu out"
        )


def _check_port(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ConfigError(f"--port {port}: cannot listen there ({error}); give another") from error


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


main = partial(run_job, Serve, run)

if __name__ == "__main__":
    leave(main())

"""What serving costs and gains: the interface beside an empty deployment of Ray Serve, and
in-flight batching beside translating one sentence at a time.

    python -m benchmarks.serving gateway
    python -m benchmarks.serving batching --translator runs/translator --sentences sentences.fr

Both sides of a comparison run in the same minutes, in turn. The median of the rounds is printed,
latencies in ms.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import requests
import torch
from fastapi import FastAPI
from pydantic import BaseModel
from ray import serve

from benchmarks.instrument import in_a_process, rate
from seqvis.client import Client
from seqvis.config import Settings
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.search import search_many
from seqvis.translation.translator import Translator
from serve.app import free_port
from serve.common.services import TranslatorService
from serve.common.settings import TranslateOptions, Version
from serve.common.versions import Store, configure, version_key
from serve.gateway.front import PublishedFront, front_of
from serve.testing.clients import Kind, Request, Traffic
from serve.testing.server import RunningServer, local_config, run_config

CLIENTS = (1, 8, 32)
_DEFAULTS = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    "RAY_worker_niceness": "0",  # both sides have the machine's usual priority
}
"""Ray Serve as it comes."""
_VERSION = Version(name="default", path="stub")
_SOURCE = "Où travaille ta sœur ?"
_TRANSLATION = {
    "source": _SOURCE,
    "source_tokens": ["_cap_", "où", "travaille", "ta", "sœur", "?"],
    "text": "Where does your sister work?",
    "refused": None,
    "candidates": [
        {
            "text": "Where does your sister work?",
            "tokens": ["_cap_", "where", "does", "your", "sister", "work", "?"],
            "score": -0.1629,
            "complete": True,
            "attention": None,
        }
    ],
}

Figures = dict[str, Any]


class NoSettings(Settings):
    """The stubs have no settings."""


class StubTranslator(TranslatorService):
    """Answers like a translator's replica, at once."""

    def __init__(self) -> None:
        self._store = Store()
        configure(self._store, "translator", [_VERSION])

    def __serve_build_asgi_app__(self) -> PublishedFront:
        return front_of(self, self._store)

    async def translate(
        self, version: str, texts: Sequence[str], options: TranslateOptions
    ) -> list[dict[str, Any]]:
        return [_TRANSLATION for _ in texts]

    async def describe(self) -> dict[str, Any]:
        return {"versions": {version_key(_VERSION): {}}, "refused": {}}


api = FastAPI()


class TranslateBody(BaseModel):
    text: str


@serve.ingress(api)
class Empty:
    """An empty FastAPI deployment with the gateway's answer."""

    @api.post("/v1/translate")
    async def translate(self, body: TranslateBody) -> dict[str, Any]:
        return {"model": "default", "translations": [_TRANSLATION]}


def stub_translator(settings: NoSettings) -> serve.Application:
    """Build the application `translator` with a stub in it."""
    return _deployed("Translator", serve.ingress()(StubTranslator))


def stub_empty(settings: NoSettings) -> serve.Application:
    """Build an application of the empty deployment alone."""
    return _deployed("Empty", Empty)


def _deployed(name: str, stub: type) -> serve.Application:
    options = {"num_cpus": 0.1}
    deploy = serve.deployment(name=name, max_ongoing_requests=256, ray_actor_options=options)
    return deploy(stub).bind()


def measure_gateway(seconds: float, rounds: int) -> Figures:
    """Measure a request that a stub of the translator answers, beside an empty deployment."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        tuned = stack.enter_context(run_config(_stub_config(), Path(folder) / "tuned"))
        plain = stack.enter_context(run_config(_stub_config(), Path(folder) / "plain", _DEFAULTS))
        sides = {
            "empty, Serve as it comes": f"{plain.address}/empty",
            "empty, tuned": f"{tuned.address}/empty",
            "ours, tuned": tuned.address,
        }
        for server in (tuned, plain):
            url = f"{server.address}/empty/v1/translate"
            server.wait(partial(_answers, url), 120, f"{url} does not answer")
        table: Figures = {}
        for clients in CLIENTS:
            loads: dict[str, list[Figures]] = {name: [] for name in sides}
            for _ in range(rounds):
                for name, address in sides.items():
                    loads[name].append(load(address, [_SOURCE], clients, seconds))
            row: Figures = {name: _median(rows) for name, rows in loads.items()}
            ours = row["ours, tuned"]
            for name in ("empty, Serve as it comes", "empty, tuned"):
                row[f"cost against {name}"] = {
                    "latency": round(ours["p50_ms"] / row[name]["p50_ms"], 2),
                    "processor": round(row[name]["per_second"] / ours["per_second"], 2),
                }
            table[f"{clients} clients"] = row
        return table


def measure_batching(
    translator: str,
    sentences: list[str],
    seconds: float,
    rounds: int,
    beams: Sequence[int],
) -> Figures:
    """Measure requests a second in flight at 32 clients, beside one sentence at a time at 4.

    Greedily also beside one core without a server. Only one side runs at any time: an idle server
    would take its part of the processors from the other, whose share the busier side would miss
    more.
    """
    loads: dict[int, dict[str, list[Figures]]] = {beam: defaultdict(list) for beam in beams}
    written: dict[int, dict[str, list[str]]] = {beam: {} for beam in beams}
    offline: list[float] = []
    for _ in range(rounds):
        offline.append(in_a_process(translate_offline, translator, sentences[:1000]))
        for side, rows in (("one at a time", 1), ("in flight", 256)):
            with (
                tempfile.TemporaryDirectory() as folder,
                run_config(batching_config(translator, rows), Path(folder)) as server,
            ):
                for beam in beams:
                    written[beam][side] = _translate(server, sentences[:200], beam)
                    for clients in (4, 32):
                        figures = load(server.address, sentences, clients, seconds, beam)
                        loads[beam][f"{side}, {clients} clients"].append(figures)
    table: Figures = {}
    for beam in beams:
        row: Figures = {name: _median(rows) for name, rows in loads[beam].items()}
        base, best = row["one at a time, 4 clients"], row["in flight, 32 clients"]
        row["times as many"] = round(best["per_second"] / base["per_second"], 2)
        row["p99 of both"] = [best["p99_ms"], base["p99_ms"]]
        if beam == 1:
            row["offline, one core"] = round(statistics.median(offline), 1)
            row["of offline"] = round(best["per_second"] / row["offline, one core"], 2)
            row["p99 over 32 / rate"] = round(best["p99_ms"] * best["per_second"] / 32_000, 2)
        both = zip(*written[beam].values(), strict=True)
        row["different translations of 200"] = sum(first != second for first, second in both)
        table[f"beam {beam}"] = row
    return table


def translate_offline(translator: str, sentences: Sequence[str]) -> float:
    """Return the sentences a second that one core translates greedily in batches of 100."""
    torch.set_num_threads(1)
    model = Translator.load(translator)
    sources = sorted((list(source.ids) for source in model.read(sentences)), key=len)
    search = partial(search_many, model.packed, sources, DecodingSettings(), 100)
    search()  # the first run loads kernels
    return rate(len(sources), search)


def _stub_config() -> Figures:
    config = local_config("stub", None, free_port(), args={"gateway": {"access_log": False}})
    translator, gateway = config["applications"]
    translator |= {"import_path": "benchmarks.serving:stub_translator", "args": {}}
    translator["deployments"] = []
    gateway["deployments"] = [{"name": "Gateway", "num_replicas": 1, "max_ongoing_requests": 256}]
    empty = {"name": "empty", "import_path": "benchmarks.serving:stub_empty", "args": {}}
    config["applications"].append({**empty, "route_prefix": "/empty"})
    return config


def batching_config(translator: str, rows: int) -> Figures:
    """Return the config of one gateway and one translator whose batch has up to `rows`."""
    batching = {"max_rows": rows, "max_waiting": 1000}
    return local_config(
        Path(translator).absolute(),
        None,
        free_port(),
        args={"translator": {"batching": batching}, "gateway": {"access_log": False}},
        deployments={
            "Translator": {"num_replicas": 1},
            "Gateway": {"num_replicas": 1, "max_ongoing_requests": 256},
        },
    )


def load(
    address: str, sentences: Sequence[str], clients: int, seconds: float, beam: int = 1
) -> Figures:
    """Translate sentences for a while, each client as fast as its answers come."""

    def request(number: int) -> Request:
        text = sentences[number % len(sentences)]
        return Request("/v1/translate", {"text": text, "beam": beam})

    kind = Kind(request, clients)
    with Traffic(address, {"translate": kind}):
        time.sleep(seconds)
    if kind.outcome.not_good:
        raise RuntimeError(f"{address}: some requests failed: {kind.outcome.not_good}")
    return kind.outcome.summary()


def _answers(url: str) -> bool:
    return requests.post(url, json={"text": "?"}, timeout=60).status_code == 200


def _median(rows: list[Figures]) -> Figures:
    names = ("per_second", "p50_ms", "p99_ms")
    return {name: round(statistics.median(row[name] for row in rows), 1) for name in names}


def _translate(server: RunningServer, sentences: list[str], beam: int) -> list[str]:
    texts: list[str] = []
    with Client(server.address) as client:
        for begin in range(0, len(sentences), 50):
            texts += [
                str(one) for one in client.translate(sentences[begin : begin + 50], beam=beam)
            ]
    return texts


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["gateway", "batching"])
    parser.add_argument("--translator")
    parser.add_argument("--sentences", type=Path, help="a file, a sentence a line")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5])
    flags = parser.parse_args(arguments)
    if flags.what == "gateway":
        table = measure_gateway(flags.seconds, flags.rounds)
    else:
        if not flags.translator or not flags.sentences:
            parser.error("batching needs --translator and --sentences")
        lines = flags.sentences.read_text(encoding="utf-8").splitlines()
        sentences = [line for line in lines if line.strip()][:2000]
        table = measure_batching(
            flags.translator, sentences, flags.seconds, flags.rounds, flags.beams
        )
    print(json.dumps(table, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measurements on a running server that is killed, overloaded, abandoned or upgraded.

Every translation is compared with the offline one, even under the heaviest load. Results are
figures by the words that describe them in the tables of docs/results/serving.md.
"""

import argparse
import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from benchmarks.instrument import as_table
from seqvis.collection.collection import Collection
from seqvis.samples.questions import generate_pairs
from seqvis.translation.translator import Translator
from serve.testing.clients import Kind, Request, Traffic
from serve.testing.server import RunningServer
from serve.testing.traffic import Changes, everyday, faults, persist, searching, translating

TEXTS = [pair[0] for pair in generate_pairs(256, seed=41, held_out=True)]
QUERIES = ("boat", "engine + boat", "flower", "2 * pizza - vegetable")
NEEDED_BY = {
    "Translator": ("translate",),
    "Encoder": ("picture", "change"),
    "Index-0": ("search", "picture"),
    "Writer": ("change",),
    "Gateway": ("translate", "search", "picture", "change"),
}
"""Kinds of clients that cannot be answered without a deployment."""
HEAVY = Request("/v1/translate", {"text": TEXTS[:16], "beam": 4})
_DEEP = '{"a":' * 900 + "1" + "}" * 900
HOSTILE = (
    Request("/v1/search/text", {"query": "boat", "where": {f"k{n}": n for n in range(4000)}}),
    Request("/v1/search/text", {"query": "boat", "where": {"label": ["x" * 100] * 5000}}),
    Request("/v1/search/text", {"query": "\ud800"}),
    Request("/v1/translate", {"text": ["l'" * 1000] * 128, "beam": 8, "attention": True}),
    Request("/v1/translate", {"text": "\ud800"}),
    Request("/v1/images", form={"file": b"\xff\xd8", "metadata": _DEEP}),
    Request("/v1/images", form={"file": b"\xff\xd8", "metadata": '{"a": "' + "x" * 900_000 + '"}'}),
    Request("/v1/images", form={"file": b"\x89PNG\r\n\x1a\n" + bytes(1000)}),
)
"""Requests that must be refused at once with a typed error."""
SLOWEST = 30.0  # seconds after which a slow client gives up

Figures = dict[str, Any]


@dataclass
class SlowClients(Kind):
    """Clients that send a request byte by byte, half of them not even its headers to the end.

    `held` has the seconds after which the server ended each connection.
    """

    held: list[float] = field(default_factory=list)

    async def run(
        self,
        session: aiohttp.ClientSession,
        address: Callable[[], str],
        began: float,
        going: Callable[[], bool],
    ) -> None:
        clients = set()
        for number in itertools.count():
            if not await self.is_due(number, began, going):
                break
            client = asyncio.create_task(self._send_slowly(address(), headers=number % 2 == 0))
            clients.add(client)
            client.add_done_callback(clients.discard)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    async def _send_slowly(self, address: str, headers: bool) -> None:
        parts = urlsplit(address)
        sent = time.monotonic()
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError:
            return
        head = f"POST /v1/translate HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 4000\r\n"
        try:
            writer.write(head.encode() + (b"X-Slow: " if headers else b"\r\n"))
            answered = asyncio.create_task(reader.read())
            while not answered.done() and time.monotonic() - sent < SLOWEST:
                writer.write(b" ")
                await asyncio.wait({answered}, timeout=1.0)
            if not answered.done():
                return
        except OSError:
            pass
        finally:
            writer.close()
        self.held.append(time.monotonic() - sent)


class Faults:
    """The measurements, on one server with a replica of each deployment."""

    def __init__(self, server: RunningServer, translator: str, collection: Path):
        self._server = server
        self._expected = offline(translator)
        self._picture = a_picture(collection)

    def capacity(self, seconds: float) -> Figures:
        """Count answers a second: translations alone, heavy lists alone, all kinds together."""
        together = everyday(self._expected, QUERIES, Changes(_unique("capacity"), self._picture))
        together["translate"].clients = 16
        rates = {}
        for name, kinds in {
            "translations": {"": translating(self._expected, 32)},
            "lists": {"": Kind(lambda number: HEAVY, 8)},
            "together": together,
        }.items():
            with Traffic(self._server.address, kinds):
                time.sleep(seconds)
            rates[name] = {
                each: kind.outcome.summary()["per_second"] for each, kind in kinds.items()
            }
        return {**rates, "translations": rates["translations"][""], "lists": rates["lists"][""]}

    def kill(self, deployment: str, rates: Mapping[str, float], seconds: float) -> Figures:
        """Kill all replicas of a deployment a quarter into the time."""
        changes = Changes(_unique(f"kill-{deployment}"), self._picture)
        kinds = everyday(self._expected, QUERIES, changes, rates)
        with Traffic(self._server.address, kinds) as traffic:
            traffic.wait_good(1)
            time.sleep(seconds / 4)
            at = traffic.now()
            killed = self._server.kill(deployment)
            traffic.wait_good(5)
            self._server.wait_replicas(deployment, len(killed))
            time.sleep(max(0.0, at + 0.75 * seconds - traffic.now()))
        outcomes = {name: kind.outcome for name, kind in kinds.items()}
        needed = NEEDED_BY[deployment]
        again = {name: min(outcomes[name].good_since(at)) - at for name in needed}
        gaps = {n: outcome.longest_gap(at) for n, outcome in outcomes.items() if n not in needed}
        return {
            **seen_by_clients(self._server, kinds, changes),
            "answers again after, s": largest(again),
            "longest gap of what does not need it, s": largest(gaps),
        }

    def overload(self, lists_per_second: float, seconds: float) -> Figures:
        """Send ten times the lists that it can bear, and searches.

        Of the lists a tenth are given up by their clients after 100 ms; as many clients again are
        slow, and as many send what must be refused.
        """
        before = self._server.memory()
        alone = self._seconds_of_a_list()
        rate = 10 * lists_per_second
        heavy = Kind(lambda number: HEAVY, clients=400, per_second=0.9 * rate)
        abandoned = Kind(lambda number: HEAVY, clients=100, per_second=0.1 * rate, patience=0.1)
        hostile = Kind(lambda number: HOSTILE[number % len(HOSTILE)], 100, 0.1 * rate)
        slow = SlowClients(lambda number: HEAVY, per_second=0.1 * rate)
        search = searching(QUERIES, 8, 5)
        kinds = {"heavy": heavy, "search": search}
        wrong = {"abandoned": abandoned, "hostile": hostile, "slow": slow}
        cancelled = self._server.counted("seqvis_cancelled_total")
        most: dict[str, int] = {}
        with Traffic(self._server.address, kinds | wrong) as traffic:
            while traffic.now() < seconds:
                time.sleep(2)
                for name, size in self._server.memory().items():
                    most[name] = max(size, most.get(name, 0))
        ended = time.monotonic()
        persist(self._server, HEAVY)
        answered = time.monotonic() - ended
        while self._seconds_of_a_list() > 2 * alone and time.monotonic() - ended < 60:
            pass
        normal = time.monotonic() - ended
        time.sleep(5)  # until the metrics are exported
        lists, searches = heavy.outcome.summary(), search.outcome.summary()
        typed = sum(400 <= status < 500 or status == 503 for status in hostile.outcome.statuses)
        return {
            "asked for, lists a second": round(len(heavy.outcome.statuses) / seconds),
            "answered": heavy.outcome.count(200),
            "refused with 503": heavy.outcome.count(503),
            "errors": errors(faults(kinds)),
            "answered: p50, p99": f"{lists['p50_ms']} ms, {lists['p99_ms']} ms",
            "refused: p50, p99": f"{lists['refused_p50_ms']} ms, {lists['refused_p99_ms']} ms",
            "searches answered": search.outcome.count(200),
            "searches refused": search.outcome.count(503),
            "searches: p50, p99": f"{searches['p50_ms']} ms, {searches['p99_ms']} ms",
            "hostile requests": len(hostile.outcome.statuses),
            "of them refused with a typed error": typed,
            "the slowest of them, s": round(max(hostile.outcome.latencies), 2),
            "slow clients that were cut off": len(slow.held),
            "the longest of them, s": round(max(slow.held, default=0.0), 1),
            "lists given up": abandoned.outcome.given_up,
            "dropped for it": listed(self._server.counted("seqvis_cancelled_total", cancelled)),
            "memory before, MiB": mebibytes(before),
            "memory at most, MiB": mebibytes(most),
            "memory after, MiB": mebibytes(self._server.memory()),
            "first answer after it, s": round(answered, 1),
            "as quick as before, s": round(normal, 1),
        }

    def abandoned(self, deployment: str, requests: int = 40) -> Figures:
        """Send work for a deployment and close the connections after 100 ms.

        The processor time is of a second before they come, and of the second that begins one
        second after the last has left.
        """
        picture = {"file": self._picture}
        request = {
            "Translator": Request("/v1/translate", {"text": TEXTS[:64], "beam": 8}),
            "Index-0": Request("/v1/search/text", {"query": "boat", "k": 1000}),
            "Encoder": Request("/v1/search/image", form=picture),
            "Writer": Request("/v1/images", form={**picture, "id": "abandoned"}),
        }[deployment]
        idle = self._busy(deployment)
        before = self._server.counted("seqvis_cancelled_total")
        kind = Kind(lambda number: request, requests, patience=0.1)
        with Traffic(self._server.address, {"": kind}):
            time.sleep(1.0)
        time.sleep(1.0)
        busy = self._busy(deployment)
        time.sleep(5)  # until the metrics are exported
        return {
            "requests": kind.outcome.given_up,
            "answered or refused before": len(kind.outcome.statuses),
            "cancelled": self._server.counted("seqvis_cancelled_total", before).get(deployment, 0),
            "busy before, and afterwards, s": f"{idle:.2f}, {busy:.2f}",
        }

    def _busy(self, deployment: str) -> float:
        """Return the processor time that a deployment's replicas use in a second, in seconds."""

        def used() -> float:
            return sum(sum(each.cpu_times()[:2]) for each in self._server.replicas(deployment))

        before = used()
        time.sleep(1.0)
        return used() - before

    def _seconds_of_a_list(self) -> float:
        """Return the median seconds of a heavy list that is translated alone."""
        taken = []
        for _ in range(5):
            began = time.monotonic()
            persist(self._server, HEAVY)
            taken.append(time.monotonic() - began)
        return sorted(taken)[2]


def parser_of(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the flags of the artifacts to serve and of the results."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--translator", type=Path)
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    return parser


@contextmanager
def copy_of(collection: Path) -> Iterator[Path]:
    """Copy a collection, alone into a folder, for as long as the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        yield shutil.copytree(collection, Path(folder) / "collection")


def offline(path: str) -> dict[str, str]:
    """Return a translator's own translations of TEXTS."""
    translations = Translator.load(path).translate(TEXTS)
    return {text: made.text for text, made in zip(TEXTS, translations, strict=True)}


def a_picture(collection: Path) -> bytes:
    """Return the thumbnail of some picture of a collection."""
    with Collection.open(collection, read_only=True) as opened:
        content = opened.thumbnail(next(iter(opened.ids())))
    assert content
    return content


def figures_table(corner: str, rows: Mapping[str, Figures]) -> str:
    """Write figures in Markdown: a row for each name, a column for each figure."""
    heads = [corner, *next(iter(rows.values()))]
    return as_table(heads, *([name, *figures.values()] for name, figures in rows.items()))


def seen_by_clients(server: RunningServer, kinds: Mapping[str, Kind], changes: Changes) -> Figures:
    """Return what all clients together saw, and what became of their changes."""
    outcomes = [kind.outcome for kind in kinds.values()]
    requests = sum(len(outcome.replies) for outcome in outcomes)
    return {
        "requests/s": round(requests / max(outcome.seconds for outcome in outcomes)),
        "errors": errors(faults(kinds, changes)),
        "503": sum(outcome.count(503) for outcome in outcomes),
        "requests lost": sum(outcome.lost for outcome in outcomes),
        "changes lost": f"{len(changes.lost(server))} of {len(changes.acknowledged)}",
    }


def errors(seen: Mapping[str, Any]) -> str:
    """Return what `faults` saw, as a cell of a table."""
    return listed(seen) or "none"


def listed(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())


def largest(seconds: Mapping[str, float]) -> str:
    """Return the largest of some seconds and its owner, as a cell of a table."""
    name = max(seconds, key=lambda each: seconds[each], default="")
    return f"{seconds[name]:.1f} ({name})" if name else ""


def mebibytes(sizes: Mapping[str, int]) -> str:
    return listed({name: size >> 20 for name, size in sorted(sizes.items())})


def _unique(name: str) -> str:
    return f"{name}-{time.time():.0f}"

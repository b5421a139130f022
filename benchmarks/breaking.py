"""The measurements of faults.py that share a server with a replica of each deployment.

In: a running server and the artifacts that it serves. Out: figures, ready for JSON. What would
surprise a reader: every answer is compared with the offline one, also under the heaviest load.

Clients that mean no good, for the mix of a load: slow ones, and requests that cost too much.

Every request of `HOSTILE` is one that the interface must refuse at once, with a typed 4xx.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from seqvis import artifacts
from seqvis.samples.questions import generate_pairs
from seqvis.search.collection import Collection
from seqvis.translation.translator import Translator
from serve.testing.clients import GOOD, Kind, Outcome, Reply, Request, quantile_ms
from serve.testing.load import Traffic
from serve.testing.server import RunningServer
from serve.testing.traffic import Changes, everyday, faults, persist, searching, send, translating

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


class MemoryWatch:
    """Samples the replicas' memory for the length of a `with`."""

    def __init__(self, server: RunningServer, every: float = 2.0):
        self.samples: list[tuple[float, dict[str, int]]] = []
        self._server, self._every = server, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def largest(self) -> dict[str, int]:
        """The most MiB of each deployment."""
        names = {name for _, sample in self.samples for name in sample}
        most = {name: max(one.get(name, 0) for _, one in self.samples) for name in sorted(names)}
        return mebibytes(most)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(self._every):
            self.samples.append((time.monotonic() - began, self._server.memory()))


class Faults:
    """The measurements, on one server with a replica of each deployment."""

    def __init__(self, server: RunningServer, translator: str, collection: Path, folder: Path):
        self._server = server
        self._translator = translator
        self._other = disturbed(translator, folder / "other")
        self._expected = {path: offline(path) for path in (translator, self._other)}
        self._picture = a_picture(collection)

    def capacity(self, seconds: float) -> dict[str, Any]:
        """What it answers in a second: translations alone, heavy lists alone, and everything."""
        light = self._run_for({"": translating(self._expected[self._translator], 32)}, seconds)
        heavy = self._run_for({"": Kind(lambda number: HEAVY, 8)}, seconds)
        changes = Changes(f"capacity-{time.time():.0f}", self._picture)
        mixed = everyday(self._expected[self._translator], QUERIES, changes)
        mixed["translate"].clients = 16
        together = self._run_for(mixed, seconds)
        return {
            "translations_per_second": light[""]["per_second"],
            "lists_per_second": heavy[""]["per_second"],
            "list_p50_ms": heavy[""]["p50_ms"],
            "together": {name: one["per_second"] for name, one in together.items()},
        }

    def kill(self, deployment: str, rates: Mapping[str, float], seconds: float) -> dict[str, Any]:
        """Kills all replicas of a deployment a quarter into the time."""
        changes = Changes(f"kill-{deployment}-{time.time():.0f}", self._picture)
        kinds = everyday(self._expected[self._translator], QUERIES, changes, rates)
        with Traffic(self._server.address, kinds) as traffic:
            traffic.wait_good(1)
            time.sleep(seconds / 4)
            at = traffic.now()
            killed = self._server.kill(deployment)
            traffic.wait_good(5)
            self._server.wait_replicas(deployment, len(killed))
            time.sleep(max(0.0, at + 0.75 * seconds - traffic.now()))
        outcomes = {name: kind.outcome for name, kind in kinds.items()}
        again = {name: _first_good_after(one, at) - at for name, one in outcomes.items()}
        requests = sum(len(one.statuses) for one in outcomes.values())
        return {
            "killed": len(killed),
            "requests": requests,
            "per_second": round(requests / traffic.now(), 1),
            "errors": faults(kinds, changes),
            "refused": sum(one.count(503) for one in outcomes.values()),
            "lost_requests": sum(one.lost for one in outcomes.values()),
            "changes": len(changes.acknowledged),
            "changes_lost": changes.lost(self._server),
            "longest_gap_s": {
                name: round(one.longest_gap(at), 1) for name, one in outcomes.items()
            },
            "recovered_s": {name: round(one, 1) for name, one in again.items()},
        }

    def overload(self, capacity: float, seconds: float) -> dict[str, Any]:
        """Ten times the lists that it can bear, whether they are answered or not; and searches.

        Of the lists a tenth are given up by their clients after 100 ms; as many clients again are
        slow, and as many send what must be refused.
        """
        before = self._server.memory()
        alone = self._alone()
        rate = 10 * capacity
        kind = Kind(lambda number: HEAVY, clients=400, per_second=0.9 * rate)
        left = Kind(lambda number: HEAVY, clients=100, per_second=0.1 * rate, patience=0.1)
        bad = hostile(100, 0.1 * rate)
        slow = SlowClients(0.1 * rate)
        search = searching(QUERIES, 8, 5)
        kinds = {"heavy": kind, "search": search, "left": left, "bad": bad, "slow": slow.as_kind()}
        cancelled = self._server.counted("seqvis_cancelled_total")
        with MemoryWatch(self._server) as memory:
            with Traffic(self._server.address, kinds):
                time.sleep(seconds)
        ended = time.monotonic()
        persist(self._server, HEAVY)
        answered = time.monotonic() - ended
        while self._alone() > 2 * alone and time.monotonic() - ended < 60:
            pass
        normal = time.monotonic() - ended
        time.sleep(5)
        return {
            "asked_per_second": round(len(kind.outcome.statuses) / seconds, 1),
            **kind.outcome.summary(),
            "errors": faults({"heavy": kind, "search": search}),
            "search": search.outcome.summary(),
            "given_up": left.outcome.given_up,
            "cancelled": self._server.counted("seqvis_cancelled_total", cancelled),
            "hostile": refusals(bad),
            "slow": {"held": len(slow.held), "longest_s": round(max(slow.held, default=0.0), 1)},
            "memory_before": mebibytes(before),
            "memory_most": memory.largest(),
            "memory_after": mebibytes(self._server.memory()),
            "first_answer_s": round(answered, 1),
            "normal_s": round(normal, 1),
        }

    def abandoned(self, requests: int = 40) -> dict[str, Any]:
        """Work of every deployment whose clients close their connections after 100 ms.

        `busy_s` is the processor time that the replicas of a deployment use from one second after
        the last client left until two seconds after, beside that of a second before.
        """
        form = {"file": self._picture}
        asked = {
            "Translator": Request("/v1/translate", {"text": TEXTS[:64], "beam": 8}),
            "Index-0": Request("/v1/search/text", {"query": "boat", "k": 1000}),
            "Encoder": Request("/v1/search/image", form=form),
            "Writer": Request("/v1/images", form={**form, "id": "abandoned"}),
        }
        seen = {}
        for deployment, request in asked.items():
            idle = self._busy(deployment)
            before = self._server.counted("seqvis_cancelled_total")
            kind = Kind(lambda number, one=request: one, requests, patience=0.1)  # type: ignore[misc]
            with Traffic(self._server.address, {"": kind}):
                time.sleep(1.0)
            time.sleep(1.0)
            seen[deployment] = {
                "given_up": kind.outcome.given_up,
                "answered": len(kind.outcome.statuses),
                "idle_busy_s": idle,
                "busy_s": self._busy(deployment),
            }
            time.sleep(5)  # until the metrics are exported
            counted = self._server.counted("seqvis_cancelled_total", before)
            seen[deployment]["cancelled"] = counted.get(deployment, 0)
        return seen

    def _busy(self, deployment: str) -> float:
        """Seconds of processor time that a deployment's replicas use in a second."""

        def used() -> float:
            replicas = self._server.replicas(deployment)
            return sum(sum(one.cpu_times()[:2]) for one in replicas)

        before = used()
        time.sleep(1.0)
        return round(used() - before, 2)

    def upgrade(self, per_second: float, seconds: float) -> dict[str, Any]:
        """Another translator and back, twice, while lists are translated."""
        seen: list[tuple[float, str, str]] = []
        mixed = 0
        first, second = self._expected.values()
        telling = [text for text in TEXTS if first[text] != second[text]]
        lists = [telling[start : start + 8] for start in range(0, len(telling), 8)]

        def done(request: Request, reply: Reply) -> None:
            nonlocal mixed
            if reply.status != 200:
                return
            answer = json.loads(reply.body)
            made = {(one["source"], one["text"]) for one in answer["translations"]}
            by = [path for path, known in self._expected.items() if made <= set(known.items())]
            if by:
                seen.append((reply.ended, answer["model"], by[0]))
            else:
                mixed += 1

        kind = Kind(
            lambda number: Request("/v1/translate", {"text": lists[number % len(lists)]}),
            16,
            per_second / 8,
            done=done,
        )
        switches = []
        with Traffic(self._server.address, {"translate": kind}) as traffic:
            traffic.wait_good(5)
            for name, path in 2 * [("other", self._other), ("default", self._translator)]:
                time.sleep(seconds / 5)
                asked = traffic.now()
                versions = {"versions": [{"name": name, "path": path}]}
                answer = send(
                    self._server, Request("/v1/models/translator", versions, method="PUT")
                )
                assert answer.status_code == 200, answer.text
                accepted = traffic.now()
                traffic.wait_good(20)
                latest = max((end for end, model, _ in seen if model != name), default=accepted)
                switches.append((accepted - asked, max(0.0, latest - accepted)))
        outcome = kind.outcome
        wrong_name = sum((model == "other") != (path == self._other) for _, model, path in seen)
        return {
            "requests": len(outcome.statuses),
            "failed": len(outcome.statuses) - outcome.count(200),
            "mixed": mixed,
            "misnamed": wrong_name,
            "answers_of_other": sum(path == self._other for _, _, path in seen),
            "p50_ms": quantile_ms(outcome.good(), 0.5),
            "p99_ms": quantile_ms(outcome.good(), 0.99),
            "accepted_s": [round(one, 2) for one, _ in switches],
            "old_answers_until_s": [round(one, 2) for _, one in switches],
        }

    def soak(self, rates: Mapping[str, float], seconds: float) -> dict[str, Any]:
        """A steady load of every kind."""
        changes = Changes(f"soak-{time.time():.0f}", self._picture)
        kinds = everyday(self._expected[self._translator], QUERIES, changes, rates)
        with MemoryWatch(self._server, every=5.0) as memory:
            with Traffic(self._server.address, kinds):
                time.sleep(seconds)
        outcome = kinds["translate"].outcome
        minutes = []
        for minute in range(max(1, int(seconds // 60))):
            good = sorted(
                latency
                for end, latency, status in zip(
                    outcome.ends, outcome.latencies, outcome.statuses, strict=True
                )
                if minute <= end / 60 < minute + 1 and status == 200
            )
            samples = [one for at, one in memory.samples if minute <= at / 60 < minute + 1]
            minutes.append(
                {
                    "answers": len(good),
                    "p50_ms": quantile_ms(good, 0.5),
                    "p99_ms": quantile_ms(good, 0.99),
                    "memory": mebibytes(samples[-1]) if samples else {},
                }
            )
        return {
            "kinds": {name: kind.outcome.summary() for name, kind in kinds.items()},
            "errors": faults(kinds, changes),
            "changes": len(changes.acknowledged),
            "changes_lost": changes.lost(self._server),
            "minutes": minutes,
        }

    def _alone(self) -> float:
        """Median seconds of a list that is translated alone."""
        taken = []
        for _ in range(5):
            began = time.monotonic()
            persist(self._server, HEAVY)
            taken.append(time.monotonic() - began)
        return sorted(taken)[2]

    def _run_for(self, kinds: dict[str, Kind], seconds: float) -> dict[str, dict[str, Any]]:
        with Traffic(self._server.address, kinds):
            time.sleep(seconds)
        return {name: kind.outcome.summary() for name, kind in kinds.items()}


def offline(path: str) -> dict[str, str]:
    made = Translator.load(path).translate(TEXTS)
    return dict(zip(TEXTS, (one.text for one in made), strict=True))


def disturbed(path: str, out: Path) -> str:
    """A translator like this one, with some noise in its weights, so that it says other things."""
    artifact = artifacts.load(path, "translator")
    draw = np.random.default_rng(0)
    with artifacts.create(str(out), "translator", artifact.config) as writer:
        writer.metrics.update(artifact.metrics)
        for name in artifact.files:
            content = artifact.file(name).read_bytes()
            if name == "model.safetensors":
                tensors = load_tensors(content)
                content = save_tensors(
                    {
                        key: (one + one.std() * draw.normal(size=one.shape)).astype(one.dtype)
                        for key, one in tensors.items()
                    }
                )
            writer.path(name).write_bytes(content)
    return str(out)


def a_picture(collection: Path) -> bytes:
    with Collection.open(collection, read_only=True) as opened:
        content = opened.thumbnail(next(iter(opened.ids())))
    assert content
    return content


def mebibytes(sizes: dict[str, int]) -> dict[str, int]:
    return {name: size >> 20 for name, size in sorted(sizes.items())}


def _first_good_after(outcome: Outcome, at: float) -> float:
    """When the first request that was sent after `at` was answered."""
    return min(
        end
        for end, latency, status in zip(
            outcome.ends, outcome.latencies, outcome.statuses, strict=True
        )
        if end - latency >= at and status in GOOD
    )


SLOWEST = 30.0  # seconds after which a slow client gives up, if it was not told to before

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


def hostile(clients: int, per_second: float) -> Kind:
    """Clients that send requests which must be refused, in turn."""
    return Kind(lambda number: HOSTILE[number % len(HOSTILE)], clients, per_second)


@dataclass
class SlowClients:
    """Clients that send a request byte by byte, half of them not even its headers to the end.

    `held` has the seconds after which the server ended each connection.
    """

    per_second: float
    held: list[float] = field(default_factory=list)
    gave_up: int = 0

    def as_kind(self) -> Kind:
        return _Slow(lambda number: Request(""), per_second=self.per_second, slow=self)


@dataclass
class _Slow(Kind):
    slow: SlowClients = field(kw_only=True)

    async def run(
        self, session: Any, address: Callable[[], str], began: float, going: Callable[[], bool]
    ) -> None:
        clients: set[asyncio.Task[None]] = set()
        for number in range(sys.maxsize):
            wait = began + number / self.slow.per_second - time.monotonic()
            await asyncio.sleep(max(0.0, min(wait, 0.5)))
            if not going():
                break
            client = asyncio.create_task(self._dribble(address(), headers=number % 2 == 0))
            clients.add(client)
            client.add_done_callback(clients.discard)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        self.outcome.seconds = time.monotonic() - began

    async def _dribble(self, address: str, headers: bool) -> None:
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
            if answered.done():
                self.slow.held.append(time.monotonic() - sent)
            else:
                self.slow.gave_up += 1
        except OSError:
            self.slow.held.append(time.monotonic() - sent)
        finally:
            writer.close()


def refusals(kind: Kind) -> dict[str, Any]:
    """What became of hostile requests: statuses, and how long the slowest answer took."""
    outcome = kind.outcome
    typed = [status for status in outcome.statuses if 400 <= status < 500 or status == 503]
    return {
        "sent": len(outcome.statuses),
        "typed": len(typed),
        "first_others": [] if len(typed) == len(outcome.statuses) else outcome.not_good,
        "slowest_s": round(max(outcome.latencies, default=0.0), 2),
    }

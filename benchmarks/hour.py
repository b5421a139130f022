"""An hour of light load of every kind, and what each process of the server holds meanwhile.

    python -m benchmarks.hour --translator runs/demo/translator --collection runs/demo/collection \\
        --minutes 60 --out hour
    python -m benchmarks.hour --draw hour/memory.json --out hour

In: the artifacts of the demo (the collection is copied, so it stays as it is). Out: memory.json and
memory.png in `out`, and a table in Markdown on standard output. No text comes twice, and most words
are new, so that what is kept of any request shows. What would surprise a reader: memory is what a
process wrote itself (RssAnon). The usual "unique set size" also has the pages of libraries that no
other process maps at the moment, so a neighbour that starts or ends changes it by 300 MiB.
"""

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil

from benchmarks.breaking import a_picture
from benchmarks.faults import ONE_EACH
from seqvis.samples.questions import generate_pairs
from serve.testing.clients import Kind, Request
from serve.testing.load import Traffic
from serve.testing.server import RunningServer, free_port, local_config, run_config
from serve.testing.traffic import RETRIES, searching_by_picture, send

RATES = {
    "translate": 2.0, "stream": 0.5, "words": 1.0, "picture": 0.5, "classify": 0.2,
    "change": 0.4, "thumbnail": 0.5, "wrong": 0.3, "left": 0.2,
}  # fmt: skip
"""Requests a second of each kind."""
MINUTES = (0, 5, 15, 30, 60)  # columns of the table
_LETTERS = "aaabcdeeeéèfghiijklmnoopqrstuvwxyz"
_PROCESSES = {
    "HAProxy": r"\S*haproxy\b",
    "Serve's controller": r"ray::ServeController",
    "Serve's proxies": r"ray::(HAProxyManager|ProxyActor)",
    "raylet": r"\S*/raylet\b",
    "GCS": r"\S*/gcs_server\b",
    "dashboard and agents": r"ray-dashboard|.*(dashboard|agent|monitor|log_monitor)\.py",
}
"""Processes that are no replicas, by how their command line begins."""


class Words:
    """Texts that nobody asked for before, of any length."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._sentences = [pair[0] for pair in generate_pairs(256, seed=seed)]

    def new(self) -> str:
        return "".join(self._random.choices(_LETTERS, k=self._random.randint(3, 12)))

    def text(self) -> str:
        """One to forty words, every third of which was never seen."""
        words = self._random.choice(self._sentences).split() * 5
        count = min(self._random.randint(1, 40), len(words))
        return " ".join(self.new() if self._random.random() < 0.3 else one for one in words[:count])

    def query(self) -> str:
        """Known words with weights, and now and then one that nobody knows."""
        known = self._random.choice(("boat", "pizza", "flower + drink", "engine", "goblin - bell"))
        weight = self._random.random() * 3
        return f"{weight:.3f} * {known}" if self._random.random() < 0.8 else self.new()


def mixed(picture: bytes, name: str, factor: float = 1.0) -> dict[str, Kind]:
    """Clients of every part of the server; `name` is a stored picture's, `factor` of the rates."""
    words = Words(0)

    def translate(number: int) -> Request:
        return Request("/v1/translate", {"text": words.text(), "beam": 4 if number % 4 == 0 else 1})

    def stream(number: int) -> Request:
        texts = [words.text() for _ in range(number % 4 + 1)]
        return Request("/v1/translate", {"text": texts, "stream": True, "partial": True})

    def change(number: int) -> Request:
        """Adds a picture, and deletes it with the next request."""
        added = f"hour/{number // 2}"
        if number % 2:
            return Request(f"/v1/images/{quote(added)}", method="DELETE")
        metadata = json.dumps({"title": words.new(), "number": number})
        return Request("/v1/images", form={"file": picture, "id": added, "metadata": metadata})

    def wrong(number: int) -> Request:
        return (
            Request("/v1/translate", {"text": words.text(), "beam": 1000}),
            Request("/v1/search/like", {"id": words.new()}),
            Request(f"/v1/{words.new()}", method="GET"),
            Request("/v1/search/image", form={"file": words.text().encode()}),
        )[number % 4]

    asked = {
        "translate": translate,
        "stream": stream,
        "words": lambda number: Request("/v1/search/text", {"query": words.query(), "k": 10}),
        "classify": lambda number: Request("/v1/classify", form={"file": picture, "k": "5"}),
        "change": change,
        "thumbnail": lambda number: Request(f"/v1/images/{quote(name)}", method="GET"),
        "wrong": wrong,
        "left": lambda number: Request("/v1/translate", {"text": [words.text() for _ in range(8)]}),
    }
    kinds = {
        kind: Kind(
            request,
            1 if kind == "change" else 4,
            RATES[kind] * factor,
            retries=RETRIES,
            patience=0.1 if kind == "left" else None,
        )
        for kind, request in asked.items()
    }
    return kinds | {"picture": searching_by_picture(picture, RATES["picture"] * factor)}


def stored(server: RunningServer, query: str) -> str:
    """The id of a stored picture."""
    answer = send(server, Request("/v1/search/text", {"query": query, "k": 1})).json()
    return str(answer["matches"][0]["id"])


def held(server: RunningServer) -> dict[str, float]:
    """MiB that the processes of the server wrote themselves, by what they are."""
    found: Counter[str] = Counter()
    replicas = {one.pid: name for name, ones in server.all_replicas().items() for one in ones}
    for process in (server.process, *server.process.children(recursive=True)):
        try:
            name = replicas.get(process.pid) or _named(" ".join(process.cmdline()))
            found[name] += written(process.pid)
        except (OSError, psutil.Error):  # it has ended
            continue
    return {name: round(size / 2**20, 2) for name, size in found.items()}


def written(pid: int) -> int:
    """Bytes that a process wrote itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(match[1]) << 10 if match else 0


def _named(command: str) -> str:
    return next((name for name, begin in _PROCESSES.items() if re.match(begin, command)), "others")


def growth(minutes: Sequence[float], sizes: Sequence[float]) -> float:
    """MiB a minute over the last half, fitted."""
    last = [place for place, at in enumerate(minutes) if at >= minutes[-1] / 2]
    slope = np.polyfit(np.asarray(minutes)[last], np.asarray(sizes)[last], 1)[0]
    return float(slope)


def curves(samples: Sequence[Mapping[str, Any]]) -> tuple[list[float], dict[str, list[float]]]:
    """Minutes, and by process the MiB at each of them, the largest first."""
    names = {name for one in samples for name in one["held"]}
    found = {name: [float(one["held"].get(name, 0)) for one in samples] for name in names}
    ordered = sorted(found.items(), key=lambda item: -item[1][-1])
    return [one["minute"] for one in samples], dict(ordered)


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """The curves at some minutes, in Markdown."""
    minutes, by_name = curves(samples)
    columns = [one for one in MINUTES if one < minutes[-1] - 0.5]
    places = [int(np.argmin(np.abs(np.asarray(minutes) - one))) for one in columns] + [-1]
    heads = ["start", *(f"{one} min" for one in columns[1:]), f"{minutes[-1]:.0f} min"]
    lines = [f"| MiB | {' | '.join(heads)} | MiB a minute in the last half |"]
    lines.append("| --- " * (len(heads) + 2) + "|")
    for name, sizes in by_name.items():
        figures = " | ".join(f"{sizes[place]:.0f}" for place in places)
        lines.append(f"| {name} | {figures} | {growth(minutes, sizes):+.2f} |")
    return "\n".join(lines)


def draw(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The curves: replicas above, the other processes below."""
    from seqvis.plots.style import draw_title, new_figure, save, style

    minutes, by_name = curves(samples)
    others = {name for name in by_name if name in _PROCESSES or name == "others"}
    panels = {"replicas": set(by_name) - others, "other processes": others}
    figure = new_figure(10, 8)
    for place, (title, names) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(2, 1, place)
        for number, (name, sizes) in enumerate((n, s) for n, s in by_name.items() if n in names):
            label = f"{name}: {sizes[-1]:.0f} MiB, {growth(minutes, sizes):+.2f} a minute"
            axes.plot(minutes, sizes, label=label, color=f"C{number}", linewidth=1.5)
        draw_title(axes, title, "growth: of the last half")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.set_ylabel("MiB of its own")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
        style(axes)
    save(figure, path)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Serves, loads and samples; writes what is there every five minutes."""
    with tempfile.TemporaryDirectory() as folder:
        collection = Path(folder) / "collection"
        shutil.copytree(given.collection, collection)
        config = local_config(given.translator, collection, free_port(), deployments=ONE_EACH)
        picture = a_picture(collection)
        found: dict[str, Any] = {"minutes": given.minutes, "factor": given.factor, "samples": []}
        samples = found["samples"]
        with run_config(config, given.out / "logs") as server:
            kinds = mixed(picture, stored(server, "boat"), given.factor)
            with Traffic(server.address, kinds) as traffic:
                while traffic.now() < given.minutes * 60 + 1:
                    minute = round(traffic.now() / 60, 3)
                    samples.append({"minute": minute, "held": held(server)})
                    (given.out / "memory.json").write_text(json.dumps(found))
                    time.sleep(max(0.0, len(samples) * given.every - traffic.now()))
        found["kinds"] = {name: kind.outcome.summary() for name, kind in kinds.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures or reads, prints the table, draws."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--translator")
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--factor", type=float, default=1.0, help="of the rates")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draw", type=Path, help="a memory.json to draw; nothing is measured")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.draw:
        found = json.loads(given.draw.read_text())
    else:
        found = measure(given)
        (given.out / "memory.json").write_text(json.dumps(found))
    draw(found["samples"], given.out / "memory.png")
    print(table(found["samples"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

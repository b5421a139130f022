"""An hour of light load of every kind, and the memory of each process of the server meanwhile.

    python -m benchmarks.hour --translator runs/demo/translator --collection runs/demo/collection \\
        --minutes 60 --out hour
    python -m benchmarks.hour --draw hour/memory.json --out hour

writes memory.json and memory.png into `out` and a table in Markdown to standard output. No text is
sent twice, and most words are new, so that whatever a process keeps of its requests shows. The
collection is copied and stays as it is.
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
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import psutil

from benchmarks.breaking import a_picture
from benchmarks.faults import ONE_EACH
from benchmarks.instrument import as_table
from seqvis.plots.style import draw_title, new_figure, save, style
from seqvis.samples.questions import generate_pairs
from serve.testing.clients import Kind, Request
from serve.testing.load import Traffic
from serve.testing.server import RunningServer, free_port, local_config, own_memory, run_config
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
"""Processes that are not replicas, by the beginning of their command line."""


class Words:
    """Texts that nobody has sent before, of any length."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._sentences = [pair[0] for pair in generate_pairs(256, seed=seed)]

    def new(self) -> str:
        return "".join(self._random.choices(_LETTERS, k=self._random.randint(3, 12)))

    def text(self) -> str:
        """One to forty words, every third of which was never seen."""
        words = self._random.choice(self._sentences).split() * 5
        count = min(self._random.randint(1, 40), len(words))
        return " ".join(
            self.new() if self._random.random() < 0.3 else word for word in words[:count]
        )

    def query(self) -> str:
        """A known word with a weight, now and then an unknown word."""
        known = self._random.choice(("boat", "pizza", "flower + drink", "engine", "goblin - bell"))
        weight = self._random.random() * 3
        return f"{weight:.3f} * {known}" if self._random.random() < 0.8 else self.new()


def mixed(picture: bytes, name: str, factor: float = 1.0) -> dict[str, Kind]:
    """Clients of every part of the server, at `factor` times RATES.

    `name` is the id of a stored picture.
    """
    words = Words(0)

    def translate(number: int) -> Request:
        return Request("/v1/translate", {"text": words.text(), "beam": 4 if number % 4 == 0 else 1})

    def stream(number: int) -> Request:
        texts = [words.text() for _ in range(number % 4 + 1)]
        return Request("/v1/translate", {"text": texts, "stream": True, "partial": True})

    def change(number: int) -> Request:
        """Add a picture, and delete it with the next request."""
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

    requests = {
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
        for kind, request in requests.items()
    }
    return kinds | {"picture": searching_by_picture(picture, RATES["picture"] * factor)}


def stored(server: RunningServer, query: str) -> str:
    """The id of a stored picture."""
    answer = send(server, Request("/v1/search/text", {"query": query, "k": 1})).json()
    return str(answer["matches"][0]["id"])


def memory(server: RunningServer) -> dict[str, float]:
    """MiB that the processes of the server have written themselves, by what they are."""
    sizes: Counter[str] = Counter()
    replicas = {one.pid: name for name, ones in server.all_replicas().items() for one in ones}
    for process in (server.process, *server.process.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended
            name = replicas.get(process.pid) or _named(" ".join(process.cmdline()))
            sizes[name] += own_memory(process)
    return {name: round(size / 2**20, 2) for name, size in sizes.items()}


def _named(command: str) -> str:
    return next((name for name, begin in _PROCESSES.items() if re.match(begin, command)), "others")


def growth(minutes: Sequence[float], sizes: Sequence[float]) -> float:
    """MiB a minute, fitted to the last half."""
    last = [place for place, at in enumerate(minutes) if at >= minutes[-1] / 2]
    slope = np.polyfit(np.asarray(minutes)[last], np.asarray(sizes)[last], 1)[0]
    return float(slope)


def curves(samples: Sequence[Mapping[str, Any]]) -> tuple[list[float], dict[str, list[float]]]:
    """Minutes, and the MiB of each process at each of them; the largest process first."""
    names = {name for sample in samples for name in sample["held"]}
    found = {name: [float(sample["held"].get(name, 0)) for sample in samples] for name in names}
    ordered = sorted(found.items(), key=lambda item: -item[1][-1])
    return [sample["minute"] for sample in samples], dict(ordered)


def table(samples: Sequence[Mapping[str, Any]]) -> str:
    """The curves at some minutes, in Markdown."""
    minutes, by_name = curves(samples)
    columns = [minute for minute in MINUTES if minute < minutes[-1] - 0.5]
    places = [int(np.argmin(np.abs(np.asarray(minutes) - minute))) for minute in columns] + [-1]
    heads = ["MiB", *(f"{minute} min" for minute in columns), f"{minutes[-1]:.0f} min"]
    rows = (
        [name, *(f"{sizes[place]:.0f}" for place in places), f"{growth(minutes, sizes):+.2f}"]
        for name, sizes in by_name.items()
    )
    return as_table([*heads, "MiB a minute in the last half"], *rows)


def draw(samples: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the curves: replicas above, the other processes below."""
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


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Serve, load and sample; each sample is written at once."""
    with tempfile.TemporaryDirectory() as folder:
        collection = Path(folder) / "collection"
        shutil.copytree(flags.collection, collection)
        config = local_config(flags.translator, collection, free_port(), deployments=ONE_EACH)
        picture = a_picture(collection)
        found: dict[str, Any] = {"minutes": flags.minutes, "factor": flags.factor, "samples": []}
        samples = found["samples"]
        with run_config(config, flags.out / "logs") as server:
            kinds = mixed(picture, stored(server, "boat"), flags.factor)
            with Traffic(server.address, kinds) as traffic:
                while traffic.now() < flags.minutes * 60 + 1:
                    minute = round(traffic.now() / 60, 3)
                    samples.append({"minute": minute, "held": memory(server)})
                    (flags.out / "memory.json").write_text(json.dumps(found))
                    time.sleep(max(0.0, len(samples) * flags.every - traffic.now()))
        found["kinds"] = {name: kind.outcome.summary() for name, kind in kinds.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or read, then draw and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--translator")
    parser.add_argument("--collection", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--factor", type=float, default=1.0, help="of the rates")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draw", type=Path, help="a memory.json to draw; nothing is measured")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)
    if flags.draw:
        found = json.loads(flags.draw.read_text())
    else:
        found = measure(flags)
        (flags.out / "memory.json").write_text(json.dumps(found))
    draw(found["samples"], flags.out / "memory.png")
    print(table(found["samples"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Hours of light load of every kind, and the memory of each process meanwhile.

    python -m benchmarks.hour --translator runs/demo/translator --collection runs/demo/collection \\
        --minutes 60 --out hour
    python -m benchmarks.hour --draw hour/memory.csv --out hour

With `--corpus runs/multi30k-en-fr` two workers train a translator all the while. Writes memory.csv
as it goes, memory.png and a table in Markdown, to standard output. No text is sent twice, most
words are new and pictures have many sizes, so that whatever a process keeps of its requests shows.
The collection is copied and stays as it is.
"""

import argparse
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import psutil

from benchmarks.breaking import a_picture, copy_of, parser_of
from benchmarks.faults import ONE_EACH
from benchmarks.instrument import as_table
from benchmarks.material import photograph
from seqvis.client import Client
from seqvis.plots.style import draw_title, new_figure, save, style
from seqvis.samples.questions import generate_pairs
from serve.app import free_port
from serve.testing.clients import Kind, Request, Traffic
from serve.testing.server import RunningServer, local_config, own_memory, run_config
from serve.testing.traffic import RETRIES

RATES = {
    "translate": 2.0, "stream": 0.5, "words": 1.0, "picture": 0.5, "classify": 0.2,
    "change": 0.4, "thumbnail": 0.5, "wrong": 0.3, "left": 0.2,
}  # fmt: skip
"""Requests a second of each kind."""
_WARM = 5  # minutes after which memory should stay what it is
MINUTES = (0, 1, _WARM, 15, 30, 60)  # columns of the table
SIZES = tuple((160 + 97 * n % 900, 120 + 61 * n % 700) for n in range(24))  # of pictures
PRESET = Path("jobs/presets/multi30k-en-fr.yaml")
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
        """Return one to forty words, every third of which was never seen."""
        words = self._random.choice(self._sentences).split() * 5
        count = min(self._random.randint(1, 40), len(words))
        return " ".join(
            self.new() if self._random.random() < 0.3 else word for word in words[:count]
        )

    def query(self) -> str:
        """Return a known word with a weight, now and then an unknown word."""
        known = self._random.choice(("boat", "pizza", "flower + drink", "engine", "goblin - bell"))
        weight = self._random.random() * 3
        return f"{weight:.3f} * {known}" if self._random.random() < 0.8 else self.new()


def mixed(pictures: Sequence[bytes], name: str, factor: float = 1.0) -> dict[str, Kind]:
    """Return clients of every part of the server, at `factor` times RATES.

    `pictures` are sent in turn; `name` is the id of a stored one.
    """
    words = Words(0)

    def picture(number: int) -> bytes:
        return pictures[number % len(pictures)]

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
        return Request(
            "/v1/images", form={"file": picture(number), "id": added, "metadata": metadata}
        )

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
        "picture": lambda number: Request(
            "/v1/search/image", form={"file": picture(number), "k": "3"}
        ),
        "classify": lambda number: Request(
            "/v1/classify", form={"file": picture(number), "k": "5"}
        ),
        "change": change,
        "thumbnail": lambda number: Request(f"/v1/images/{quote(name)}", method="GET"),
        "wrong": wrong,
        "left": lambda number: Request("/v1/translate", {"text": [words.text() for _ in range(8)]}),
    }
    return {
        kind: Kind(
            request,
            1 if kind == "change" else 4,
            RATES[kind] * factor,
            retries=RETRIES,
            patience=0.1 if kind == "left" else None,
        )
        for kind, request in requests.items()
    }


def stored(server: RunningServer, query: str) -> str:
    """Return the id of a stored picture."""
    return Client(server.address).search_text(query, 1).matches[0].id


def memory(server: RunningServer) -> dict[str, float]:
    """Return the MiB that the server's processes have written themselves, by what they are."""
    sizes: Counter[str] = Counter()
    replicas = {
        process.pid: name for name, group in server.all_replicas().items() for process in group
    }
    for process in (server.process, *server.process.children(recursive=True)):
        with suppress(psutil.Error):  # it has ended
            name = replicas.get(process.pid) or _named(" ".join(process.cmdline()))
            sizes[name] += own_memory(process)
    return {name: round(size / 2**20, 2) for name, size in sizes.items()}


@dataclass
class Training:
    """A training with Ray Train that runs in processes of its own."""

    process: psutil.Popen
    log: Path

    def memory(self) -> dict[str, float]:
        """Return MiB that its workers have written themselves."""
        sizes = []
        for process in self.process.children(recursive=True):
            with suppress(psutil.Error):  # it has ended
                if process.cmdline()[:1] == ["ray::RayTrainWorker"]:
                    sizes.append(round(own_memory(process) / 2**20, 2))
        return {f"training worker {number}": size for number, size in enumerate(sizes, 1)}

    def batches(self) -> int:
        """Return how many batches are trained, as last shown."""
        shown = re.findall(r"epoch (\d+)/\d+  (\d+)/(\d+)", self.log.read_text())
        epoch, position, steps = map(int, shown[-1]) if shown else (1, 0, 0)
        return (epoch - 1) * steps + position


@contextmanager
def training(corpus: Path, out: Path) -> Iterator[Training]:
    """Run two workers that train PRESET on a corpus for the length of the block."""
    command = [
        sys.executable, "-m", "jobs.train_translator", "--config", str(PRESET),
        "--corpus", str(corpus), "--out", str(out / "translator"), "--restart",
        "--epochs", "1000", "--num-workers", "2",
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    log = out / "training.log"
    with log.open("wb") as stream:
        process = psutil.Popen(command, env=environment, stdout=stream, stderr=stream)
    try:
        yield Training(process, log)
    finally:
        process.terminate()
        process.wait(60)


def _named(command: str) -> str:
    return next((name for name, begin in _PROCESSES.items() if re.match(begin, command)), "others")


def curves(measured: Path) -> tuple[pd.DataFrame, pd.Series]:
    """Read a memory.csv: MiB by minute and process, the largest first, and batches by minute."""
    lines = pd.read_csv(measured)
    frame = lines.pivot_table("MiB", "minute", "process").ffill()
    frame = frame.sort_values(frame.index[-1], axis=1, ascending=False)
    return frame, lines.groupby("minute")["batches"].max()


def growth(curve: pd.Series) -> float:
    """Return the MiB a minute, fitted to the last half."""
    last = curve[curve.index >= curve.index[-1] / 2]
    return float(np.polyfit(last.index, last, 1)[0])


def table(frame: pd.DataFrame, batches: pd.Series) -> str:
    """Write the curves at some minutes in Markdown, and the batches trained until then."""
    end = frame.index[-1]
    minutes = [*(minute for minute in MINUTES if minute < end - 0.5), end]
    places = frame.index.get_indexer(pd.Index(minutes), method="nearest")
    early = frame.index.get_indexer(pd.Index([_WARM]), method="nearest")[0]
    rows = (
        [
            name,
            *(f"{size:.0f}" for size in curve.iloc[places]),
            f"{curve.iloc[-1] / curve.iloc[early]:.2f}",
            f"{growth(curve):+.2f}",
        ]
        for name, curve in frame.items()
    )
    heads = [
        "MiB",
        *(f"{minute:.0f} min" for minute in minutes),
        f"end, times that at {_WARM} min",
        "a minute, in the last half",
    ]
    return as_table(heads, *rows, ["batches trained", *batches.iloc[places], "", ""])


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Draw the curves: replicas above, the other processes below."""
    others = [name for name in frame if name in _PROCESSES or name == "others"]
    figure = new_figure(10, 8)
    panels = {"replicas and workers": frame.drop(columns=others), "other processes": frame[others]}
    for axes, (title, panel) in zip(figure.subplots(2), panels.items(), strict=True):
        for number, (name, curve) in enumerate(panel.items()):
            label = f"{name}: {curve.iloc[-1]:.0f} MiB, {growth(curve):+.2f} a minute"
            axes.plot(curve, label=label, color=f"C{number}", linewidth=1.5)
        draw_title(axes, title, "growth: of the last half")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.set_ylabel("MiB of its own")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9, frameon=False)
        style(axes)
    save(figure, path)


def measure(flags: argparse.Namespace) -> None:
    """Serve, train, load and sample; memory.csv grows with each sample."""
    trained = training(flags.corpus, flags.out) if flags.corpus else nullcontext()
    with copy_of(flags.collection) as collection:
        config = local_config(flags.translator, collection, free_port(), deployments=ONE_EACH)
        pictures = [a_picture(collection), *(photograph(n, size) for n, size in enumerate(SIZES))]
        with run_config(config, flags.out / "logs") as server, trained as job:
            kinds = mixed(pictures, stored(server, "boat"))
            with Traffic(server.address, kinds) as traffic:
                sample(server, job, traffic, flags)
        summary = {name: kind.outcome.summary() for name, kind in kinds.items()}
        (flags.out / "answers.json").write_text(json.dumps(summary, indent=1))


def sample(
    server: RunningServer, job: Training | None, traffic: Traffic, flags: argparse.Namespace
) -> None:
    """Write a line for each process of the server and of the training, now and then."""
    with (flags.out / "memory.csv").open("w", buffering=1) as lines:
        lines.write("minute,batches,process,MiB\n")
        number = 0
        while traffic.now() < flags.minutes * 60 + 1:
            minute, batches = traffic.now() / 60, job.batches() if job else 0
            for name, size in {**memory(server), **(job.memory() if job else {})}.items():
                lines.write(f"{minute:.3f},{batches},{name},{size}\n")
            number += 1
            time.sleep(max(0.0, number * flags.every - traffic.now()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or read, then draw and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples")
    parser.add_argument("--draw", type=Path, help="a memory.csv to draw; nothing is measured")
    parser.add_argument("--corpus", type=Path, help="train a translator on it all the while")
    flags = parser.parse_args(arguments)
    flags.out.mkdir(parents=True, exist_ok=True)
    if not flags.draw:
        measure(flags)
    frame, batches = curves(flags.draw or flags.out / "memory.csv")
    draw(frame, flags.out / "memory.png")
    print(table(frame, batches))
    return 0


if __name__ == "__main__":
    sys.exit(main())

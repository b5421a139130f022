"""How time and memory grow with what is given: one plot for each kind of growth, with the exponent.

    python -m benchmarks.growth --chart docs/growth.png [--only corpus length …]
        [--translator runs/translator --sentences sentences.fr]

Every point is a process of its own, whose memory is its peak above what it had before the work (of
jobs: the peak of all their processes). The exponent is fitted to the logarithms; what a start
costs flattens it, so that of the larger points is printed too. For clients a translator is served.

Does prepare_corpus need more memory for a larger corpus? Peak memory by process, at two sizes.

Generates aligned files of N pairs whose vocabulary grows with N (names and numbers beside
common words, some pairs repeated), runs `jobs.prepare_corpus` on each and samples /proc for
every process it started. Memory is what a process holds itself: resident less shared (Ray's
object store is shared memory and shown apart). Prints a table and, last, one JSON line.

    python -m benchmarks.growth --pairs 500000 5000000
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SIZES: dict[str, Sequence[int]] = {
    "corpus": (25_000, 50_000, 100_000, 200_000),
    "length": (10, 20, 40, 80, 160),
    "vocabulary": (4_000, 8_000, 16_000, 32_000, 64_000),
    "pictures": (250, 500, 1_000, 2_000),
    "collection": (10_000, 20_000, 40_000, 80_000, 160_000),
    "clients": (1, 2, 4, 8, 16, 32, 64),
}
TITLES = {
    "corpus": "preparing: pairs",
    "length": "training step: words a sentence",
    "vocabulary": "training step: words of the vocabulary",
    "pictures": "embedding: pictures",
    "collection": "building a collection: vectors",
    "clients": "translating: concurrent clients",
}
SENTENCES, WORDS = 32, 20  # of a training step, where they do not grow


@dataclass(frozen=True)
class Point:
    seconds: float
    megabytes: float


def step(words: int, vocabulary: int) -> Point:
    """Seconds of a training step of `all` in float32."""
    import torch

    from seqvis.translation.forcing import ForcingSettings
    from seqvis.translation.losses import projected_cross_entropy
    from seqvis.translation.model import Seq2Seq
    from seqvis.translation.settings import ModelSettings, resolve_variant

    model = Seq2Seq(
        resolve_variant("all", ModelSettings(), ForcingSettings())[0], 10_000, vocabulary
    )
    source = torch.randint(4, 10_000, (SENTENCES, words))
    target = torch.randint(4, vocabulary, (SENTENCES, words))
    lengths, forced = torch.full((SENTENCES,), words), torch.ones(words, dtype=torch.bool)

    def work() -> None:
        output = model(source, lengths, target, forced)
        projection = model.decoder.projection
        loss, _ = projected_cross_entropy(
            output.outputs.flatten(0, 1),
            projection.weight,
            projection.bias,
            target.t().flatten(),
            0.1,
        )
        loss.backward()

    before = _peak()
    work()
    return Point(_quickest(work, 5), _peak() - before)


def collection(vectors: int) -> Point:
    """Seconds to build a collection of 50-d vectors."""
    from benchmarks.stage_neighbours import as_items, glove
    from seqvis.search.collection import Collection

    rows = glove(vectors)
    before = _peak()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        Collection.build(Path(folder) / "c", 50, as_items(rows)).close()
        return Point(time.perf_counter() - began, _peak() - before)


def job(name: str, size: int) -> Point:
    """Seconds of a job's work, by its own account, and the memory of all its processes."""
    from benchmarks.scaling import photograph

    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        out = folder / "out"
        if name == "corpus":
            source, target = generate(folder, size)
            flags = ["prepare_corpus", "--source", source, "--target", target]
            flags += ["--source-lang", "fr", "--target-lang", "en"]
        else:
            (folder / "images").mkdir()
            contents = [photograph(number) for number in range(50)]
            for number in range(size):
                content = contents[number % 50]
                (folder / "images" / f"{number}.jpg").write_bytes(content)
            flags = ["embed_images", "--images", folder / "images", "--image-size", 144]
            flags += ["--backbone", "efficientnet_lite0"]
        command = [
            sys.executable,
            "-m",
            f"jobs.{flags[0]}",
            *map(str, flags[1:]),
            "--out",
            str(out),
        ]
        peaks, store, _ = memory_of_job(command)
        if name == "corpus":
            seconds = json.loads((out / "report.json").read_text())["seconds"]
        else:
            metrics = json.loads((out / "manifest.json").read_text())["metrics"]
            seconds = metrics["embedded"] / metrics["images_per_second"]
        return Point(seconds, store + sum(one["peak_mb"] for one in peaks.values()))


def clients(translator: str, sentences: Path) -> dict[int, Point]:
    """Seconds that a request takes, by the number of clients, and the replica's memory."""
    from benchmarks.serving import batching_config, load
    from serve.testing.server import run_config

    lines = sentences.read_text(encoding="utf-8").splitlines()[:2000]
    found = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(run_config(batching_config(translator, 256), folder))
        for count in SIZES["clients"]:
            figures = load(server.address, lines, count, 6.0)
            memory = server.memory()["Translator"] / 2**20
            found[count] = Point(figures["p50_ms"] / 1e3, memory)
    return found


POINTS: dict[str, Callable[[int], Point]] = {
    "corpus": lambda size: job("corpus", size),
    "pictures": lambda size: job("pictures", size),
    "length": lambda size: step(size, 10_000),
    "vocabulary": lambda size: step(WORDS, size),
    "collection": collection,
}


def exponent(points: dict[int, float]) -> float:
    """The slope of the logarithms."""
    sizes, values = zip(*sorted(points.items()), strict=True)
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def summary(points: dict[int, Point]) -> dict[str, Any]:
    """The points, and the exponents of time and memory."""
    larger = dict(sorted(points.items())[-max(3, len(points) // 2) :])
    found: dict[str, Any] = {"points": {size: vars(one) for size, one in points.items()}}
    for name in ("seconds", "megabytes"):
        found[name] = {
            "exponent": round(exponent({n: getattr(one, name) for n, one in points.items()}), 2),
            "of the larger": round(exponent({n: getattr(o, name) for n, o in larger.items()}), 2),
        }
    return found


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel for each kind of growth: seconds, and megabytes on a second axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    from seqvis.plots.style import BLUE, ORANGE, new_figure, save, style

    figure = new_figure(10, 3.2 * -(-len(found) // 2))
    for place, (name, one) in enumerate(found.items(), 1):
        axes = figure.add_subplot(-(-len(found) // 2), 2, place)
        points = {int(size): point for size, point in one["points"].items()}
        sides = ((axes, "seconds", BLUE), (axes.twinx(), "megabytes", ORANGE))
        for drawn, key, colour in sides:
            values = [point[key] for point in points.values()]
            drawn.loglog(list(points), values, "o-", color=colour)
            wide = max(values) > 4 * min(values)
            drawn.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(4))
            drawn.yaxis.set_major_formatter("{x:g}")
            drawn.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(list(points), [f"{size:,}" for size in points])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_title(TITLES[name], fontsize=10, loc="left")
        style(axes)
        for drawn, key, colour in sides:
            drawn.set_ylabel(f"{key}, exponent {one[key]['of the larger']:.2f}", color=colour)
    save(figure, path)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _quickest(work: Callable[[], None], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints JSON, draws."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--translator", help="for clients; without it they are left out")
    parser.add_argument("--sentences", type=Path)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SIZE"), help="one point, in here")
    given = parser.parse_args(arguments)
    if given.one:
        kind, size = given.one
        print(json.dumps(vars(POINTS[kind](int(size)))))
        return 0
    found = {}
    for name in given.only:
        if name == "clients":
            if not given.translator or not given.sentences:
                continue
            points = clients(given.translator, given.sentences)
        else:
            points = {}
            for size in SIZES[name]:
                command = [sys.executable, "-m", "benchmarks.growth", "--one", name, str(size)]
                told = subprocess.run(command, capture_output=True, text=True, check=True)
                points[size] = Point(**json.loads(told.stdout.splitlines()[-1]))
        found[name] = summary(points)
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    if given.chart:
        draw(found, given.chart)
    print(json.dumps(found))
    return 0


PAGE = os.sysconf("SC_PAGE_SIZE")
ROLES = (  # (what the command line holds, the role)
    ("raylet/raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("ray::IDLE", "worker"),
    ("ray::", "worker"),
    ("default_worker.py", "worker"),
    ("jobs.prepare_corpus", "job"),
)
FRENCH = ["le", "chat", "de", "la", "ville", "mange", "une", "pomme", "avec", "son", "ami"]
ENGLISH = ["the", "cat", "of", "this", "town", "eats", "one", "apple", "with", "his", "friend"]


def generate(folder: Path, pairs: int) -> tuple[Path, Path]:
    """Writes two aligned files; about 3 % of the pairs are repeated, 40 % have a rare name."""
    draw = random.Random(pairs)
    paths = (folder / f"{pairs}.fr", folder / f"{pairs}.en")
    with paths[0].open("w") as source, paths[1].open("w") as target:
        for number in range(pairs):
            if draw.random() < 0.03:
                draw_pair = random.Random(number % 1000)
            else:
                draw_pair = random.Random(number + 1_000_003)
            length = draw_pair.randint(4, 24)
            name = f" N{draw_pair.randrange(pairs // 2)}" if draw_pair.random() < 0.4 else ""
            source.write(" ".join(draw_pair.choices(FRENCH, k=length)).capitalize() + name + ".\n")
            target.write(" ".join(draw_pair.choices(ENGLISH, k=length)).capitalize() + name + ".\n")
    return paths


def memory_of_job(command: list[str]) -> tuple[dict[str, dict[str, float]], float, float]:
    """Runs `command`; peak memory and number of processes by role, object store MB, seconds."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=sys.stderr)
    peaks: dict[str, dict[str, float]] = {}
    store = 0.0
    while process.poll() is None:
        for pid in descendants(process.pid):
            sample = memory_of(pid)
            if sample is None:
                continue
            role, own, shared = sample
            found = peaks.setdefault(role, {"peak_mb": 0.0, "processes": 0})
            found["peak_mb"] = max(found["peak_mb"], own)
            found.setdefault("pids", set()).add(pid)  # type: ignore[attr-defined, arg-type]
            if role == "raylet":
                store = max(store, shared)
        time.sleep(0.2)
    for found in peaks.values():
        found["processes"] = len(found.pop("pids"))  # type: ignore[arg-type]
    if process.returncode != 0:
        raise SystemExit(f"the job failed with exit code {process.returncode}")
    return peaks, store, time.monotonic() - started


def descendants(root: int) -> list[int]:
    """The process ids of `root` and of all that it started, directly or not."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    found, waiting = [], [root]
    while waiting:
        current = waiting.pop()
        found.append(current)
        waiting += [child for child, parent in parents.items() if parent == current]
    return found


def memory_of(pid: int) -> tuple[str, float, float] | None:
    """Role, own and shared resident megabytes of a process; None if it has ended."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    except (OSError, ValueError):
        return None
    role = next((role for mark, role in ROLES if mark in line), "other")
    own = (int(resident) - int(shared)) * PAGE / 2**20
    return role, own, int(shared) * PAGE / 2**20


def main_memory() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--keep", type=Path, help="folder for the files; default: a temporary one")
    arguments, rest = parser.parse_known_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for pairs in arguments.pairs:
            source, target = generate(folder, pairs)
            command = [sys.executable, "-m", "jobs.prepare_corpus", "--source", str(source)]
            command += ["--target", str(target), "--source-lang", "fr", "--target-lang", "en"]
            command += ["--out", str(folder / f"corpus-{pairs}"), *rest]
            peaks, store, seconds = memory_of_job(command)
            report = json.loads((folder / f"corpus-{pairs}" / "report.json").read_text())
            results[pairs] = {
                "input_mb": round((source.stat().st_size + target.stat().st_size) / 2**20),
                "seconds": round(seconds, 1),
                "pairs_per_second": round(pairs / seconds),
                "kept": report["kept"],
                "object_store_mb": round(store),
                "peak_mb": {role: round(peak["peak_mb"]) for role, peak in sorted(peaks.items())},
            }
            print(f"{pairs:,} pairs: {results[pairs]}", file=sys.stderr, flush=True)
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())

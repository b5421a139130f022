"""How time and memory grow with the input: a plot for each kind of growth, with the exponent.

    python -m benchmarks.growth --chart docs/images/growth.png [--only corpus length …]
        [--translator runs/translator --sentences sentences.fr]
    python -m benchmarks.growth --pairs 500000 5000000
    python -m benchmarks.growth --rows 1300000

Every point is a process of its own. Its memory is its peak above what it had before the work, for
jobs the peak of all their processes. The exponent is fitted to the logarithms of the larger points,
since the cost of a start flattens it. For clients a translator is served.

With `--pairs` it prints how much memory each kind of process of `prepare_corpus` needs for so many
generated pairs, as JSON; with `--rows` the same of `train_devise` with two workers for so many rows
of 2,048 generated features, 4 KiB each on the disk and again in the folder for temporary files.
"""

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.instrument import in_a_process

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
ROLES = (  # a part of the command line, and the role of such a process
    ("raylet/raylet", "raylet"),
    ("gcs_server", "gcs"),
    ("ray::RayTrainWorker", "training worker"),
    ("ray::", "worker"),
    ("default_worker.py", "worker"),
    ("-m jobs.", "job"),
    ("", "other"),
)
FRENCH = ["le", "chat", "de", "la", "ville", "mange", "une", "pomme", "avec", "son", "ami"]
ENGLISH = ["the", "cat", "of", "this", "town", "eats", "one", "apple", "with", "his", "friend"]


@dataclass(frozen=True)
class Point:
    seconds: float
    megabytes: float


def step(words: int, vocabulary: int) -> Point:
    """Measure a training step of `all` in float32."""
    import torch

    from benchmarks.scaling import forced_loss
    from seqvis.seq2seq.model import Seq2Seq
    from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, resolve_variant

    settings = resolve_variant("all", ModelSettings(), ForcingSettings())[0]
    model = Seq2Seq(settings, 10_000, vocabulary)
    source = torch.randint(4, 10_000, (SENTENCES, words))
    target = torch.randint(4, vocabulary, (SENTENCES, words))

    def timed() -> float:
        began = time.perf_counter()
        forced_loss(model, source, target, 0.1).backward()
        return time.perf_counter() - began

    before = _peak()
    timed()
    return Point(min(timed() for _ in range(5)), _peak() - before)


def collection(vectors: int) -> Point:
    """Measure building a collection of 50-d vectors."""
    from benchmarks.stage_neighbours import as_items, glove
    from seqvis.collection.collection import Collection

    rows = glove(vectors)
    before = _peak()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        Collection.build(Path(folder) / "c", 50, as_items(rows)).close()
        return Point(time.perf_counter() - began, _peak() - before)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def corpus(pairs: int) -> Point:
    """Measure preparing a corpus, and the memory of all the job's processes."""
    figures = preparing(pairs)
    memory = figures["object_store_mb"] + sum(figures["peak_mb"].values())
    return Point(figures["own_seconds"], memory)


def preparing(pairs: int) -> dict[str, Any]:
    """Prepare a generated corpus; return figures of the job and of its processes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_generated(folder, pairs)
        out = folder / "corpus"
        began = time.monotonic()
        peaks, store = memory_of_job(
            "prepare_corpus", "--source", folder / "text.fr", "--target", folder / "text.en",
            "--source-lang", "fr", "--target-lang", "en", "--out", out,
        )  # fmt: skip
        seconds = time.monotonic() - began
        report = json.loads((out / "report.json").read_text())
        size = sum((folder / name).stat().st_size for name in ("text.fr", "text.en"))
    return {
        "input_mb": round(size / 2**20),
        "seconds": round(seconds, 1),
        "own_seconds": report["seconds"],
        "pairs_per_second": round(pairs / seconds),
        "kept": report["kept"],
        "object_store_mb": round(store),
        "peak_mb": {role: round(peak) for role, peak in sorted(peaks.items())},
    }


def training(rows: int) -> dict[str, Any]:
    """Train a linear head for an epoch with two workers; the memory of its processes by role."""
    from benchmarks.material import write_features, write_vectors

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_features(folder / "features", rows)
        write_vectors(folder / "vectors")
        began = time.monotonic()
        peaks, store = memory_of_job(
            "train_devise", "--features", folder / "features", "--vectors", folder / "vectors",
            "--out", folder / "model", "--epochs", 1, "--head.hidden", 0, "--num-workers", 2,
            "--cpus-per-worker", 1, environment={"TMPDIR": name},
        )  # fmt: skip
        return {
            "seconds": round(time.monotonic() - began, 1),
            "object_store_mb": round(store),
            "peak_mb": {role: round(peak) for role, peak in sorted(peaks.items())},
        }


def write_generated(folder: Path, pairs: int) -> None:
    """Write text.fr and text.en; 3 % of the pairs are repeated, 40 % have a rare name."""
    draw = random.Random(pairs)
    with (folder / "text.fr").open("w") as source, (folder / "text.en").open("w") as target:
        for number in range(pairs):
            repeated = draw.random() < 0.03
            pair = random.Random(number % 1000 if repeated else number + 1_000_003)
            length = pair.randint(4, 24)
            name = f" N{pair.randrange(pairs // 2)}" if pair.random() < 0.4 else ""
            for file, words in ((source, FRENCH), (target, ENGLISH)):
                file.write(f"{' '.join(pair.choices(words, k=length)).capitalize()}{name}.\n")


def pictures(count: int) -> Point:
    """Measure embedding pictures, and the memory of all the job's processes."""
    from benchmarks.material import photograph, write_files

    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "images", Path(name) / "out"
        contents = [photograph(number) for number in range(50)]
        write_files(folder, (contents[number % 50] for number in range(count)))
        peaks, store = memory_of_job(
            "embed_images", "--images", folder, "--image-size", 144,
            "--backbone", "efficientnet_lite0", "--out", out,
        )  # fmt: skip
        metrics = json.loads((out / "manifest.json").read_text())["metrics"]
        seconds = metrics["embedded"] / metrics["images_per_second"]
    return Point(seconds, store + sum(peaks.values()))


def memory_of_job(
    name: str, *flags: object, environment: Mapping[str, str] | None = None
) -> tuple[dict[str, float], float]:
    """Run a job; the largest own memory of its processes by role, and its object store's, in MB."""
    from serve.testing.server import own_memory

    command = [sys.executable, "-m", f"jobs.{name}", *map(str, flags)]
    job = psutil.Popen(command, stdout=sys.stderr, env={**os.environ, **(environment or {})})
    roles: dict[int, int] = {}  # of a process, whose name may change: the first of ROLES that fits
    peaks: dict[int, float] = {}
    store = 0.0
    while job.poll() is None:
        for process in (job, *job.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended
                line = " ".join(process.cmdline())
                role = next(number for number, (part, _) in enumerate(ROLES) if part in line)
                roles[process.pid] = min(role, roles.get(process.pid, role))
                own = own_memory(process) / 2**20
                peaks[process.pid] = max(own, peaks.get(process.pid, 0.0))
                if ROLES[role][1] == "raylet":
                    store = max(store, process.memory_info().shared / 2**20)
        time.sleep(0.2)
    if job.returncode != 0:
        raise SystemExit(f"{name} failed with exit code {job.returncode}")
    largest: dict[str, float] = {}
    for pid, peak in peaks.items():
        role_name = ROLES[roles[pid]][1]
        largest[role_name] = max(peak, largest.get(role_name, 0.0))
    return largest, store


def clients(translator: str, sentences: Path) -> dict[int, Point]:
    """Measure a request by the number of clients, and the replica's memory."""
    from benchmarks.serving import batching_config, load
    from serve.testing.server import run_config

    lines = sentences.read_text(encoding="utf-8").splitlines()[:2000]
    points = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(run_config(batching_config(translator, 256), folder))
        for count in SIZES["clients"]:
            figures = load(server.address, lines, count, 6.0)
            memory = server.memory()["Translator"] / 2**20
            points[count] = Point(figures["p50_ms"] / 1e3, memory)
    return points


POINTS: dict[str, Callable[..., Point]] = {
    "corpus": corpus,
    "pictures": pictures,
    "length": partial(step, vocabulary=10_000),
    "vocabulary": partial(step, WORDS),
    "collection": collection,
}


def exponent(points: dict[int, float]) -> float:
    """Return the slope of the logarithms."""
    sizes, values = zip(*sorted(points.items()), strict=True)
    slope = np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0]
    return round(float(slope), 2)


def summary(points: dict[int, Point]) -> dict[str, Any]:
    """Return the points, and the exponents of time and memory of the larger ones."""
    larger = sorted(points)[-max(3, len(points) // 2) :]
    return {
        "points": {size: vars(point) for size, point in points.items()},
        "seconds": exponent({size: points[size].seconds for size in larger}),
        "megabytes": exponent({size: points[size].megabytes for size in larger}),
    }


def draw(growths: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw a panel for each kind of growth: seconds, and megabytes on a second axis."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    from seqvis.plots.style import BLUE, ORANGE, new_figure, save, style

    lines = -(-len(growths) // 2)
    figure = new_figure(10, 3.2 * lines)
    for place, (name, growth) in enumerate(growths.items(), 1):
        axes = figure.add_subplot(lines, 2, place)
        points = growth["points"]
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
            drawn.set_ylabel(f"{key}, exponent {growth[key]:.2f}", color=colour)
    save(figure, path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print JSON and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--translator", help="for clients; without it they are left out")
    parser.add_argument("--sentences", type=Path)
    parser.add_argument("--chart", type=Path)
    parser.add_argument("--pairs", type=int, nargs="+", help="the processes of prepare_corpus")
    parser.add_argument("--rows", type=int, nargs="+", help="the processes of train_devise")
    flags = parser.parse_args(arguments)
    if flags.pairs:
        print(json.dumps({pairs: preparing(pairs) for pairs in flags.pairs}, indent=1))
        return 0
    if flags.rows:
        print(json.dumps({rows: training(rows) for rows in flags.rows}, indent=1))
        return 0
    growths = {}
    for name in flags.only:
        if name == "clients":
            if not flags.translator or not flags.sentences:
                continue
            points = clients(flags.translator, flags.sentences)
        else:
            points = {size: in_a_process(POINTS[name], size) for size in SIZES[name]}
        growths[name] = summary(points)
        print(name, json.dumps(growths[name]), file=sys.stderr, flush=True)
    if flags.chart:
        draw(growths, flags.chart)
    print(json.dumps(growths))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Does prepare_corpus need more memory for a larger corpus? Peak memory by process, at two sizes.

Generates aligned files of N pairs whose vocabulary grows with N (names and numbers beside
common words, some pairs repeated), runs `jobs.prepare_corpus` on each and samples /proc for
every process it started. Memory is what a process holds itself: resident less shared (Ray's
object store is shared memory and shown apart). Prints a table and, last, one JSON line.

    python benchmarks/prepare_memory.py --pairs 500000 5000000
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def measure(command: list[str]) -> tuple[dict[str, dict[str, float]], float, float]:
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


def main() -> int:
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
            peaks, store, seconds = measure(command)
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

"""How long a training job takes from the shell to the end of its first step, in this process alone
and with a Ray worker. The limit is Python that imports PyTorch and nothing else.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.instrument import Row, Side, WrongResultError, compare
from benchmarks.material import PRESET, Material

_INTERRUPTED = 130
_FIRST_STEP = "benchmarks.first_step"


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """One row; the rates are starts a second."""
    corpus = str(material.corpus.location.uri)
    out = material.work / "started"
    sides = [
        Side("python -c 'import torch'", _timed(lambda: [sys.executable, "-c", "import torch"])),
        Side("train_translator, in this process", _timed(lambda: _job(corpus, out, 0))),
        Side("train_translator, a Ray worker", _timed(lambda: _job(corpus, out, 1))),
    ]
    yield compare("start to first step", "starts/s", sides, rounds)


def _job(corpus: str, out: Path, workers: int) -> list[str]:
    return [
        sys.executable, "-m", _FIRST_STEP, "--config", str(PRESET), "--corpus", corpus,
        "--out", str(out), "--num-workers", str(workers), "--restart",
    ]  # fmt: skip


def _timed(command: Callable[[], list[str]]) -> Callable[[], float]:
    def run() -> float:
        began = time.time()
        done = subprocess.run(command(), capture_output=True, text=True, check=False)
        if done.returncode not in (0, _INTERRUPTED):
            raise WrongResultError(done.stderr)
        said = [line.split()[-1] for line in done.stdout.splitlines() if "first step" in line]
        return 1 / ((float(said[0]) if said else time.time()) - began)

    return run

"""A training keeps what it needs, and nothing for each new shape of a batch."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from seqvis.training.ray_train import WORKER_ENVIRONMENT
from tests.support.corpora import write_corpus

pytestmark = pytest.mark.slow

_WRITTEN = """
import re, sys
from pathlib import Path

def written():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
"""
_PROGRAM = (
    _WRITTEN
    + """
import torch
from seqvis.training.workers import Workers
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train_worker

def report(event):
    if event["event"] == "progress":
        sizes.append(written())

sizes = []
torch.set_num_threads(1)
train_worker(TrainSettings.model_validate_json(sys.argv[1]).resolved(), Workers(), report)
print(sizes)
"""
)
"""Train, and print the MiB that the process has written itself after each ten batches."""


_RELEASING = (
    _WRITTEN
    + """
from seqvis.process import release_freed_memory

before = written()
sizes = []
blocks = [b"x" * (n << 20) for n in range(1, 15)]
sizes.append(written() - before)
del blocks
sizes.append(written() - before)
release_freed_memory()
print([*sizes, written() - before])
"""
)
"""Take 105 MiB in large blocks, and print the MiB of the process with them, without and at last."""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_stays_flat_over_batches_of_ever_new_shapes(tmp_path: Path) -> None:
    draw = random.Random(1)
    words = [f"word{number}" for number in range(500)]
    pairs = [
        tuple(" ".join(draw.choices(words, k=draw.randint(2, 24))) for _ in range(2))
        for _ in range(700)
    ]
    settings = {
        "corpus": str(write_corpus(tmp_path / "corpus", pairs[8:], pairs[:8])),
        "out": str(tmp_path / "translator"),
        "epochs": 3,
        "batches": {"unit": "tokens", "size": 250},
        "model": {"embedding_size": 64, "hidden_size": 64},
    }
    kept = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(settings)],
        env={name: value for name, value in os.environ.items() if name not in kept}
        | WORKER_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    sizes = json.loads(done.stdout)
    assert len(sizes) > 9
    assert sizes[-1] < 1.05 * sizes[len(sizes) // 4], sizes


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_worker_keeps_what_is_freed_until_it_gives_it_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RELEASING],
        env=os.environ | WORKER_ENVIRONMENT,
        capture_output=True,
        text=True,
        check=True,
    )
    used, freed, released = json.loads(done.stdout)
    assert freed > 0.9 * used > 90
    assert released < 0.2 * used

"""What a process takes of the machine: memory that it keeps, processors that it may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqvis.collection.index import IndexSettings
from seqvis.process import usable_processors

_PROGRAM = """
import resource, torch
from seqvis.process import keep_freed_memory, release_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(40 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory()
faults()
kept = faults()
release_freed_memory()
print(usual, kept, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is tuned")
def test_freed_memory_is_used_again_until_it_is_released() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    usual, kept, released = map(int, done.stdout.split())
    assert kept < usual / 10
    assert released > 10 * kept


def test_a_system_without_affinities_uses_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert usable_processors() == 5
    assert IndexSettings().threads() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


def test_no_other_code_asks_for_affinities() -> None:
    root = Path(__file__).parents[3]
    asking = [
        path.relative_to(root).as_posix()
        for folder in ("seqvis", "jobs", "serve", "tune", "benchmarks")
        for path in (root / folder).rglob("*.py")
        if "sched_getaffinity" in path.read_text(encoding="utf-8")
    ]
    assert asking == ["seqvis/process.py"]

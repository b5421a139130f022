"""A collection whose writer is killed at any moment: a sample of what crash_collection.py does."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from seqvis.collection.collection import Collection
from seqvis.collection.index import Backend
from tests.faults.crash_collection import (
    DIMENSION,
    KINDS,
    SETTINGS,
    LostError,
    check_folder,
    crash,
    item,
)


@pytest.mark.parametrize(("backend", "kills"), [("nmslib", 6), ("symphonyqg", 2)])
def test_killed_at_random_moments_no_acknowledged_change_is_lost(
    tmp_path: Path, backend: Backend, kills: int
) -> None:
    result = crash(tmp_path, kills, seed=7, report=lambda text: None, backend=backend)
    assert result["faults"] == 0
    assert result["acknowledged"] > 0


@pytest.mark.parametrize(
    ("kind", "backend"), [*((kind, "nmslib") for kind in KINDS), ("compact", "symphonyqg")]
)
def test_dying_at_each_step_of_a_change_leaves_it_done_or_undone(kind: str, backend: str) -> None:
    """In a process of its own: this one is large, so it would fork slowly, and may have threads."""
    command = [sys.executable, "-m", "tests.faults.crash_collection", "--each-step", kind]
    command += ["--backend", backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["kind"], result["faults"]) == (kind, 0)
    assert result["steps"] > 3


def test_the_harness_sees_a_lost_change(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "collection", DIMENSION, settings=SETTINGS) as collection:
        collection.add([item("item-1", 1)])
    model = {"item-1": 1, "item-2": 1}
    with pytest.raises(LostError, match="item-2"):
        check_folder(tmp_path, (model, model), random.Random(0))

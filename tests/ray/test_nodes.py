"""Several nodes on this machine: what comes of work when nodes are lost, drained and added.

The scenarios are in `tests/support/nodes.py` and run in a process of their own, with a Ray of their
own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from tests.support.nodes import STEPS
from tests.support.processes import end_family

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]  # on a busy machine; else a minute

# The shares of a batch are summed in another order than the whole, and float32 rounds each sum by
# up to 6e-8 of it; over some hundred steps these roundings add up, and nothing else differs.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the scenarios print. Their Ray's sockets need a short path."""
    rays = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    folder = tmp_path_factory.mktemp("nodes")
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.nodes", str(folder)],
        env=kept | {"RAY_TMPDIR": rays},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, error = process.communicate(timeout=1100)
    finally:
        if process.poll() is None:  # its Ray's processes would go on without it
            end_family(process.pid)
        shutil.rmtree(rays, ignore_errors=True)
    assert process.returncode == 0, error[-4000:]
    return dict(json.loads(output.splitlines()[-1]))


def test_three_nodes_give_the_losses_of_one_worker(results: dict[str, Any]) -> None:
    one_worker, three_workers = (results["training"][name]["history"] for name in ("one", "three"))
    assert three_workers[0]["train_loss"] == pytest.approx(
        one_worker[0]["train_loss"], rel=ROUNDING
    )
    assert three_workers[0]["forced_loss"] == pytest.approx(
        one_worker[0]["forced_loss"], rel=ROUNDING
    )


def test_training_goes_on_with_two_workers_when_a_node_is_lost(results: dict[str, Any]) -> None:
    notes = results["training"]["three"]["notes"]
    lost = notes.index("lose")
    # No checkpoint had been due in the second epoch: it begins anew.
    assert any("going on from" in text and "(epoch 2, batch 1)" in text for text in notes[lost:])
    assert notes.index("epoch 2", lost) < notes.index("drain")


def test_a_drained_node_makes_the_workers_save_first(results: dict[str, Any]) -> None:
    notes = results["training"]["three"]["notes"]
    after = notes[notes.index("drain") - 1 :]
    saved = next(text for text in after if "about to be taken away" in text)
    resumed = next(text for text in after if "going on from" in text)
    step = int(saved.rsplit(" ", 1)[1])
    assert step > 2 * STEPS
    assert int(resumed.split("step-")[1].split(" ")[0]) >= step


def test_the_losses_are_the_same_after_both(results: dict[str, Any]) -> None:
    one_worker, three_workers = (results["training"][name]["history"] for name in ("one", "three"))
    assert [row["step"] for row in three_workers] == [row["step"] for row in one_worker]
    for ours, theirs in zip(three_workers, one_worker, strict=True):
        assert ours["forced_loss"] == pytest.approx(theirs["forced_loss"], rel=ROUNDING)


def test_preparation_and_embedding_survive_a_lost_node_to_the_last_byte(
    results: dict[str, Any],
) -> None:
    data = results["data"]
    assert len(data["lost"]) == 2
    for name in ("corpus", "features"):
        assert data[f"{name}-lost"] == data[f"{name}-whole"]
    assert any(name.startswith("train/") for name in data["corpus-whole"])


def test_fine_tuning_takes_in_a_node_and_goes_on_when_one_is_lost(results: dict[str, Any]) -> None:
    notes = results["tuning"]["several"]["notes"]
    grown, lost = notes.index("grown"), notes.index("lose")
    for since in (notes[grown:lost], notes[lost:]):
        assert any("going on from" in text and "finetune" in text for text in since)
    alone, several = (results["tuning"][name]["history"] for name in ("one", "several"))
    assert [row["step"] for row in several] == [row["step"] for row in alone]
    for ours, theirs in zip(several, alone, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)

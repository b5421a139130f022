"""Fine-tuning on Ray Train's workers, whose pictures come from Ray Data's tasks.

A worker's dropout is its own, so neither the head nor the backbone has any here, and batch norm is
frozen in fine-tuning. Then the loss is the same on any number of workers, save for the order of
sums. The head is trained once for all runs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqvis.devise.train import train
from seqvis.training.workers import Resources
from tests.support.devise import (
    backbone_without_dropout,
    make_drawings,
    same_head,
    tuning_settings,
)
from tests.support.processes import children_named
from tests.support.waiting import checkpoints, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

EPOCHS, STEPS = 4, 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return make_drawings(folder, backbone_without_dropout(folder))


class Run:
    """A run's events; `disturb` is called after the first step of the second epoch, once."""

    def __init__(self, disturb: Callable[[], Any] | None = None):
        self.notes: list[str] = []
        self.history: list[dict[str, Any]] = []
        self._disturb = disturb

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "note":
            self.notes.append(event["text"])
        if event["event"] == "epoch":
            self.history = event["history"]
        if event["event"] == "progress" and event["epochs"] == EPOCHS and event["epoch"] == 2:
            disturb, self._disturb = self._disturb, None
            if disturb:
                disturb()


@pytest.fixture(scope="module")
def alone(data: Path) -> Run:
    run = Run()
    train(tuning_settings(data, "alone", EPOCHS), run)
    return run


def test_one_worker_ends_with_the_weights_of_this_process(data: Path, alone: Run) -> None:
    """The one reads its pictures in threads, the other by a stream, bit for bit alike."""
    run = Run()
    same_head(data, "one", "alone")
    resources = Resources(1, cpus_per_worker=torch.get_num_threads())
    train(tuning_settings(data, "one", EPOCHS), run, resources)
    assert run.history[-1]["loss"] == alone.history[-1]["loss"]
    for name in ("model.safetensors", "backbone.safetensors"):
        ours, theirs = (load_file(data / place / name) for place in ("one", "alone"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_two_workers_have_the_losses_of_one_also_after_one_was_killed(
    data: Path, alone: Run
) -> None:
    saved = data / "two.run" / "checkpoints" / "finetune"

    def in_mid_epoch() -> bool:
        return any(int(name.removeprefix("step-")) % STEPS for name in checkpoints(saved)[-1:])

    def kill_a_worker() -> None:
        wait_until(in_mid_epoch, "no step is saved")
        children_named("RayTrainWorker")[-1].kill()

    run = Run(kill_a_worker)
    same_head(data, "two", "alone")
    train(tuning_settings(data, "two", EPOCHS), run, Resources(2, cpus_per_worker=1))
    (resumed,) = (note for note in run.notes if "finetune" in note and "going on from" in note)
    assert "batch 1)" not in resumed  # in the middle of an epoch
    assert [row["step"] for row in run.history] == [STEPS * n for n in range(1, EPOCHS + 1)]
    for ours, theirs in zip(run.history, alone.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert run.history[0]["train_loss"] == pytest.approx(alone.history[0]["train_loss"], rel=1e-4)

"""Fine-tuning on Ray Train's workers, whose pictures come from Ray Data's tasks.

A worker's dropout is its own, so neither the head nor the backbone has any here, and batch norm is
frozen in fine-tuning. Then the loss is the same on any number of workers, save for the order of
sums. The head is trained once for all runs, and one of the pictures is damaged after that of its
features.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train
from seqvis.errors import DataError
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
DAMAGED = "000003.jpg"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    made = make_drawings(folder, backbone_without_dropout(folder))
    (made / "images" / DAMAGED).write_bytes(b"no picture")
    return made


def settings_of(data: Path, out: str) -> DeviseSettings:
    settings = tuning_settings(data, out, EPOCHS)
    finetune = settings.finetune.model_copy(update={"unreadable_share": 0.2})
    return settings.model_copy(update={"finetune": finetune})


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
    train(settings_of(data, "alone"), run)
    return run


def test_one_worker_ends_with_the_weights_of_this_process(data: Path, alone: Run) -> None:
    """Reading in threads and in tasks, where a processor is free, differ in no bit."""
    run = Run()
    same_head(data, "one", "alone")
    resources = Resources(1, cpus_per_worker=torch.get_num_threads())
    train(settings_of(data, "one"), run, resources)
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
    train(settings_of(data, "two"), run, Resources(2, cpus_per_worker=1))
    assert any(f"{DAMAGED}: not an image" in note for note in run.notes)
    (resumed,) = (note for note in run.notes if "finetune" in note and "going on from" in note)
    assert "batch 1)" not in resumed  # in the middle of an epoch
    assert [row["step"] for row in run.history] == [STEPS * n for n in range(1, EPOCHS + 1)]
    for ours, theirs in zip(run.history, alone.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert run.history[0]["train_loss"] == pytest.approx(alone.history[0]["train_loss"], rel=1e-4)


def test_two_workers_end_together_when_too_many_pictures_are_damaged(
    data: Path, alone: Run
) -> None:
    same_head(data, "refused", "alone")
    began = time.monotonic()
    with pytest.raises(DataError, match=rf"{DAMAGED}: not an image.* --finetune.unreadable-share"):
        train(tuning_settings(data, "refused", EPOCHS), Run(), Resources(2, cpus_per_worker=1))
    assert time.monotonic() - began < 60

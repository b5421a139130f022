"""Fine-tuning on Ray Train's workers, whose pictures come from Ray Data's tasks.

A worker's dropout is its own, so the head has none here and the backbone is one without; batch norm
is frozen in fine-tuning. Then the loss is the same on any number of workers, save for the order of
sums. The head itself is trained once and handed on by its checkpoints.
"""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import shufflenet_v2_x0_5

from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train
from seqvis.training.workers import IN_THIS_PROCESS, Resources
from seqvis.vision.backbones import load_backbone
from tests.ray.test_train_translator import _processes
from tests.support.devise import make_drawings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

STEPS, EPOCHS = 3, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    torch.manual_seed(0)
    network = shufflenet_v2_x0_5()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    torch.save(network.state_dict(), folder / "weights.pth")
    backbone = load_backbone("shufflenet_v2_x0_5", str(folder / "weights.pth"), image_size=48)
    return make_drawings(folder, backbone)


def settings_of(data: Path, out: Path) -> DeviseSettings:
    return DeviseSettings.model_validate(
        {
            "features": str(data / "features"),
            "vectors": str(data / "vectors"),
            "out": str(out),
            "epochs": 1,
            "batch_size": 16,
            "head": {"hidden": 0, "dropout": 0.0},
            "fit": {"precision": "float32", "checkpoint_minutes": 1e-9, "monitor": "loss"},
            "finetune": {"epochs": EPOCHS, "batch_size": 9},
        }
    )


class Run:
    """A run's events; `disturb` is called at the second step of the second epoch, once."""

    def __init__(self, disturb: Any = None):
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
    train(settings_of(data, data / "alone"), run, IN_THIS_PROCESS)
    return run


def train_with(data: Path, name: str, run: Run, resources: Resources) -> None:
    """Fine-tune the head that `alone` fine-tuned."""
    head = Path("checkpoints") / "head"
    shutil.copytree(data / "alone.run" / head, data / f"{name}.run" / head)
    train(settings_of(data, data / name), run, resources)


def test_one_worker_ends_with_the_weights_of_this_process(data: Path, alone: Run) -> None:
    """The one reads its pictures in threads, the other by a stream, bit for bit alike."""
    run = Run()
    train_with(data, "one", run, Resources(1, cpus_per_worker=torch.get_num_threads()))
    assert run.history[-1]["loss"] == alone.history[-1]["loss"]
    for name in ("model.safetensors", "backbone.safetensors"):
        ours, theirs = (load_file(data / place / name) for place in ("one", "alone"))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_three_workers_have_the_losses_of_one_also_after_one_was_killed(
    data: Path, alone: Run
) -> None:
    run = Run(lambda: os.kill(_processes()[-1], signal.SIGKILL))
    train_with(data, "three", run, Resources(3, cpus_per_worker=1))
    (resumed,) = (note for note in run.notes if "finetune" in note and "going on from" in note)
    assert "(epoch 2, batch " in resumed
    assert "batch 1)" not in resumed
    assert [row["step"] for row in run.history] == [STEPS, 2 * STEPS]
    for ours, theirs in zip(run.history, alone.history, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert run.history[0]["train_loss"] == pytest.approx(alone.history[0]["train_loss"], rel=1e-4)

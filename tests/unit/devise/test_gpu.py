"""What training a head does on a GPU: it never waits for one, keeps the features there, records."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqvis.devise import task
from seqvis.devise.data import TrainingData, load_data
from seqvis.devise.head import LossName
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.task import Batch, HeadTask
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import TrainingStep
from seqvis.training.workers import Workers
from tests.support.devise import settings_of
from tests.support.fakecuda import fake_cuda
from tests.support.recording import record


@pytest.fixture
def loaded(data: Path, tmp_path: Path) -> tuple[DeviseSettings, TrainingData]:
    settings = settings_of(data, tmp_path, features=str(data / "features"), batch_size=64)
    return settings, load_data(settings)


def head_task(loaded: tuple[DeviseSettings, TrainingData], **more: Any) -> HeadTask:
    settings, data = loaded
    chosen = settings.model_copy(update=more)
    return HeadTask(data.train, data.valid, data.targets, chosen)


@pytest.mark.parametrize("loss", ["cosine", "hinge", "softmax"])
def test_no_loss_waits_for_a_gpu(
    loss: LossName, loaded: tuple[DeviseSettings, TrainingData]
) -> None:
    training = head_task(loaded, loss=loss)
    rows = training.train.table.dimension
    with fake_cuda():
        with torch.device("cuda"):
            model = training.build_model()
            features, labels = torch.zeros(9, rows), torch.zeros(9, dtype=torch.long)
            targets = torch.zeros(training.targets.shape)
        training._targets = {features.device: targets}
        assert training.loss(model, Batch(features, labels, 0.1), 0.0).loss.is_cuda


def _train(training: HeadTask, record_steps: bool) -> list[Tensor]:
    """Weights after two epochs, and the validation."""
    step = TrainingStep(training, OptimizerSettings(), "float32", 1, Workers())
    replays = None
    if record_steps:
        step.graphs, replays = record()
    for epoch in (0, 1):
        for number, batch in enumerate(training.batches(epoch, 0, Workers())):
            step.step(batch, 100 * epoch + number, float(epoch), 1e-2, 0.9)
    assert replays is None or replays() > 0
    step.model.eval()
    with torch.no_grad():
        metrics = training.evaluate(step.model, Workers())
    return [torch.tensor(list(metrics.values())), *step.model.state_dict().values()]


@pytest.mark.parametrize("record_steps", [False, True])
def test_resident_features_and_recorded_steps_train_to_the_same_weights(
    loaded: tuple[DeviseSettings, TrainingData],
    record_steps: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = _train(head_task(loaded), False)
    monkeypatch.setattr(task, "free_memory", lambda _: 1 << 30)
    training = head_task(loaded)
    for ours, theirs in zip(_train(training, record_steps), expected, strict=True):
        assert torch.equal(ours, theirs)
    assert all(held is not None for held in training._resident.values())


def test_no_more_than_a_block_of_features_passes_through_the_process(
    loaded: tuple[DeviseSettings, TrainingData], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = loaded[1].train.table
    sent: list[int] = []

    def send(array: np.ndarray, device: torch.device) -> Tensor:
        sent.append(len(array))
        return torch.from_numpy(array).to(device)

    monkeypatch.setattr(task, "send", send)
    monkeypatch.setattr(task, "BLOCK", 50)
    features = task.send_all(table, torch.device("cpu"))
    assert np.array_equal(features.numpy(), table.features)
    assert max(sent) == 50
    assert sum(sent) == len(table)

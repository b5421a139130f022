"""Averages of weights, over steps and over epochs: with a task of a single weight."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqvis.storage import locate
from seqvis.training.averaging import mean_of, moving_average
from seqvis.training.checkpoints import CheckpointStore, Identity
from seqvis.training.events import StopTraining
from seqvis.training.fit import FitResult, FitSettings, fit
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.workers import Workers
from tests.unit.training.test_fit import OneWeight, OneWeightSettings

RATES = OptimizerSettings(learning_rate=0.1, clip_norm=0.0)


class ToTarget(OneWeight):
    """Validation measures how far the bias is from a target."""

    def __init__(self, target: float = 0.0):
        super().__init__([])
        self.target = target

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        assert isinstance(model, nn.Linear)
        assert not model.training
        return {"loss": abs(float(model.bias) - self.target)}


def run(folder: Path, task: ToTarget, stop: int = 0, **settings: Any) -> tuple[FitResult, str]:
    """Train for six epochs, or with `stop` to the end of that one. Returns the notes, too."""
    notes: list[str] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "note":
            notes.append(event["text"])
        if event["event"] == "epoch" and event["history"][-1]["epoch"] == stop:
            raise StopTraining

    chosen = FitSettings(precision="float32", monitor="loss", **settings)
    store = CheckpointStore(locate(folder / "checkpoints"))
    known = Identity.of(OneWeightSettings(epochs=6, fit=chosen))
    result = fit(task, 6, chosen, RATES, store, Workers(), report, known)
    return result, "\n".join(notes)


def bias_by_epoch(tmp_path: Path) -> list[Tensor]:
    """Return what the bias is after each epoch of a run."""
    run(tmp_path / "all", ToTarget(), average=6)
    store = CheckpointStore(locate(tmp_path / "all" / "checkpoints"))
    return [store.read(store.at(step)).tensors["model.bias"] for step in store.steps()]


def test_the_mean_of_the_last_epochs_is_kept_if_it_is_better(tmp_path: Path) -> None:
    biases = bias_by_epoch(tmp_path)
    mean = torch.stack(biases[-3:]).mean(0)
    result, notes = run(tmp_path / "better", ToTarget(float(mean)), average=3)
    torch.testing.assert_close(result.tensors["bias"], mean)
    assert (result.best["averaged_epochs"], result.best["epoch"]) == (3, 6)
    assert result.best["loss"] < 1e-6
    assert "mean of the weights of 3 epochs" in notes
    assert notes.endswith("the mean is kept")

    result, notes = run(tmp_path / "worse", ToTarget(float(biases[4])), average=3)
    assert torch.equal(result.tensors["bias"], biases[4])
    assert (result.best["epoch"], "averaged_epochs" in result.best) == (5, False)
    assert notes.endswith("the epoch is kept")


def test_a_run_that_is_given_an_average_late_takes_the_epochs_that_it_has(tmp_path: Path) -> None:
    biases = bias_by_epoch(tmp_path)
    with pytest.raises(StopTraining):
        run(tmp_path / "late", ToTarget(9.0), stop=4)
    result, notes = run(tmp_path / "late", ToTarget(float(biases[-1])), average=6)
    assert "mean of the weights of 5 epochs" in notes  # 1 was the best, 3 and 4 the newest
    assert torch.equal(result.tensors["bias"], biases[-1])


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_moving_average_is_validated_kept_and_resumed(tmp_path: Path, decay: float) -> None:
    whole, _ = run(tmp_path / "whole", ToTarget(9.0), moving_average=decay)
    plain, _ = run(tmp_path / "plain", ToTarget(9.0))
    assert whole.history[-1]["train_loss"] == plain.history[-1]["train_loss"]
    assert whole.history[-1]["loss"] != plain.history[-1]["loss"]

    store = CheckpointStore(locate(tmp_path / "whole" / "checkpoints"))
    newest = store.read(store.at(store.steps()[-1])).tensors
    assert newest["average.bias"] != newest["model.bias"]
    assert whole.history[-1]["loss"] == abs(float(newest["average.bias"]) - 9.0)
    best = store.read(store.at(whole.best["step"])).tensors
    assert torch.equal(whole.tensors["bias"], best["average.bias"])

    with pytest.raises(StopTraining):
        run(tmp_path / "parts", ToTarget(9.0), stop=3, moving_average=decay)
    parts, _ = run(tmp_path / "parts", ToTarget(9.0), moving_average=decay)
    assert torch.equal(parts.tensors["bias"], whole.tensors["bias"])


def test_the_moving_average_follows_its_formula() -> None:
    """The first weights begin it; what it starts from is soon forgotten, whatever the decay."""
    model = nn.Linear(1, 1)
    average = moving_average(model, 0.25)
    assert average is not None
    expected = 0.0
    for step in range(20):
        nn.init.constant_(model.bias, step**1.5)
        decay = min(0.25, (1 + step) / (10 + step)) if step else 0.0
        expected = decay * expected + (1 - decay) * step**1.5
        average.n_averaged.fill_(step)
        average.update_parameters(model)
        assert average.module.bias.item() == pytest.approx(expected, rel=1e-5)

    slow = moving_average(model, 0.999)
    assert slow is not None
    for step in range(100):
        nn.init.constant_(model.bias, 1000.0 if step < 10 else 1.0)
        slow.n_averaged.fill_(step)
        slow.update_parameters(model)
    assert slow.module.bias.item() == pytest.approx(1.0, abs=1e-2)


def test_an_average_that_is_asked_for_late_begins_with_the_weights(tmp_path: Path) -> None:
    with pytest.raises(StopTraining):
        run(tmp_path, ToTarget(9.0), stop=3)
    store = CheckpointStore(locate(tmp_path / "checkpoints"))
    before = float(store.read(store.at(store.steps()[-1])).tensors["model.bias"])
    run(tmp_path, ToTarget(9.0), moving_average=0.999)
    newest = store.read(store.at(store.steps()[-1])).tensors
    early, late = sorted([before, float(newest["model.bias"])])
    assert early < float(newest["average.bias"]) < late


def test_the_mean_leaves_counters_whole() -> None:
    first = {"w": torch.tensor([1.0, 2.0]), "seen": torch.tensor(10)}
    second = {"w": torch.tensor([3.0, 6.0]), "seen": torch.tensor(20)}
    mean = mean_of([first, second])
    assert torch.equal(mean["w"], torch.tensor([2.0, 4.0]))
    assert (int(mean["seen"]), mean["seen"].dtype) == (20, torch.int64)
    assert torch.equal(first["w"], torch.tensor([1.0, 2.0]))

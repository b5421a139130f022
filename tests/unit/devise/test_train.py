"""Training through the job's main: what a head learns, going on after a stop, calibration."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs import evaluate_devise, train_devise
from seqvis.devise.model import DeviseModel
from seqvis.devise.train import train
from seqvis.errors import ArtifactError, ConfigError, SeqvisError
from seqvis.training.workers import Resources
from seqvis.vision.feature_table import FeatureTable
from tests.support.devise import EACH, NOUNS, UNSEEN, settings_of, train_flags
from tests.support.pictures import write_features
from tests.support.waiting import checkpoints, wait_until
from tests.unit.conftest import Job


@pytest.mark.parametrize("loss", ["cosine", "hinge", "softmax"])
def test_a_head_finds_the_labels_of_pictures_it_was_not_trained_on(
    data: Path, tmp_path: Path, job: Job, loss: str
) -> None:
    more = ["--loss", loss, "--epochs", 12, "--calibration.folds", 0]
    more += ["--optimizer.learning-rate", 0.02]
    if loss != "softmax":
        more += ["--head.hidden", 64, "--head.dropout", 0.1]  # lesson 11's form
    code, result, _ = job(train_devise.main, *train_flags(data, tmp_path / "model", *more))
    assert code == 0
    assert result["seen_labels"] == len(NOUNS) - len(UNSEEN)
    model = ["--model", tmp_path / "model", "--features", data / "features"]
    _, seen, _ = job(evaluate_devise.main, *model, "--candidates", "seen")
    _, unseen, _ = job(evaluate_devise.main, *model, "--candidates", "unseen")
    assert seen["images"] + seen["trained_on"]["images"] == EACH * 16
    assert 0.05 < seen["images"] / (EACH * 16) < 0.15  # --validation-share
    assert unseen["images"] == EACH * 4
    assert "trained_on" not in unseen
    assert seen["hit@1"] > 0.9
    assert unseen["hit@1"] > 0.5  # among four: chance is 0.25
    opened = DeviseModel.open(str(tmp_path / "model"))
    assert opened.space.seen.sum() == 16
    assert not set(UNSEEN) & {
        label
        for label, is_seen in zip(opened.space.labels, opened.space.seen, strict=True)
        if is_seen
    }


def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    from seqvis.training.checkpoints import CheckpointStore

    more = ["--epochs", 3, "--calibration.folds", 2, "--fit.checkpoint-minutes", 0.0001]
    job(train_devise.main, *train_flags(data, tmp_path / "whole", *more))
    saved = 0
    original = CheckpointStore.save

    def save_and_break(self: CheckpointStore, *arguments: Any) -> None:
        nonlocal saved
        original(self, *arguments)
        saved += 1
        if saved in (2, 5, 8):
            self.wait()
            raise SeqvisError("cut off")

    monkeypatch.setattr(CheckpointStore, "save", save_and_break)
    codes = [
        job(train_devise.main, *train_flags(data, tmp_path / "cut", *more))[0] for _ in range(4)
    ]
    assert codes == [1, 1, 1, 0]
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_features_that_are_replaced_stop_a_training_that_goes_on_once_they_are_back(
    data: Path, tmp_path: Path
) -> None:
    table = FeatureTable.open(str(data / "features"))
    place, due, notes = tmp_path / "features", {3}, []

    def write(features: np.ndarray) -> None:
        write_features(place, table.labels, features)

    def report(event: dict[str, Any]) -> None:
        notes.append(event.get("text", ""))
        if event["event"] == "progress" and event["epoch"] in due:
            due.clear()
            saved = tmp_path / "out.run" / "checkpoints" / "head"
            wait_until(lambda: len(checkpoints(saved)) == 2, "two epochs are not saved")
            write(table.features[::-1])

    write(table.features)
    settings = settings_of(data, tmp_path, epochs=4, head={"hidden": 0})
    with pytest.raises(ArtifactError, match=f"{place}: was replaced or deleted while it was in"):
        train(settings, report)
    with pytest.raises(ConfigError, match=r"is a checkpoint of other pictures.*--restart"):
        train(settings, report)
    write(table.features)
    train(settings, report)
    assert any("going on from" in text and "(epoch 3, batch 1)" in text for text in notes)


def test_a_finished_model_is_given_more_epochs_with_its_calibration(
    data: Path, tmp_path: Path, job: Job
) -> None:
    out = tmp_path / "model"
    more = ["--calibration.folds", 2]
    code, _, error = job(train_devise.main, *train_flags(data, out, *more, "--epochs", 2))
    assert code == 0, error
    changed = ["--fit.patience", 9, "--calibration.at", 1]  # which no head depends on
    code, result, error = job(
        train_devise.main, *train_flags(data, out, *more, *changed, "--epochs", 4)
    )
    assert code == 0, error
    assert error.count("--epochs was 2, is 4") == 3  # the head and two folds
    with (out / "metrics.csv").open() as lines:
        table = list(csv.DictReader(lines))
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    assert len({row["learning_rate"] for row in table[1:]}) == 1
    assert "harmonic@1" in result["held_out_labels"]
    wrong = ["--head.dropout", 0.1, "--epochs", 3, "--calibration.folds", 3]
    code, _, error = job(train_devise.main, *train_flags(data, out, *wrong))
    assert code == 2
    assert "fold-1/step-" in error
    for change in (
        "calibration.folds was 2, is 3",
        "epochs was 4, is 3",
        "dropout was 0.5, is 0.1",
    ):
        assert change in error
    code, _, error = job(
        train_devise.main, *train_flags(data, out, "--epochs", 4, "--calibration.folds", 0)
    )
    assert code == 0, error


def test_a_head_goes_on_with_other_dropout_if_that_is_asked_for(
    data: Path, tmp_path: Path, job: Job
) -> None:
    flags = train_flags(data, tmp_path / "model", "--calibration.folds", 0)
    assert job(train_devise.main, *flags, "--epochs", 2)[0] == 0
    flags += ["--epochs", 3, "--head.dropout", 0.1]
    code, _, error = job(train_devise.main, *flags)
    assert code == 2
    assert "(head.dropout was 0.5, is 0.1); give --fit.allow-changes to go on with these" in error
    code, _, error = job(train_devise.main, *flags, "--fit.allow-changes", "--head.hidden", 16)
    assert code == 2
    assert "is 16); give --restart" in error
    code, _, error = job(train_devise.main, *flags, "--fit.allow-changes")
    assert code == 0, error
    assert "from here on with other settings: head.dropout was 0.5, is 0.1" in error


def test_the_finder_suggests_a_rate_for_the_head_and_draws_it(
    data: Path, tmp_path: Path, job: Job
) -> None:
    out = tmp_path / "model"
    flags = train_flags(data, out, "--find-lr", "--finder.highest", 2, "--num-workers", 0)
    code, result, error = job(train_devise.main, *flags)
    assert code == 0, error
    assert 1e-4 < result["learning_rate"] < 1
    plot = tmp_path / "model.run" / "learning_rates.png"
    assert result["plot"] == str(plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert not out.exists()
    conse = train_flags(data, out, "--find-lr", "--method", "conse")
    code, _, error = job(train_devise.main, *conse)
    assert code == 2
    assert "error: --find-lr: conse trains nothing" in error
    code, _, error = job(train_devise.main, *flags, "--finder.lowest", 2)
    assert code == 2
    assert "lowest must be below highest" in error


def test_a_head_alone_needs_no_ray_but_a_gpu_is_asked_of_the_cluster(
    data: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Resources] = []

    def note(settings: Any, report: Any, resources: Resources, *_: Any, **__: Any) -> Any:
        given.append(resources)
        return {}

    monkeypatch.setattr(train_devise, "train", note)
    flags = train_flags(data, tmp_path / "model")
    for more in ([], ["--use-gpu"], ["--finetune.epochs", 1]):
        code, _, error = job(train_devise.main, *flags, *more)
        assert code == 0, error
    assert [(resources.workers, resources.gpu) for resources in given] == [
        (0, False), (None, True), (None, False)
    ]  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(data: Path, tmp_path: Path, job: Job) -> None:
    flags = train_flags(data, tmp_path / "model", "--use-gpu", "--num-workers", 0)
    code, _, error = job(train_devise.main, *flags)
    assert code == 2
    assert "--use-gpu: this machine has no GPU that PyTorch can use" in error
    assert "Traceback" not in error


def test_calibration_never_sees_an_unseen_picture(data: Path, tmp_path: Path, job: Job) -> None:
    table = FeatureTable.open(str(data / "features"))
    features = table.features.copy()
    for row, label in enumerate(table.labels):
        if label in UNSEEN:
            features[row] = 60_000  # would throw off whatever looked at it
    write_features(tmp_path / "poisoned", table.labels, features)
    results = []
    for name, place in (("from-clean", data / "features"), ("other", tmp_path / "poisoned")):
        more = ["--epochs", 4, "--calibration.folds", 2, "--features", place]
        code, result, error = job(train_devise.main, *train_flags(data, tmp_path / name)[2:], *more)
        assert code == 0, error
        results.append(result)
    assert results[0]["unseen_bonus"] == results[1]["unseen_bonus"]
    assert results[0]["held_out_labels"] == results[1]["held_out_labels"]
    clean, poisoned = (
        load_file(tmp_path / name / "model.safetensors") for name in ("from-clean", "other")
    )
    assert all(torch.equal(clean[name], poisoned[name]) for name in clean)

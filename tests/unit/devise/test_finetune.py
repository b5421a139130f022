"""Fine-tuning: which weights move and how far, what stays frozen, and going on after a stop."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs import evaluate_devise, train_devise
from seqvis.devise.model import DeviseModel, same_backbone
from seqvis.vision.backbones import load_backbone, load_recorded
from tests.support.devise import make_drawings, tuning_flags
from tests.support.searching import draw
from tests.unit.conftest import Job


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    backbone = load_backbone("efficientnet_lite0", image_size=64)
    return make_drawings(tmp_path_factory.mktemp("finetune"), backbone)


@pytest.fixture(scope="module")
def tuned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "model"
    assert train_devise.main([str(flag) for flag in train_flags(data, out)]) == 0
    return out


def train_flags(data: Path, out: Path, *more: object) -> list[object]:
    return tuning_flags(data, out, "--num-workers", 0, *more)


def test_the_early_half_moves_least_and_statistics_stay(tuned: Path) -> None:
    before = load_backbone("efficientnet_lite0", image_size=64)
    after = load_file(tuned / "backbone.safetensors")
    named = dict(before.module.network.named_parameters())
    early, late = before.layer_groups()
    moved = {
        name: float((after[name] - parameter).abs().max()) for name, parameter in named.items()
    }
    by_identity = {id(parameter): name for name, parameter in named.items()}
    mean = [
        np.mean([moved[by_identity[id(parameter)]] for parameter in half]) for half in (early, late)
    ]
    assert 0 < mean[0] < mean[1] / 3  # the rates are ten times apart
    for name, statistic in before.module.network.named_buffers():
        assert torch.equal(after[name], statistic), name


def test_the_tuned_backbone_is_recorded_and_loads_wherever_the_model_lies(
    data: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tuned, tmp_path / "moved")
    model = DeviseModel.open(str(tmp_path / "moved"))
    backbone = load_recorded(model.backbone_config, "here")
    assert same_backbone(backbone.recorded, model.backbone_config)
    embedded = backbone.embed_files([draw(0, 1)])
    plain = load_backbone("efficientnet_lite0", image_size=64).embed_files([draw(0, 1)])
    assert np.abs(embedded.features - plain.features).max() > 1e-6
    assert model.project_embedded(embedded).shape == (1, model.dimension)
    places = ["--model", str(tmp_path / "moved"), "--features", str(data / "features")]
    assert evaluate_devise.main([*places, "--candidates", "seen"]) == 1  # the old one's features
    assert "embed the images" in capsys.readouterr().err


@pytest.mark.slow
def test_fine_tuning_that_was_cut_off_ends_alike_and_is_given_more_epochs(
    data: Path, tuned: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqvis.errors import SeqvisError
    from seqvis.training.checkpoints import CheckpointStore

    run = partial(job, train_devise.main)
    out = tmp_path / "cut"
    original, saved = CheckpointStore.save, 0

    def save_and_break(self: CheckpointStore, *arguments: Any) -> None:
        nonlocal saved
        original(self, *arguments)
        saved += 1
        if saved == 9:  # 4 of the head, 3 of the first epoch: between two steps of the second
            self.wait()
            raise SeqvisError("cut off")

    monkeypatch.setattr(CheckpointStore, "save", save_and_break)
    assert run(*train_flags(data, out, "--fit.checkpoint-minutes", 1e-9))[0] == 1
    code, _, error = run(*train_flags(data, out))
    assert code == 0, error
    assert "(epoch 2, batch 3)" in error
    for name in ("model.safetensors", "backbone.safetensors"):
        whole, resumed = (load_file(place / name) for place in (tuned, out))
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    code, _, error = run(*train_flags(data, out, "--epochs", 9))  # would be another head
    assert code == 2
    assert "finetune/step-" in error
    assert "other settings (epochs was 2, is 9); give --restart" in error
    code, _, error = run(*train_flags(data, out, "--finetune.epochs", 3))
    assert code == 0, error
    assert "--finetune.epochs was 2, is 3" in error
    assert len((out / "metrics.csv").read_text().splitlines()) == 4


def test_pictures_that_are_gone_are_named_before_the_head_is_trained(
    data: Path, tmp_path: Path, job: Job
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "000001.jpg").write_bytes(draw(0, 1))
    flags = train_flags(data, tmp_path / "model", "--finetune.images", tmp_path / "empty")
    code, _, error = job(train_devise.main, *flags)
    assert code == 1
    assert "does not hold 000000.jpg" in error or "does not hold 000002.jpg" in error
    assert "Traceback" not in error
    code, _, error = job(train_devise.main, *flags[:-1], tmp_path / "nowhere")
    assert code == 1
    assert "nowhere: no such folder" in error
    assert "if the pictures have moved, give --finetune.images" in error
    assert not (tmp_path / "model.run").exists()  # no head was trained for it


@pytest.mark.slow
def test_files_that_are_damaged_meanwhile_are_skipped_up_to_a_share(
    data: Path, tmp_path: Path, job: Job
) -> None:
    images = shutil.copytree(data / "images", tmp_path / "images")
    (images / "000003.jpg").write_bytes(b"no picture")
    short = ["--epochs", 1, "--finetune.epochs", 1, "--finetune.images", images]
    flags = train_flags(data, tmp_path / "model", *short)
    code, _, error = job(train_devise.main, *flags)
    assert code == 1
    message = (
        "000003.jpg: not an image; give a picture, such as a JPEG or PNG; 1 of the 27 pictures"
    )
    assert message in error
    assert "--finetune.unreadable-share 0.01: put them back, or embed the images anew" in error
    weights = []
    for _ in range(2):
        code, _, error = job(train_devise.main, *flags, "--finetune.unreadable-share", 0.1)
        assert code == 0, error
        assert error.count("000003.jpg: not an image") == 1
        weights.append(load_file(tmp_path / "model" / "backbone.safetensors"))
        flags.append("--restart")
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

"""A head that begins with another one's weights, with frozen batch norm as in lesson 11."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from jobs import train_devise
from seqvis.devise.task import HeadTask
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from tests.support.devise import NOUNS, train_flags
from tests.support.pictures import write_vec_file
from tests.unit.conftest import Job

QUICK = ("--epochs", 2, "--calibration.folds", 0, "--method", "devise", "--head.hidden", 16)
BATCH_NORM = {f"head.layers.{layer}" for layer in (0, 4)}
STATISTICS = ("weight", "bias", "running_mean", "running_var")


def test_a_second_fit_leaves_batch_norm_as_it_was(data: Path, tmp_path: Path, job: Job) -> None:
    first = tmp_path / "first"
    assert job(train_devise.main, *train_flags(data, first, *QUICK))[0] == 0
    more = [*QUICK, "--init", first]
    assert job(train_devise.main, *train_flags(data, tmp_path / "thawed", *more))[0] == 0
    more.append("--head.freeze-norm")
    code, result, _ = job(train_devise.main, *train_flags(data, tmp_path / "second", *more))
    assert code == 0
    before, after, thawed = (
        load_file(tmp_path / name / "model.safetensors") for name in ("first", "second", "thawed")
    )
    for layer in BATCH_NORM:
        for name in STATISTICS:
            tensor = before[f"{layer}.{name}"]
            assert np.array_equal(after[f"{layer}.{name}"], tensor), (layer, name)
            assert not np.array_equal(thawed[f"{layer}.{name}"], tensor), (layer, name)
    moved = [name for name in before if not np.array_equal(before[name], after[name])]
    assert {name.removesuffix(".weight").removesuffix(".bias") for name in moved} == {
        "head.layers.2",
        "head.layers.6",
    }
    _, again, _ = job(train_devise.main, *train_flags(data, first, *QUICK))
    assert result["loss"] < again["loss"]


def test_a_second_fit_that_was_cut_off_goes_on_without_the_first(
    data: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    assert job(train_devise.main, *train_flags(data, first, *QUICK))[0] == 0
    quick = [*QUICK, "--fit.checkpoint-minutes", 1e-9]
    more = [*quick, "--init", first, "--head.freeze-norm"]
    assert job(train_devise.main, *train_flags(data, tmp_path / "whole", *more))[0] == 0
    original, batches = HeadTask.loss, 0

    def loss(self: HeadTask, *arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 5:
            raise KeyboardInterrupt
        return original(self, *arguments)

    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(HeadTask, "loss", loss)
        assert job(train_devise.main, *train_flags(data, parts, *more))[0] == 130
    shutil.rmtree(first)
    code, _, error = job(train_devise.main, *train_flags(data, parts, *quick))
    assert (code, "', is 'not given'); give --restart" in error) == (2, True), error
    code, _, error = job(train_devise.main, *train_flags(data, parts, *more))
    assert (code, "going on from" in error) == (0, True), error
    weights = [(out / "model.safetensors").read_bytes() for out in (tmp_path / "whole", parts)]
    assert weights[0] == weights[1]
    code, _, error = job(train_devise.main, *train_flags(data, parts, *more, "--restart"))
    assert (code, "first: no such devise" in error) == (1, True), error


def test_norm_that_no_other_head_has_learnt_cannot_be_frozen(
    data: Path, tmp_path: Path, job: Job
) -> None:
    flags = train_flags(data, tmp_path / "out", *QUICK, "--head.freeze-norm")
    code, _, error = job(train_devise.main, *flags)
    assert (code, "--head.freeze-norm: leaves the batch norm of another" in error) == (2, True)


def test_a_head_that_does_not_fit_is_refused_before_anything_is_trained(
    data: Path, tmp_path: Path, job: Job
) -> None:
    first = tmp_path / "first"
    assert job(train_devise.main, *train_flags(data, first, *QUICK))[0] == 0

    def refused(*more: object) -> str:
        flags = train_flags(data, tmp_path / "second", *QUICK, "--init", first, *more)
        code, _, error = job(train_devise.main, *flags)
        assert code != 0
        assert not (tmp_path / "second.run").exists()
        return error

    assert "layers.2.weight has shape (16," in refused("--head.hidden", 32)
    generator = np.random.default_rng(0)
    other = {word: generator.normal(size=12).astype(np.float32) for word in NOUNS.values()}
    file = write_vec_file(tmp_path / "other.vec", other)
    build_store(open_source("vec", str(file)), str(tmp_path / "other"), {})
    assert "was trained with other word vectors" in refused("--vectors", tmp_path / "other")

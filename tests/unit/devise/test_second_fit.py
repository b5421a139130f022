"""A head that begins with another one's weights, with frozen batch norm as in lesson 11."""

from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from jobs import train_devise
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

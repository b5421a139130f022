"""Which pictures are trained on, which are held out, which labels are dropped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import train_devise
from seqvis.devise.data import load_data
from seqvis.devise.model import DeviseModel
from seqvis.devise.task import HeadTask
from seqvis.errors import ArtifactError, DataError
from seqvis.training.workers import Workers
from seqvis.vision.feature_table import FeatureTable
from tests.support.devise import labelled, settings_of
from tests.support.pictures import (
    write_features,
)
from tests.unit.conftest import Job


@pytest.mark.parametrize("valid", ["valid", "Validation", "sub/val"])
def test_folders_named_train_and_valid_are_never_mixed(
    data: Path, tmp_path: Path, valid: str
) -> None:
    places = [f"sub/{split}/{label}" for split in ("train", "test") for label in ("dog", "cat")]
    places += [f"{valid}/{label}" for label in ("dog", "cat", "horse")]  # no horse in training
    paths = {f"{place}/{n}.jpg": place.rsplit("/", 1)[-1] for place in places for n in range(40)}
    labelled(tmp_path, paths)
    loaded = load_data(settings_of(data, tmp_path))
    assert loaded.seen == ["cat", "dog"]
    assert loaded.kept_out == 80
    trained = {loaded.train.table.paths[row] for row in loaded.train.rows}
    held_out = {loaded.valid.table.paths[row] for row in loaded.valid.rows}
    assert trained == {path for path in paths if path.startswith("sub/train/")}
    assert held_out == {path for path in paths if f"{valid}/dog" in path or f"{valid}/cat" in path}
    other = load_data(settings_of(data, tmp_path, validation_features=str(tmp_path / "features")))
    assert {other.train.table.paths[row] for row in other.train.rows} == trained


@pytest.mark.parametrize("names", [("test",), ("valid",), ("train",), ("",), ("valid", "test")])
def test_without_two_splits_a_share_is_held_out(
    data: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    paths = {
        f"{n}/{lb}/{i}.jpg".lstrip("/"): lb
        for n in names
        for lb in ("dog", "cat")
        for i in range(40)
    }
    labelled(tmp_path, paths)
    loaded = load_data(settings_of(data, tmp_path))
    assert len(loaded.train.rows) + len(loaded.valid.rows) == 80
    assert 0 < len(loaded.valid.rows) < 20
    assert not set(loaded.train.rows) & set(loaded.valid.rows)
    used = [loaded.train.table.paths[row] for row in (*loaded.train.rows, *loaded.valid.rows)]
    assert all(path.startswith(names[0]) for path in used)


def test_only_bfloat16_that_is_asked_for_rounds_a_head(data: Path, tmp_path: Path) -> None:
    points = {}
    for precision in ("auto", "float32", "bfloat16"):
        places = {"features": str(data / "features"), "fit": {"precision": precision}}
        settings = settings_of(data, tmp_path, **places)
        loaded = load_data(settings)
        task = HeadTask(loaded.train, loaded.valid, loaded.targets, settings)
        torch.manual_seed(0)
        batch = next(task.validation(Workers()))
        with torch.autocast("cpu", torch.bfloat16):  # as the training loop where there is bfloat16
            points[precision] = task.project(task.build_model().eval(), batch.features)
    assert torch.equal(points["auto"], points["float32"])
    assert points["bfloat16"].dtype == torch.float32
    off = (points["bfloat16"] - points["float32"]).abs().max() / points["float32"].abs().max()
    assert 0 < off < 0.03


def test_checking_the_data_before_training_reads_no_features(data: Path, tmp_path: Path) -> None:
    place = tmp_path / "features"
    write_features(place, ["dog", "cat"] * 20, np.full((40, 24), np.nan))
    assert len(load_data(settings_of(data, tmp_path)).train) > 30
    with pytest.raises(ArtifactError, match="are not finite"):
        _ = FeatureTable.open(str(place)).features


def test_the_model_lists_each_label_that_was_dropped(data: Path, tmp_path: Path, job: Job) -> None:
    labels = ["01. Dog", "cat (2)", "Zorblax_boat", "n99999999"]
    labelled(tmp_path, {f"{label}/{n}.jpg": label for label in labels for n in range(20)})
    out = tmp_path / "out"
    given = ["--features", tmp_path / "features", "--vectors", data / "vectors", "--out", out]
    code, _, error = job(train_devise.main, *given, "--epochs", 1, "--head.hidden", 0)
    assert code == 0, error
    assert "Zorblax_boat (tried Zorblax_boat, Zorblax boat, Zorblax)" in error
    assert json.loads((out / "dropped_labels.json").read_text()) == [
        {
            "label": "Zorblax_boat",
            "tried": ["Zorblax_boat", "Zorblax boat", "Zorblax"],
            "pictures": 20,
        },
        {"label": "n99999999", "tried": ["n99999999"], "pictures": 20},
    ]
    assert DeviseModel.open(out).space.names == ["Dog", "cat"]


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (("0", "17"), "numbers are no words"),
        (("n99999999", "n02084732"), "WordNet's names are English words"),
        (("Zorblax cat", "Hund"), "names that are words, or take word vectors of the labels'"),
    ],
)
def test_labels_without_any_vector_have_a_remedy_that_fits(
    data: Path, tmp_path: Path, labels: tuple[str, str], remedy: str
) -> None:
    labelled(tmp_path, {f"{label}/{n}.jpg": label for label in labels for n in range(3)})
    with pytest.raises(DataError, match=remedy) as caught:
        load_data(settings_of(data, tmp_path))
    assert f"{labels[0]}: {labels[0]}" in str(caught.value)  # the form that was tried


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unseen": "n02084071\nn99999999"}, "has the label n99999999"),
        ({"unseen": "n99999999"}, "none of its labels (n99999999) is a label of"),
        ({"unseen": "n02084071\ndragon"}, "has the label dragon"),
        ({"labels": [""] * 40}, "its pictures have no labels"),
        ({"labels": ["qqq", "zzz"] * 20}, "has a vector for none of the 2 labels"),
        ({"labels": ["dog", "zzz"] * 20, "unseen": ""}, "1 labels with a vector are left"),
        ({"labels": ["dog", "cat"] * 20, "nan": True}, "are not finite"),
    ],
)
def test_what_cannot_be_trained_on_is_one_clear_message(
    data: Path, tmp_path: Path, job: Job, change: dict[str, Any], message: str
) -> None:
    place: Path = data / "features"
    if "labels" in change:
        features = np.random.default_rng(0).normal(size=(40, 24)).astype("f4")
        if change.get("nan"):
            features[7, 3] = np.nan
        place = write_features(tmp_path / "features", change["labels"], features)
    given = ["--features", place, "--vectors", data / "vectors", "--out", tmp_path / "model"]
    if change.get("unseen"):
        (tmp_path / "unseen.txt").write_text(change["unseen"])
        given += ["--unseen", tmp_path / "unseen.txt"]
    code, _, error = job(train_devise.main, *given)
    assert code in (1, 2)
    complaints = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(complaints) == 1
    assert message in complaints[0]
    assert not (tmp_path / "model").exists()

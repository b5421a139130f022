"""Losses, ranks, the bonus of unseen labels, ConSE and the blend of both ways."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs import train_devise
from seqvis.devise.calibrate import calibrate
from seqvis.devise.data import load_data
from seqvis.devise.head import cosine_loss, hinge_rank_loss, softmax_loss
from seqvis.devise.labels import imagenet_classes
from seqvis.devise.metrics import harmonic, hits, ranks
from seqvis.devise.model import DeviseModel
from seqvis.devise.settings import CalibrationSettings
from seqvis.devise.space import unit
from seqvis.devise.task import Pictures
from seqvis.errors import SeqvisError
from seqvis.training.workers import Workers
from seqvis.vision.feature_table import FeatureTable
from tests.support.devise import UNSEEN, train_flags
from tests.support.pictures import (
    write_features,
)
from tests.unit.conftest import Job


def projections() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    targets = torch.nn.functional.normalize(torch.randn(7, 4))
    return torch.randn(6, 4), targets, torch.tensor([0, 3, 6, 2, 2, 5])


def test_the_losses_are_their_formulas_step_by_step() -> None:
    projected, targets, labels = projections()
    for row, (v, label) in enumerate(zip(projected, labels, strict=True)):
        right = targets[label]
        cosine = float(v @ right / v.norm() / right.norm())
        assert float(cosine_loss(projected, targets, labels)[row]) == pytest.approx(1 - cosine)
        hinge = sum(
            max(0.0, 0.1 - float(right @ v) + float(targets[j] @ v))
            for j in range(len(targets))
            if j != label
        )
        loss = hinge_rank_loss(projected, targets, labels, 0.1)[row]
        assert float(loss) == pytest.approx(hinge, rel=1e-5)
        scores = [10 * float(v @ t / v.norm()) for t in targets]
        softmax = np.log(np.sum(np.exp(scores))) - scores[label]
        loss = softmax_loss(projected, targets, labels, 10)[row]
        assert float(loss) == pytest.approx(softmax, rel=1e-4)


def test_a_tie_counts_against_the_model() -> None:
    scores = np.array([[0.5, 0.5, 0.1], [0.9, 0.5, 0.5], [0.1, 0.2, 0.3]])
    assert ranks(scores, np.array([0, 1, 2])).tolist() == [2, 3, 1]
    rates = hits(np.array([2, 3, 1, 30]))
    assert rates == {"hit@1": 0.25, "hit@2": 0.5, "hit@5": 0.75, "hit@10": 0.75, "hit@20": 0.75}
    both = harmonic(rates, hits(np.array([1, 1, 9, 9])))
    assert both["harmonic@1"] == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert harmonic(rates, hits(np.array([99])))["harmonic@1"] == 0


def test_a_bonus_mends_a_head_that_leans_to_the_labels_it_was_given(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    targets = unit(generator.normal(size=(12, 6)).astype("f4"))
    labels = np.repeat(np.arange(12), 20)

    def pictures(seed: int) -> Pictures:
        noise = np.random.default_rng(seed).normal(size=(len(labels), 6)).astype("f4") * 0.4
        names = [str(label) for label in labels]
        place = write_features(tmp_path / str(seed), names, targets[labels] + noise)
        return Pictures(FeatureTable.open(str(place)), np.arange(len(labels)), labels)

    def train_head(number: int, train: Pictures, valid: Pictures, kept: np.ndarray) -> Any:
        assert train.labels.max() < len(kept)
        leaning = 0.7 * targets[kept].mean(0)  # to what it was given
        return lambda some: unit(some.batch(slice(None)).features.numpy() + leaning)

    chosen = CalibrationSettings(folds=3, at=1)
    calibration = calibrate(pictures(1), pictures(2), targets, chosen, 0, train_head, Workers())
    assert calibration.bonus > 0
    assert calibration.harmonic["harmonic@1"] > calibration.without["harmonic@1"]


def test_conse_is_the_weighted_mean_of_the_likeliest_classes(
    data: Path, tmp_path: Path, job: Job
) -> None:
    banana, pizza = "n07753592", "n07873807"  # classes of ImageNet that have vectors here
    numbers = {wnid: number for number, (wnid, _) in enumerate(imagenet_classes())}
    table = FeatureTable.open(str(data / "features"))
    classes = np.tile([numbers[banana], numbers[pizza]] * 5, (len(table), 1))
    shares = np.tile([0.5, 0.3] + [0.025] * 8, (len(table), 1))
    place = write_features(tmp_path / "features", table.labels, table.features, classes, shares)
    given = ["--features", place, "--vectors", data / "vectors"]
    for out, more in (("all", []), ("kept", ["--unseen", data / "unseen.txt"])):
        flags = [*given, "--out", tmp_path / out, "--method", "conse", *more]
        code, _, error = job(train_devise.main, *flags)
        assert code == 0, error
    model = DeviseModel.open(str(tmp_path / "all"))
    at = {label: model.space.vectors[row] for row, label in enumerate(model.space.labels)}
    expected = unit((0.6 * at[banana] + 0.4 * at[pizza])[None])
    projected = model.project_table(FeatureTable.open(str(place)), [0, 1])
    np.testing.assert_allclose(projected, np.repeat(expected, 2, axis=0), atol=1e-5)
    assert banana in UNSEEN  # so its class is left out where it counts as unseen
    projected = DeviseModel.open(str(tmp_path / "kept")).project_table(
        FeatureTable.open(str(place)), [0]
    )
    np.testing.assert_allclose(projected[0], at[pizza], atol=1e-5)


@pytest.fixture
def with_classes(data: Path, tmp_path: Path) -> Path:
    """The features with the classes of a classifier that takes everything for a banana."""
    numbers = {wnid: number for number, (wnid, _) in enumerate(imagenet_classes())}
    table = FeatureTable.open(str(data / "features"))
    classes = np.tile([numbers["n07753592"], numbers["n07873807"]] * 5, (len(table), 1))
    shares = np.tile([0.9] + [0.0] * 9, (len(table), 1))
    shares[5] = 0  # nothing that has a word
    return write_features(tmp_path / "classes", table.labels, table.features, classes, shares)


def test_few_pictures_are_placed_by_the_head_and_the_classes_together(
    data: Path, with_classes: Path, tmp_path: Path, job: Job
) -> None:
    given = ["--features", with_classes, "--vectors", data / "vectors", "--epochs", 1]
    models = {}
    for method in ("auto", "devise", "conse"):
        out = tmp_path / method
        code, result, said = job(train_devise.main, *given, "--out", out, "--method", method)
        assert (code, result["method"]) == (0, "blend" if method == "auto" else method)
        assert ("pictures of 20 labels are few" in said) == (method == "auto")
        models[method] = DeviseModel.open(str(out))
    table = FeatureTable.open(str(with_classes))
    head, classes = (models[name].project_table(table) for name in ("devise", "conse"))
    blended = models["auto"].project_table(table)
    np.testing.assert_allclose(blended, unit(head + classes), atol=1e-5)
    assert not classes[5].any()
    np.testing.assert_allclose(blended[5], head[5], atol=1e-5)
    rows = models["auto"].project_table(table, [7, 3])
    np.testing.assert_allclose(rows, blended[[7, 3]], atol=1e-6)
    with pytest.raises(SeqvisError, match="takes a classifier's classes as well"):
        models["auto"].project(table.features)


@pytest.mark.parametrize(
    ("more", "limit", "classes", "method"),
    [
        ([], 10_000, True, "blend"),
        ([], 400, True, "devise"),
        ([], 10_000, False, "devise"),
        (["--unseen"], 10_000, True, "devise"),
        (["--method", "devise"], 10_000, True, "devise"),
    ],
)
def test_the_method_is_chosen_by_the_number_of_pictures(
    more: list[str],
    limit: int,
    classes: bool,
    method: str,
    data: Path,
    with_classes: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from seqvis.devise import train as training

    monkeypatch.setattr(training, "BLEND_BELOW", limit)
    features = with_classes if classes else data / "features"
    flags = ["--features", features, "--vectors", data / "vectors", "--out", "x", *more]
    flags += [data / "unseen.txt"] if more == ["--unseen"] else []
    settings = train_devise.TrainDevise.from_command_line([str(flag) for flag in flags])
    chosen = training.resolve_method(settings, load_data(settings), lambda event: None)
    assert chosen.method == method


def test_a_blend_says_what_it_does_not_go_with(
    data: Path, with_classes: Path, tmp_path: Path, job: Job
) -> None:
    flags = ["--vectors", data / "vectors", "--out", tmp_path / "m", "--method", "blend"]
    for features, more, problem in (
        (with_classes, ["--finetune.epochs", 1], "takes the classes of the backbone as it was"),
        (data / "features", ["--unseen", data / "unseen.txt"], "does not know ImageNet's classes"),
    ):
        code, _, error = job(train_devise.main, "--features", features, *flags, *more)
        assert code == 2
        assert problem in error


def test_a_blend_is_calibrated_without_the_classes_that_are_held_out(
    data: Path, tmp_path: Path, job: Job
) -> None:
    numbers = {wnid: number for number, (wnid, _) in enumerate(imagenet_classes())}
    table = FeatureTable.open(str(data / "features"))
    own = [numbers.get(label) for label in table.labels]  # the classifier is always right
    classes = np.tile([[number or 0] for number in own], 10)
    shares = np.array([[number is not None] + [0.0] * 9 for number in own])
    place = write_features(tmp_path / "features", table.labels, table.features, classes, shares)
    held_out = {}
    for method in ("devise", "blend"):
        flags = train_flags(data, tmp_path / method, "--features", place, "--method", method)
        more = ["--epochs", 1, "--calibration.folds", 2, "--validation-share", 0.5]
        code, result, error = job(train_devise.main, *flags, *more)
        assert code == 0, error
        held_out[method] = result["held_out_labels"]
    assert held_out["blend"]["hit@1"] == held_out["devise"]["hit@1"] < 1
    assert held_out["blend"] != held_out["devise"]  # by the classes that are kept

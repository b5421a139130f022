"""DeViSE: losses, training and resuming it, calibration, evaluation, through the jobs' main."""

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jobs import evaluate_devise, train_devise
from seqvis.devise.calibrate import calibrate
from seqvis.devise.data import TRAINED_ON, load_data, trained_on
from seqvis.devise.head import cosine_loss, hinge_rank_loss, softmax_loss
from seqvis.devise.labels import imagenet_classes
from seqvis.devise.metrics import harmonic, hits, ranks
from seqvis.devise.model import DeviseModel
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.space import unit
from seqvis.devise.task import Pictures
from seqvis.errors import DataError, SeqvisError
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vision.feature_table import FeatureTable
from tests.support.pictures import (
    FEATURES,
    picture_features,
    word_vectors,
    write_features,
    write_vec_file,
)

Job = Callable[..., tuple[int, dict[str, Any], str]]

# Nouns with one reading here: the first name of a synset each.
NOUNS = {
    "n02084071": "dog", "n02121620": "cat", "n02374451": "horse", "n01503061": "bird",
    "n02512053": "fish", "n04490091": "truck", "n02958343": "car", "n02858304": "boat",
    "n04468005": "train", "n02691156": "airplane", "n02834778": "bicycle",
    "n03790512": "motorcycle",
    "n07739125": "apple", "n07753592": "banana", "n07747607": "orange", "n07679356": "bread",
    "n07873807": "pizza", "n04379243": "table", "n03001627": "chair", "n02818832": "bed",
}  # fmt: skip
UNSEEN = list(NOUNS)[3::5]
EACH = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Vectors, features of 20 labels with 24 pictures each, and the list of unseen labels."""
    folder = tmp_path_factory.mktemp("devise")
    words = [*NOUNS.values(), *(f"other{number}" for number in range(100))]
    vectors = word_vectors(words)
    file = write_vec_file(folder / "words.vec", vectors)
    build_store(open_source("vec", str(file)), str(folder / "vectors"), {})
    by_label = {wnid: vectors[name] for wnid, name in NOUNS.items()}
    labels = [wnid for wnid in NOUNS for _ in range(EACH)]
    write_features(folder / "features", labels, picture_features(labels, by_label))
    (folder / "unseen.txt").write_text("# kept from training\n" + "\n".join(UNSEEN) + "\n")
    return folder


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str]) -> Job:
    def run(main: Callable[[Sequence[str]], int], *arguments: object) -> Any:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        return code, json.loads(lines[-1]) if lines else {}, captured.err

    return run


def flags(data: Path, out: Path, *more: object) -> list[object]:
    given = ["--features", data / "features", "--vectors", data / "vectors", "--out", out]
    small = ["--unseen", data / "unseen.txt", "--batch-size", 64, "--head.hidden", 0]
    return [*given, *small, *more]


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
        found = hinge_rank_loss(projected, targets, labels, 0.1)[row]
        assert float(found) == pytest.approx(hinge, rel=1e-5)
        scores = [10 * float(v @ t / v.norm()) for t in targets]
        softmax = np.log(np.sum(np.exp(scores))) - scores[label]
        found = softmax_loss(projected, targets, labels, 10)[row]
        assert float(found) == pytest.approx(softmax, rel=1e-4)


def test_a_tie_counts_against_the_model() -> None:
    scores = np.array([[0.5, 0.5, 0.1], [0.9, 0.5, 0.5], [0.1, 0.2, 0.3]])
    assert ranks(scores, np.array([0, 1, 2])).tolist() == [2, 3, 1]
    found = hits(np.array([2, 3, 1, 30]))
    assert found == {"hit@1": 0.25, "hit@2": 0.5, "hit@5": 0.75, "hit@10": 0.75, "hit@20": 0.75}
    both = harmonic(found, hits(np.array([1, 1, 9, 9])))
    assert both["harmonic@1"] == pytest.approx(2 * 0.25 * 0.5 / 0.75)
    assert harmonic(found, hits(np.array([99])))["harmonic@1"] == 0


@pytest.mark.parametrize("loss", ["cosine", "hinge", "softmax"])
def test_a_head_finds_the_labels_of_pictures_it_was_not_trained_on(
    data: Path, tmp_path: Path, job: Job, loss: str
) -> None:
    more = ["--loss", loss, "--epochs", 12, "--calibration.folds", 0]
    more += ["--optimizer.learning-rate", 0.02]
    if loss != "softmax":
        more += ["--head.hidden", 64, "--head.dropout", 0.1]  # lesson 11's form
    code, result, _ = job(train_devise.main, *flags(data, tmp_path / "model", *more))
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


def test_the_evaluation_agrees_with_one_by_hand(data: Path, tmp_path: Path, job: Job) -> None:
    job(
        train_devise.main,
        *flags(
            data, tmp_path / "model", "--epochs", 4, "--calibration.at", 1, "--calibration.folds", 2
        ),
    )
    places = ["--model", tmp_path / "model", "--features", data / "features"]
    table_file = tmp_path / "classes.csv"
    code, result, _ = job(
        evaluate_devise.main, *places, "--candidates", "all", "--per-class", table_file
    )
    assert code == 0
    model = DeviseModel.open(str(tmp_path / "model"))
    table = FeatureTable.open(str(data / "features"))
    points = model.project(table.features)
    right = {True: 0, False: 0}
    of_seen = 0
    for row, label in enumerate(table.labels):
        share = int(hashlib.sha256(table.paths[row].encode()).hexdigest()[:14], 16) / 16**14
        if label not in UNSEEN and share >= 0.1:  # in the training
            continue
        of_seen += label not in UNSEEN
        scores = {}
        for number, candidate in enumerate(model.space.labels):
            bonus = 0 if model.space.seen[number] else model.unseen_bonus
            scores[candidate] = float(points[row] @ model.space.vectors[number]) + bonus
        better = sum(score >= scores[label] for score in scores.values())
        right[label not in UNSEEN] += better <= 2
    seen, unseen = right[True] / of_seen, right[False] / (4 * EACH)
    assert result["seen_hit@2"] == pytest.approx(seen, abs=1e-4)
    assert result["unseen_hit@2"] == pytest.approx(unseen, abs=1e-4)
    assert result["harmonic@2"] == pytest.approx(2 * seen * unseen / (seen + unseen), abs=1e-4)
    with table_file.open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert sum(int(row["images"]) for row in rows) == result["images"]
    assert {row["name"] for row in rows if row["seen"] == "False"} == {NOUNS[w] for w in UNSEEN}


def test_pictures_of_the_training_are_scored_apart_wherever_they_are(
    data: Path, tmp_path: Path, job: Job
) -> None:
    job(
        train_devise.main, *flags(data, tmp_path / "model", "--epochs", 1, "--calibration.folds", 0)
    )
    table = FeatureTable.open(str(data / "features"))
    was_trained = trained_on(DeviseModel.open(str(tmp_path / "model")), table)
    assert was_trained is not None
    seen = np.array([label not in UNSEEN for label in table.labels])

    def evaluate(features: Path) -> tuple[dict[str, Any], str]:
        places = ["--model", tmp_path / "model", "--features", features]
        page = tmp_path / "page.html"
        code, result, error = job(
            evaluate_devise.main, *places, "--candidates", "seen", "--page", page
        )
        assert code == 0
        return result, error + page.read_text(encoding="utf-8")

    first, said = evaluate(data / "features")
    assert first["measured_on"] == "pictures held out of training"
    assert first["images"] == (seen & ~was_trained).sum()
    assert "pictures of the training, among seen" in said
    # Embedded again, in another order and under other names, with pictures that are new.
    order = np.random.default_rng(3).permutation(len(table))
    new = np.random.default_rng(4).normal(0, 1, (30, table.dimension)).astype(np.float32)
    labels = [*(table.labels[row] for row in order), *(next(iter(NOUNS)) for _ in new)]
    write_features(tmp_path / "again", labels, np.concatenate([table.features[order], new]))
    again, _ = evaluate(tmp_path / "again")
    assert again["images"] == first["images"] + 30
    assert again["trained_on"] == first["trained_on"]
    # Nothing but pictures of the training.
    rows = np.flatnonzero(was_trained)
    write_features(tmp_path / "only", [table.labels[row] for row in rows], table.features[rows])
    only, said = evaluate(tmp_path / "only")
    assert only["measured_on"] == "pictures of the training"
    assert {key: only[key] for key in first["trained_on"]} == first["trained_on"]
    assert said.count("was trained on every one of these pictures") == 2


def test_a_model_without_a_record_of_its_training_knows_its_own_table_only(
    data: Path, tmp_path: Path, job: Job
) -> None:
    job(
        train_devise.main, *flags(data, tmp_path / "model", "--epochs", 1, "--calibration.folds", 0)
    )
    evaluation = [evaluate_devise.main, "--model", tmp_path / "model", "--candidates", "seen"]
    recorded = job(*evaluation, "--features", data / "features")[1]
    manifest = json.loads((tmp_path / "model/manifest.json").read_text())
    del manifest["files"][TRAINED_ON]
    (tmp_path / "model/manifest.json").write_text(json.dumps(manifest))
    assert job(*evaluation, "--features", data / "features")[1] == recorded
    table = FeatureTable.open(str(data / "features"))
    write_features(tmp_path / "again", table.labels[::-1], table.features[::-1])
    code, result, error = job(*evaluation, "--features", tmp_path / "again")
    assert (code, result["images"]) == (0, EACH * 16)
    assert result["measured_on"] == "pictures that may have been in the training"
    assert "does not record which pictures it was trained on" in error


def test_all_nouns_and_hops_are_candidates(data: Path, tmp_path: Path, job: Job) -> None:
    job(
        train_devise.main, *flags(data, tmp_path / "model", "--epochs", 3, "--calibration.folds", 2)
    )
    places = ["--model", tmp_path / "model", "--features", data / "features"]
    code, result, _ = job(evaluate_devise.main, *places, "--candidates", "wordnet")
    assert code == 0
    assert result["images"] + result["trained_on"]["images"] == EACH * 20
    assert result["candidates"] >= 20
    assert 0 <= result["hp@2"] <= 1
    assert result["coverage"]["labels"] == 82_115
    assert result["coverage"]["lesson_11_found"] == 49_469
    code, result, error = job(evaluate_devise.main, *places, "--candidates", "3-hop")
    assert code == 0, error
    assert result["images"] <= EACH * 4


def test_a_run_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    from seqvis.training.checkpoints import CheckpointStore

    more = ["--epochs", 3, "--calibration.folds", 2, "--fit.checkpoint-minutes", 0.0001]
    job(train_devise.main, *flags(data, tmp_path / "whole", *more))
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
    codes = [job(train_devise.main, *flags(data, tmp_path / "cut", *more))[0] for _ in range(4)]
    assert codes == [1, 1, 1, 0]
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_finished_model_is_given_more_epochs_with_its_calibration(
    data: Path, tmp_path: Path, job: Job
) -> None:
    out = tmp_path / "model"
    more = ["--calibration.folds", 2]
    code, _, error = job(train_devise.main, *flags(data, out, *more, "--epochs", 2))
    assert code == 0, error
    changed = ["--fit.patience", 9, "--calibration.at", 1]  # which no head depends on
    code, result, error = job(train_devise.main, *flags(data, out, *more, *changed, "--epochs", 4))
    assert code == 0, error
    assert error.count("--epochs was 2, is 4") == 3  # the head and two folds
    with (out / "metrics.csv").open() as lines:
        table = list(csv.DictReader(lines))
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
    assert len({row["learning_rate"] for row in table[1:]}) == 1
    assert "harmonic@1" in result["held_out_labels"]
    wrong = ["--head.dropout", 0.1, "--epochs", 3, "--calibration.folds", 3]
    code, _, error = job(train_devise.main, *flags(data, out, *wrong))
    assert code == 2
    assert "fold-1/step-" in error
    for change in (
        "calibration.folds was 2, is 3",
        "epochs was 4, is 3",
        "dropout was 0.5, is 0.1",
    ):
        assert change in error
    code, _, error = job(
        train_devise.main, *flags(data, out, "--epochs", 4, "--calibration.folds", 0)
    )
    assert code == 0, error


def test_the_finder_suggests_a_rate_for_the_head_and_draws_it(
    data: Path, tmp_path: Path, job: Job
) -> None:
    out = tmp_path / "model"
    code, result, error = job(train_devise.main, *flags(data, out, "--find-lr"))
    assert code == 0, error
    assert 1e-4 < result["learning_rate"] < 1
    plot = tmp_path / "model.run" / "learning_rates.png"
    assert result["plot"] == str(plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert not out.exists()
    conse = flags(data, out, "--find-lr", "--method", "conse")
    code, _, error = job(train_devise.main, *conse)
    assert code == 2
    assert "error: --find-lr: conse trains nothing" in error


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
        code, result, error = job(train_devise.main, *flags(data, tmp_path / name)[2:], *more)
        assert code == 0, error
        results.append(result)
    assert results[0]["unseen_bonus"] == results[1]["unseen_bonus"]
    assert results[0]["held_out_labels"] == results[1]["held_out_labels"]
    one, other = (
        load_file(tmp_path / name / "model.safetensors") for name in ("from-clean", "other")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_bonus_mends_a_head_that_leans_to_the_labels_it_was_given() -> None:
    generator = np.random.default_rng(1)
    targets = unit(generator.normal(size=(12, 6)).astype("f4"))
    labels = np.repeat(np.arange(12), 20)

    def pictures(seed: int) -> Pictures:
        noise = np.random.default_rng(seed).normal(size=(len(labels), 6)).astype("f4") * 0.4
        return Pictures(targets[labels] + noise, np.arange(len(labels)), labels)

    def train_head(number: int, train: Pictures, valid: Pictures, kept: np.ndarray) -> Any:
        assert train.labels.max() < len(kept)
        return lambda features: unit(features + 0.7 * kept.mean(0))  # leans to what it was given

    found = calibrate(pictures(1), pictures(2), targets, 3, 1, 0, train_head)
    assert found.bonus > 0
    assert found.harmonic["harmonic@1"] > found.without["harmonic@1"]


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
    found = model.project_table(FeatureTable.open(str(place)), [0, 1])
    np.testing.assert_allclose(found, np.repeat(expected, 2, axis=0), atol=1e-5)
    assert banana in UNSEEN  # so its class is left out where it counts as unseen
    found = DeviseModel.open(str(tmp_path / "kept")).project_table(
        FeatureTable.open(str(place)), [0]
    )
    np.testing.assert_allclose(found[0], at[pizza], atol=1e-5)


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
    found = models["auto"].project_table(table)
    np.testing.assert_allclose(found, unit(head + classes), atol=1e-5)
    assert not classes[5].any()
    np.testing.assert_allclose(found[5], head[5], atol=1e-5)
    rows = models["auto"].project_table(table, [7, 3])
    np.testing.assert_allclose(rows, found[[7, 3]], atol=1e-6)
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


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--finetune.epochs", "1"], "takes the classes of the backbone as it was"),
        (["--unseen", "unseen.txt"], "measured for a head alone"),
    ],
)
def test_a_blend_says_what_it_does_not_go_with(
    more: list[str], problem: str, data: Path, with_classes: Path, tmp_path: Path, job: Job
) -> None:
    flags = ["--features", with_classes, "--vectors", data / "vectors", "--out", tmp_path / "m"]
    more = [str(data / one) if one == "unseen.txt" else one for one in more]
    code, _, error = job(train_devise.main, *flags, "--method", "blend", *more)
    assert code == 2
    assert problem in error


def test_two_ray_workers_train_together(
    data: Path, tmp_path: Path, job: Job, ray_cluster: None
) -> None:
    more = ["--epochs", 10, "--calibration.folds", 0, "--num-workers", 2, "--cpus-per-worker", 1]
    code, result, error = job(train_devise.main, *flags(data, tmp_path / "model", *more))
    assert code == 0, error
    assert result["hit@5"] > 0.8


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


def settings_of(data: Path, folder: Path, **more: object) -> DeviseSettings:
    places = {"features": folder / "features", "vectors": data / "vectors", "out": folder / "out"}
    return DeviseSettings.model_validate({name: str(p) for name, p in places.items()} | more)


def labelled(folder: Path, by_path: dict[str, str]) -> None:
    """Features that show nothing, of pictures with these paths and labels."""
    order = sorted(by_path)
    noise = np.random.default_rng(0).normal(size=(len(order), FEATURES)).astype("f4")
    write_features(folder / "features", [by_path[path] for path in order], noise, paths=order)


@pytest.mark.parametrize("valid", ["valid", "Validation", "sub/val"])
def test_folders_named_train_and_valid_are_never_mixed(
    data: Path, tmp_path: Path, valid: str
) -> None:
    places = [f"sub/{split}/{label}" for split in ("train", "test") for label in ("dog", "cat")]
    places += [f"{valid}/{label}" for label in ("dog", "cat", "horse")]  # no horse in training
    paths = {f"{place}/{n}.jpg": place.rsplit("/", 1)[-1] for place in places for n in range(40)}
    labelled(tmp_path, paths)
    found = load_data(settings_of(data, tmp_path))
    assert found.seen == ["cat", "dog"]
    assert found.kept_out == 80
    trained = {found.table.paths[row] for row in found.train.rows}
    held_out = {found.valid_table.paths[row] for row in found.valid.rows}
    assert trained == {path for path in paths if path.startswith("sub/train/")}
    assert held_out == {path for path in paths if f"{valid}/dog" in path or f"{valid}/cat" in path}
    other = load_data(settings_of(data, tmp_path, validation_features=str(tmp_path / "features")))
    assert {other.table.paths[row] for row in other.train.rows} == trained


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
    found = load_data(settings_of(data, tmp_path))
    assert len(found.train.rows) + len(found.valid.rows) == 80
    assert 0 < len(found.valid.rows) < 20
    assert not set(found.train.rows) & set(found.valid.rows)
    used = [found.table.paths[row] for row in (*found.train.rows, *found.valid.rows)]
    assert all(path.startswith(names[0]) for path in used)


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


def test_features_or_vectors_of_another_kind_are_refused(
    data: Path, tmp_path: Path, job: Job
) -> None:
    job(
        train_devise.main, *flags(data, tmp_path / "model", "--epochs", 1, "--calibration.folds", 0)
    )
    other = write_features(tmp_path / "other", ["n02084071"] * 3, np.ones((3, 7)))
    code, _, error = job(evaluate_devise.main, "--model", tmp_path / "model", "--features", other)
    assert code == 1
    assert "(7 numbers a picture)" in error
    file = tmp_path / "wide.vec"
    file.write_text("2 3\ndog 1 2 3\ncat 3 2 1\n")
    build_store(open_source("vec", str(file)), str(tmp_path / "wide"), {})
    places = ["--model", tmp_path / "model", "--features", data / "features"]
    code, _, error = job(
        evaluate_devise.main, *places, "--candidates", "wordnet", "--vectors", tmp_path / "wide"
    )
    assert code == 1
    assert "have 3 dimensions" in error

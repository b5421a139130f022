"""Evaluation through the job's main: agreement with one by hand, and which pictures count."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import evaluate_devise
from seqvis.devise.data import TRAINED_ON, trained_on
from seqvis.devise.model import DeviseModel
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vision.feature_table import FeatureTable
from tests.support.devise import EACH, NOUNS, UNSEEN
from tests.support.pictures import (
    write_features,
)
from tests.unit.conftest import Job


def test_the_evaluation_agrees_with_one_by_hand(
    data: Path, calibrated: Path, tmp_path: Path, job: Job
) -> None:
    places = ["--model", calibrated, "--features", data / "features"]
    table_file = tmp_path / "classes.csv"
    code, result, _ = job(
        evaluate_devise.main, *places, "--candidates", "all", "--per-class", table_file
    )
    assert code == 0
    model = DeviseModel.open(str(calibrated))
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
    data: Path, trained: Path, tmp_path: Path, job: Job
) -> None:
    table = FeatureTable.open(str(data / "features"))
    was_trained = trained_on(DeviseModel.open(str(trained)), table)
    assert was_trained is not None
    seen = np.array([label not in UNSEEN for label in table.labels])

    def evaluate(features: Path) -> tuple[dict[str, Any], str]:
        places = ["--model", trained, "--features", features]
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
    data: Path, trained: Path, tmp_path: Path, job: Job
) -> None:
    shutil.copytree(trained, tmp_path / "model")
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


def test_all_nouns_and_hops_are_candidates(data: Path, calibrated: Path, job: Job) -> None:
    places = ["--model", calibrated, "--features", data / "features"]
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


def test_features_or_vectors_of_another_kind_are_refused(
    data: Path, trained: Path, tmp_path: Path, job: Job
) -> None:
    other = write_features(tmp_path / "other", ["n02084071"] * 3, np.ones((3, 7)))
    code, _, error = job(evaluate_devise.main, "--model", trained, "--features", other)
    assert code == 1
    assert "(7 numbers a picture)" in error
    file = tmp_path / "wide.vec"
    file.write_text("2 3\ndog 1 2 3\ncat 3 2 1\n")
    build_store(open_source("vec", str(file)), str(tmp_path / "wide"), {})
    places = ["--model", trained, "--features", data / "features"]
    code, _, error = job(
        evaluate_devise.main, *places, "--candidates", "wordnet", "--vectors", tmp_path / "wide"
    )
    assert code == 1
    assert "have 3 dimensions" in error

"""Searches through their own mains, on a real Ray: killed and gone on with, on workers, a head."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from jobs.train_translator import main as train_translator
from seqvis import artifacts
from seqvis.samples.questions import generate_pairs
from seqvis.storage import locate
from seqvis.training.events import StopTraining
from seqvis.training.workers import Resources
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from tests.support.corpora import write_corpus
from tests.support.devise import backbone_without_dropout, make_drawings, tuning_flags
from tune.devise import main as tune_devise
from tune.study.settings import TRANSLATOR, StudySettings
from tune.study.space import load_space
from tune.study.study import Study
from tune.translator import main as tune_translator

pytestmark = pytest.mark.ray

SPACE = """
model.dropout.input: {uniform: [0.0, 0.4]}
optimizer.learning_rate: {log_uniform: [0.001, 0.02]}
forcing.schedule: {choice: [linear, constant]}
model.embedding_size: 32
model.hidden_size: 24
batches.size: 32
fit.precision: float32
"""
TRIALS, EPOCHS = 4, 3


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = generate_pairs(400, seed=3)
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus", pairs[60:], pairs[:60])


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path / "space.yaml"


def flags(corpus: Path, space: Path, out: Path, *more: str) -> list[str]:
    places = ["--corpus", str(corpus), "--space", str(space), "--out", str(out)]
    return [*places, "--trials", str(TRIALS), "--epochs", str(EPOCHS), *more]


def records(out: Path) -> dict[str, dict[str, Any]]:
    files = sorted(out.glob("trials/*/trial.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def reopened(corpus: Path, space: Path, out: Path) -> Study:
    """The search as a new process would find it."""
    base = TrainSettings(corpus=str(corpus), out=str(out), epochs=EPOCHS, samples=0).model_dump()
    settings = StudySettings(space=str(space), metric="forced_loss", trials=TRIALS)
    loaded = load_space(str(space), TRANSLATOR, base, settings.metric)
    return Study(settings, loaded, TRANSLATOR, locate(out))


@pytest.mark.slow
def test_a_search_that_is_killed_loses_no_trial_and_runs_none_twice(
    corpus: Path, space: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = flags(corpus, space, out, "--num-workers", "0", "--max-concurrent", "2")
    command = [sys.executable, "-m", "tune.translator", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr
    ended = False
    for line in process.stderr:  # until one has ended and another is in the middle
        ended = ended or line.split()[1] in ("finished", "stopped")
        if ended and any(
            trial["results"] and trial["status"] == "open" for trial in records(out).values()
        ):
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = records(out)
    rungs = json.loads((out / "rungs.json").read_text())
    assert any(rungs.values())
    search = reopened(corpus, space, out)
    assert search.halving is not None
    assert search.halving.rungs() == rungs

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    after = records(out)
    assert sorted(after) == [f"t{number:04d}" for number in range(1, TRIALS + 1)]
    for number, (name, trial) in enumerate(after.items()):
        assert trial["config"] == search.space.random(1, number)
        assert trial["status"] in ("finished", "stopped"), trial["errors"]
        assert [row["epoch"] for row in trial["results"]] == list(
            range(1, len(trial["results"]) + 1)
        )
        if name in before:
            assert trial["results"][: len(before[name]["results"])] == before[name]["results"]
            if before[name]["status"] != "open":
                assert trial == before[name]
    orders = [row["order"] for trial in after.values() for row in trial["results"]]
    assert len(set(orders)) == len(orders)
    first = json.loads((out / "rungs.json").read_text())["1"]
    assert first == {name: -trial["results"][0]["metric"] for name, trial in after.items()}

    stored = optuna.load_study(study_name=None, storage=f"sqlite:///{out}/optuna.db")
    assert [trial.user_attrs["trial"] for trial in stored.trials] == sorted(after)
    for frozen, trial in zip(stored.trials, after.values(), strict=True):
        assert frozen.params == trial["config"]
        metrics = {row["epoch"]: row["metric"] for row in trial["results"]}
        assert frozen.intermediate_values == metrics

    result = json.loads(again.stdout.splitlines()[-1])
    assert (result["trials"], result["failed"]) == (TRIALS, 0)
    assert result["finished"] + result["stopped"] == TRIALS
    assert result["best_metric"] == min(
        row["metric"]
        for trial in after.values()
        for row in trial["results"]
        if trial["status"] == "finished"
    )
    best = artifacts.load(str(out / "best"), "translator")
    assert best.metrics["forced_loss"] == pytest.approx(result["best_metric"])
    assert list(out.glob("trials/*/model.run/tensorboard/*"))
    assert not list(out.glob("trials/*/model.run/checkpoints"))
    assert "usable trials" in result["refused"][0]  # four are too few to rank anything
    assert Path(result["report"]).is_file()


@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_trains_on_a_ray_train_worker_from_another_model(
    corpus: Path,
    space: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    donor = {"corpus": str(corpus), "out": str(tmp_path / "donor"), "epochs": 1, "samples": 0}
    sizes = {"model": {"embedding_size": 32, "hidden_size": 24}}
    train(TrainSettings.model_validate(donor | sizes), lambda event: None)
    monkeypatch.chdir(tmp_path)  # the trial runs in another directory
    arguments = flags(corpus, space, tmp_path / "out", "--trials", "1", "--epochs", "1")
    more = ["--init", "donor", "--num-workers", "1", "--cpus-per-worker", "1"]
    assert tune_translator([*arguments, *more]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["trials"], result["finished"], result["failed"]) == (1, 1, 0)
    trained = artifacts.load(str(tmp_path / "out" / "best"), "translator")
    assert trained.metrics["forced_loss"] == pytest.approx(result["best_metric"])
    assert trained.config["init"] == str(tmp_path / "donor")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_fine_tuning_is_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_drawings(tmp_path, backbone_without_dropout(tmp_path))
    space = tmp_path / "space.yaml"
    space.write_text(
        "finetune.learning_rate: {log_uniform: [1e-4, 1e-2]}\nfit.precision: float32\nepochs: 1\n"
    )
    more = ["--finetune.epochs", 1, "--space", space, "--trials", 2, "--num-workers", 0]
    out = tmp_path / "out"
    arguments = [str(flag) for flag in tuning_flags(data, out, *more)]
    assert tune_devise(arguments) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["trials"], result["failed"]) == (2, 0)
    trials = records(out)
    rates = {trial["config"]["finetune.learning_rate"] for trial in trials.values()}
    assert len(rates) == 2
    assert [[row["epoch"] for row in trial["results"]] for trial in trials.values()] == [[1], [1]]
    best = artifacts.load(str(out / "best"), "devise")
    assert best.config["finetune"]["learning_rate"] in rates
    assert "backbone.safetensors" in best.files
    assert best.metrics["loss"] == pytest.approx(result["best_metric"])


@pytest.mark.usefixtures("ray_cluster")
def test_a_population_gives_settings_that_training_takes(
    corpus: Path, space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = flags(corpus, space, out, "--algorithm", "pbt", "--trials", "2", "--epochs", "2")
    assert tune_translator([*arguments, "--num-workers", "0"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["trials"], result["finished"], result["stopped"]) == (3, 2, 1)
    child = records(out)["t0003"]
    donor = records(out)[child["origin"]["donor"]]
    assert [row["epoch"] for row in child["results"]] == [2]
    assert child["results"][0]["seconds"] > donor["results"][0]["seconds"]  # it went on from there
    best = ["--config", str(out / "best.yaml"), "--corpus", str(corpus), "--num-workers", "0"]
    assert train_translator([*best, "--out", str(tmp_path / "again")]) == 0
    again = artifacts.load(str(tmp_path / "again"), "translator").config
    searched = artifacts.load(str(out / "best"), "translator").config
    for key in ("model", "forcing", "optimizer", "batches", "fit"):
        assert again[key] == searched[key]


@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_stop_together_when_the_listener_says_so(corpus: Path, tmp_path: Path) -> None:
    tree = {
        "corpus": str(corpus),
        "out": str(tmp_path / "out"),
        "epochs": 3,
        "model": {"embedding_size": 32, "hidden_size": 24},
        "fit": {"precision": "float32"},
        "samples": 0,
    }
    epochs: list[int] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "epoch":
            epochs.append(len(event["history"]))
            if epochs == [1]:
                raise StopTraining

    settings = TrainSettings.model_validate(tree)
    resources = Resources(2, cpus_per_worker=1)
    assert train(settings, report, resources, stoppable=True) == {}
    assert epochs == [1]
    assert train(settings, report)["epoch"] in (1, 2, 3)
    assert epochs == [1, 2, 3]

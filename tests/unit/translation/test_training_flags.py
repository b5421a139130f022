"""What train_translator says of its flags, and the presets that are shipped."""

from pathlib import Path

import pytest

from jobs.prepare_corpus import main as prepare
from jobs.pretrain import main as pretrain
from jobs.train_devise import main as train_devise
from jobs.train_translator import main as train
from seqvis.samples.questions import generate_pairs
from tests.support.corpora import write_corpus
from tests.unit.conftest import Job

Capture = pytest.CaptureFixture[str]


def test_wrong_flags_of_training_are_told_together(tmp_path: Path, capsys: Capture) -> None:
    flags = ["--out", str(tmp_path / "o"), "--varaint", "all", "--epochs", "0"]
    assert train([*flags, "--model.dropout.output", "1.5"]) == 2
    error = capsys.readouterr().err
    for part in (
        "--varaint: no such flag, did you mean --variant?",
        "--corpus: is needed",
        "--epochs: input should be greater",
        "--model.dropout.output: input should be",
    ):
        assert part in error


def test_what_a_run_may_go_on_with_is_said_by_the_settings(tmp_path: Path, job: Job) -> None:
    pairs = generate_pairs(130, seed=3)
    corpus = write_corpus(tmp_path / "corpus", pairs[30:], pairs[:30])
    flags = [
        "--corpus", corpus, "--out", tmp_path / "out", "--num-workers", 0,
        "--model.embedding-size", 32, "--model.hidden-size", 24, "--fit.precision", "float32",
    ]  # fmt: skip
    assert job(train, *flags, "--epochs", 1)[0] == 0
    flags += ["--epochs", 2, "--samples", 1, "--fit.patience", 3]
    other = ["--model.dropout.output", 0.5, "--forcing.end", 0.5, "--optimizer.rise", 0.2]
    code, _, error = job(train, *flags, *other)
    assert code == 2
    shown = "forcing.end was 0.0, is 0.5; model.dropout.output was 0.35, is 0.5; optimizer.rise was"
    assert f"({shown} 0.1, is 0.2); give --fit.allow-changes to go on with these, " in error
    for never in (["--model.layers", 1], ["--optimizer.algorithm", "sgd"], ["--fit.seed", 7]):
        code, _, error = job(train, *flags, *never, "--fit.allow-changes")
        assert (code, "); give --restart to begin again" in error) == (2, True)
    code, result, error = job(train, *flags, *other, "--fit.allow-changes")
    assert (code, result["epoch"]) == (0, 2), error
    assert f"from here on with other settings: {shown}" in error
    code, _, error = job(train, *flags, *other)  # they are the run's own now
    assert code == 0, error


def test_every_preset_is_valid(questions: Path, tmp_path: Path, capsys: Capture) -> None:
    presets = sorted((Path(__file__).parents[3] / "jobs" / "presets").glob("*.yaml"))
    assert presets
    for preset in presets:
        # An impossible value stops the job after it has read the rest.
        flags = ["--config", str(preset), "--out", "y", "--epochs", "-1"]
        if preset.stem.endswith("corpus"):
            bad = ["--source", "x", "--target", "x", "--out", "y", "--seed", "one"]
            assert prepare(["--config", str(preset), *bad]) == 2
        elif preset.stem.endswith("devise"):
            assert train_devise([*flags, "--features", "x", "--vectors", "x"]) == 2
        elif preset.stem.endswith("pretrain"):
            assert pretrain([*flags, "--corpus", "x", "--side", "source"]) == 2
        else:
            assert train([*flags, "--corpus", "x"]) == 2
        assert capsys.readouterr().err.count("error:") == 1

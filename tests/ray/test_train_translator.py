"""train_translator through its own main, on a real Ray with two workers."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from jobs.train_translator import main
from seqvis import artifacts
from seqvis.errors import TrainingError
from seqvis.samples.questions import generate_pairs
from seqvis.training.events import EventQueue
from seqvis.training.ray_train import _pass_on
from seqvis.training.workers import Resources
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.translation.translator import Translator
from tests.support.corpora import write_corpus
from tests.support.processes import children_named
from tests.support.waiting import checkpoints, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SMALL = ["--model.embedding-size", "32", "--model.hidden-size", "24", "--fit.precision", "float32"]
STILL = dict.fromkeys(("input", "encoder", "bridge", "decoder", "output"), 0.0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = generate_pairs(550, seed=3)
    return write_corpus(tmp_path_factory.mktemp("corpus") / "corpus", pairs[50:], pairs[:50])


def _await_workers_end() -> None:
    wait_until(lambda: not children_named("RayTrainWorker"), "a worker goes on", 30)


def test_two_workers_see_the_losses_that_one_sees_also_after_one_was_killed(
    corpus: Path, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    killed: list[psutil.Process] = []
    idle: list[psutil.Process] = []

    def report(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "epoch" and not killed:
            for name in ("TrainController", "DatasetManager", "PlacementGroupCleaner"):
                idle.extend(children_named(name))
            saved = tmp_path / "two.run" / "checkpoints"
            wait_until(lambda: bool(checkpoints(saved)), "no checkpoint is saved")
            killed.append(children_named("RayTrainWorker")[-1])
            killed[0].kill()

    def settings(name: str) -> TrainSettings:
        return TrainSettings.model_validate(
            {
                "corpus": str(corpus),
                "out": str(tmp_path / name),
                "variant": "all",
                "epochs": 4,
                "batches": {"size": 16},
                "model": {"embedding_size": 32, "hidden_size": 24, "dropout": STILL},
                "fit": {"precision": "float32"},
                "samples": 0,
            }
        )

    train(settings("two"), report, Resources(2, cpus_per_worker=1))
    assert killed
    assert not idle  # what Ray Train would start besides the workers
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert any("going on from" in note for note in notes)
    history = [event["history"] for event in events if event["event"] == "epoch"][-1]
    expected: list[dict[str, Any]] = []
    train(settings("one"), lambda event: expected.extend(event.get("history", [])[-1:]))
    assert [row["epoch"] for row in history] == [row["epoch"] for row in expected] == [1, 2, 3, 4]
    for ours, theirs in zip(history, expected, strict=True):
        for key in ("train_loss", "forced_loss"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3)
    assert artifacts.load(str(tmp_path / "two"), "translator").metrics["bleu"] > 0
    assert Translator.load(str(tmp_path / "two")).translate(["Où est le chat ?"])[0].text


def test_a_run_that_is_stopped_leaves_what_was_and_goes_on_later(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped by Ctrl-C after two rows of the table of epochs, by SIGTERM after one more; then let
    be. A row is shown before its checkpoint is written, but after the one of the row before."""
    out = tmp_path / "out"
    flags = ["--corpus", str(corpus), "--out", str(out), *SMALL, "--batches.size", "16"]
    here = ["--num-workers", "0"]
    assert main([*flags, "--epochs", "1", *here]) == 0
    earlier = artifacts.load(str(out), "translator").fingerprint()
    flags += ["--epochs", "8", "--cpus-per-worker", "1"]
    command = [sys.executable, "-m", "jobs.train_translator", *flags, "--num-workers", "1"]
    address = {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    for more, rows, sent, code, message in (
        (["--restart"], 2, signal.SIGINT, 130, "error: interrupted;"),
        ([], 1, signal.SIGTERM, 143, "error: stopped;"),
    ):
        process = subprocess.Popen(
            [*command, *more],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | address,
            # A shell's background jobs, this test among them, are born deaf to Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert process.stderr
        printed = ""
        for line in process.stderr:
            printed += line
            if len(re.findall(r"^ +\d", printed, re.MULTILINE)) == rows:
                break
        process.send_signal(sent)
        printed += process.stderr.read()
        assert process.wait(timeout=60) == code
        assert printed.splitlines()[-1].startswith(message)
        assert "Traceback" not in printed
        assert ("going on from" in printed) == (not more)
        assert artifacts.load(str(out), "translator").fingerprint() == earlier
        _await_workers_end()
    capsys.readouterr()
    assert main([*flags, *here]) == 0
    assert "going on from" in capsys.readouterr().err
    assert artifacts.load(str(out), "translator").metrics["epoch"] > 1


def test_an_error_in_a_worker_is_told_in_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--corpus", str(corpus), "--out", str(tmp_path / "out"), "--num-workers", "1", *SMALL]
    assert main([*flags, "--fit.monitor", "blue", "--epochs", "1"]) == 2
    error = capsys.readouterr().err
    assert "error: --fit.monitor: blue is not a validation metric" in error
    assert "Traceback" not in error
    _await_workers_end()  # in a Ray that goes on


def test_a_ray_that_ends_under_a_training_is_told_in_one_line() -> None:
    """The job asks an actor on its own node for events, so that this is gone means Ray is."""
    events: Any = ray.remote(EventQueue).options(num_cpus=0).remote()
    ray.kill(events)
    with pytest.raises(
        TrainingError, match=r"^Ray ended .* the same command goes on from the last"
    ):
        _pass_on(events, lambda event: None)


def test_more_workers_than_the_machine_has_are_refused_at_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--corpus", str(corpus), "--out", str(tmp_path / "out"), "--num-workers", "64"]
    assert main(flags) == 2
    assert "--num-workers 64: needs 64 CPUs, this Ray has 3" in capsys.readouterr().err
    assert main([*flags[:-1], "1", "--use-gpu"]) == 2
    assert "leave out --use-gpu" in capsys.readouterr().err
    assert main([*flags[:-1], "2", "--min-workers", "3"]) == 2
    assert "--min-workers 3: is more than --num-workers 2" in capsys.readouterr().err

"""Runs as MLflow, Weights & Biases and TensorBoard read them back."""

from __future__ import annotations

import csv
import json
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from jobs.pretrain import main as pretrain
from jobs.train_devise import main as train_devise
from jobs.train_translator import main as train_translator
from seqvis import artifacts
from seqvis.config import Settings
from seqvis.errors import ConfigError, TrainingError
from seqvis.storage import locate
from seqvis.training.events import Report, StopTraining
from seqvis.training.launch import launch
from seqvis.training.trackers import tracking
from seqvis.training.workers import Workers
from tests.support.objectstore import Bucket
from tests.support.searching import World

if TYPE_CHECKING:  # they take seconds to load
    from mlflow import MlflowClient
    from wandb.proto.wandb_internal_pb2 import Record

SMALL = (
    "--num-workers", 0, "--model.embedding-size", 16, "--model.hidden-size", 16,
    "--variant", "plain", "--batches.size", 256, "--fit.precision", "float32",
)  # fmt: skip


class Rates(Settings):
    highest: float = 0.5


class RunSettings(Settings):
    """Of a run whose epochs a test makes up."""

    epochs: int = 2
    corpus: str = "s3://user:secret@bucket/corpus"
    vectors: str | None = None
    rates: Rates = Rates()


def row(epoch: int) -> dict[str, Any]:
    return {"epoch": epoch, "step": 20 * epoch, "loss": 1 / epoch, "hit@5": epoch / 10}


def progress(step: int) -> dict[str, Any]:
    shown = {"smoothed_train_loss": 9 / step, "learning_rate": 0.1, "tokens_per_second": 100.0}
    place = {"epoch": 1, "epochs": 2, "unit": "tokens", "position": step, "steps": 20}
    return {"event": "progress", "step": step, **place, **shown}


def sitting(
    out: str | Path,
    tracker: str,
    epochs: int = 2,
    report: Report = lambda event: None,
    fails: type[BaseException] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """A run of so many epochs, or one that goes on to them; it ends with an artifact."""
    place = locate(out)

    def work(given: RunSettings, workers: Workers, tell: Report) -> None:
        state = place.beside(".run") / "checkpoints" / "epoch"
        before = int(state.read_bytes()) if state.exists() else 0
        rows = [row(epoch) for epoch in range(1, before + 1)]
        if before:
            tell({"event": "resumed", "history": rows, "best_epoch": before})
        for epoch in range(before + 1, epochs + 1):
            tell(progress(20 * epoch - 10))
            rows.append(row(epoch))
            state.parent().make_directory()
            state.write_bytes(str(epoch).encode())
            tell({"event": "epoch", "history": rows, "best_epoch": epoch})
        if fails:
            raise fails("no more")
        with artifacts.create(place, "language model", {}) as writer:
            writer.path("weights/model.bin").write_bytes(b"weights")
        tell({"event": "done", "metrics": {"hit@5": epochs / 10, "signature": "v1", "text": None}})

    given = RunSettings(epochs=epochs, **settings)
    return launch(work, given, place, report, track=(tracker,))  # type: ignore[arg-type]


@pytest.fixture
def mlflow_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """An empty folder as MLflow's store, with this process's runs in it."""
    from mlflow import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return MlflowClient(uri)


def only_run(client: MlflowClient) -> Any:
    (run,) = client.search_runs(["0"])
    return run


def curve(client: MlflowClient, name: str) -> list[tuple[int, float]]:
    points = client.get_metric_history(only_run(client).info.run_id, name)
    return sorted((point.step, point.value) for point in points)


def test_mlflow_has_settings_curves_results_and_the_artifact(
    mlflow_client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN", 0.0)
    sitting(tmp_path / "out", "mlflow")
    run = only_run(mlflow_client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "out"
    corpus = "s3://***@bucket/corpus"
    assert run.data.params == {"epochs": "2", "corpus": corpus, "rates.highest": "0.5"}
    assert curve(mlflow_client, "loss") == [(20, 1.0), (40, 0.5)]
    assert curve(mlflow_client, "hit_at_5") == [(20, 0.1), (40, 0.2)]
    assert curve(mlflow_client, "smoothed_train_loss")[0] == (10, 0.9)
    assert run.data.metrics["best/hit_at_5"] == 0.2
    assert run.data.tags["best/signature"] == "v1"
    assert run.data.tags["seqvis.out"] == str(tmp_path / "out")
    copy = mlflow_client.download_artifacts(run.info.run_id, "language-model", str(tmp_path))
    assert artifacts.load(copy, "language model").file("weights/model.bin").exists()


def test_a_run_that_goes_on_is_the_same_run_of_mlflow(
    mlflow_client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN", 0.0)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "epoch" and len(event["history"]) == 2:
            time.sleep(0.5)  # what is queued would be dropped
            raise StopTraining

    sitting(tmp_path / "out", "mlflow", 3, stop)
    assert only_run(mlflow_client).info.status == "KILLED"
    with pytest.raises(TrainingError):
        sitting(tmp_path / "out", "mlflow", 3, fails=TrainingError)
    assert only_run(mlflow_client).info.status == "FAILED"
    sitting(tmp_path / "out", "mlflow", 4, rates=Rates(highest=0.25))
    run = only_run(mlflow_client)
    assert run.info.status == "FINISHED"
    assert curve(mlflow_client, "loss") == [(20 * n, 1 / n) for n in (1, 2, 3, 4)]
    assert run.data.params["rates.highest"] == "0.5"
    assert run.data.tags["now.rates.highest"] == "0.25"
    assert run.data.tags["now.epochs"] == "4"
    (tmp_path / "out.run" / "checkpoints" / "epoch").unlink()
    (tmp_path / "out.run" / "checkpoints").rmdir()  # so the next one begins anew
    sitting(tmp_path / "out", "mlflow")
    assert len(mlflow_client.search_runs(["0"])) == 2


def test_an_interrupted_run_is_killed_at_once_and_keeps_its_curves(
    mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    sitting(tmp_path / "warm", "mlflow")  # imports take seconds
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sitting(tmp_path / "out", "mlflow", fails=KeyboardInterrupt)
    assert time.monotonic() - began < 3
    killed, _ = mlflow_client.search_runs(["0"])
    assert killed.info.status == "KILLED"
    sitting(tmp_path / "out", "mlflow")
    points = mlflow_client.get_metric_history(killed.info.run_id, "loss")
    assert sorted(point.step for point in points) == [20, 40]


def test_a_tracker_that_is_down_is_said_once_and_gets_all_epochs_when_it_is_back(
    mlflow_client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = (tmp_path / "mlruns").rename(tmp_path / "aside")
    (tmp_path / "mlruns").write_text("no store")
    events: list[dict[str, Any]] = []

    def report(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "epoch":
            time.sleep(0.5)  # for the attempt
        if event["event"] == "epoch" and len(event["history"]) == 2:
            (tmp_path / "mlruns").unlink()
            store.rename(tmp_path / "mlruns")

    sitting(tmp_path / "out", "mlflow", 3, report)
    (note,) = [event["text"] for event in events if event["event"] == "note"]
    assert note.startswith("--track mlflow: ")
    assert "the training does not need it" in note
    assert curve(mlflow_client, "loss") == [(20, 1.0), (40, 0.5), (60, 1 / 3)]


def test_a_server_that_does_not_answer_ends_no_training(
    tmp_path: Path, questions: Path, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    flags = ("--corpus", questions, "--out", tmp_path / "out", "--epochs", 1, *SMALL)
    code, result, said = job(train_translator, *flags, "--track", "mlflow")
    assert code == 0
    assert result["epoch"] == 1
    assert said.count("--track mlflow: ") == 1
    assert "127.0.0.1" in said


def records(path: Path) -> Iterator[Record]:
    """The records of a file of Weights & Biases: LevelDB's log, after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the end of a block
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(whole)
            whole = b""


def items(entries: Sequence[Any]) -> dict[str, Any]:
    return {
        entry.key or ".".join(entry.nested_key): json.loads(entry.value_json) for entry in entries
    }


def test_wandb_has_settings_curves_results_and_the_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN", 0.0)
    sitting(tmp_path / "out", "wandb")
    sitting(tmp_path / "out", "wandb", 3)
    files = sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    first, second = (list(records(file)) for file in files)
    (begun,) = [record.run for record in first if record.HasField("run")]
    (again,) = [record.run for record in second if record.HasField("run")]
    assert begun.project == "seqvis"
    assert begun.display_name == "out"
    assert again.run_id == begun.run_id
    settings = items(begun.config.update)
    assert settings["rates.highest"] == 0.5
    assert settings["corpus"] == "s3://***@bucket/corpus"
    assert items(again.config.update)["epochs"] == 3
    points = [
        items(record.history.item) for record in [*first, *second] if record.HasField("history")
    ]
    rows = [(point["step"], point["loss"]) for point in points if "loss" in point]
    assert rows == [(20, 1.0), (40, 0.5), (60, 1 / 3)]
    assert points[0]["step"] == 10
    assert points[0]["smoothed_train_loss"] == 0.9
    axes = [(m.metric.glob_name, m.metric.step_metric) for m in first if m.HasField("metric")]
    assert axes == [("*", "step")]
    results: dict[str, Any] = {}
    for record in second:
        results |= items(record.summary.update) if record.HasField("summary") else {}
    assert results["best/hit@5"] == 0.3
    (artifact,) = [record.artifact for record in second if record.HasField("artifact")]
    assert (artifact.name, artifact.type) == ("out", "language-model")
    names = {entry.path for entry in artifact.manifest.contents}
    assert names == {"manifest.json", "weights/model.bin"}
    (ended,) = [record.exit.exit_code for record in second if record.HasField("exit")]
    assert ended == 0


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = read_events(folder)
    return {
        name: [(point.step, round(point.value, 4)) for point in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def test_tensorboard_has_steps_and_the_settings_beside_the_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "SECONDS_BETWEEN", 0.0)
    sitting(tmp_path / "out", "tensorboard")
    sitting(tmp_path / "out", "tensorboard", 3)
    folder = tmp_path / "out.run" / "tensorboard"
    curves = scalars(folder)
    assert curves["loss"] == [(20, 1.0), (40, 0.5), (60, 0.3333)]
    assert curves["hit@5"] == [(20, 0.1), (40, 0.2), (60, 0.3)]
    assert curves["smoothed_train_loss"][0] == (10, 0.9)
    plugin = read_events(folder).PluginTagToContent("hparams")
    assert b"rates.highest" in plugin["_hparams_/session_start_info"]
    assert (tmp_path / "out.run" / "metrics.csv").exists()


def test_tensorboards_files_get_to_an_object_store(bucket: Bucket, tmp_path: Path) -> None:
    uri = bucket.uri("out")
    sitting(uri, "tensorboard")
    folder = locate(uri).beside(".run") / "tensorboard"
    for file in folder.children():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert scalars(tmp_path)["loss"] == [(20, 1.0), (40, 0.5)]


def test_an_artifact_in_an_object_store_gets_to_mlflow(
    bucket: Bucket, mlflow_client: MlflowClient, tmp_path: Path
) -> None:
    sitting(bucket.uri("out"), "mlflow")
    run_id = only_run(mlflow_client).info.run_id
    copy = mlflow_client.download_artifacts(run_id, "language-model", str(tmp_path))
    assert artifacts.load(copy, "language model").file("weights/model.bin").exists()


def test_all_trainers_track_and_stages_have_curves_of_their_own(
    mlflow_client: MlflowClient, questions: Path, world: World, tmp_path: Path, job: Any
) -> None:
    flags = ("--corpus", questions, "--epochs", 1, *SMALL, "--track", "mlflow")
    code, result, _ = job(train_translator, *flags, "--out", tmp_path / "translator")
    assert code == 0
    translator = only_run(mlflow_client)
    assert translator.data.params["model.hidden_size"] == "16"
    assert translator.data.params["variant"] == "plain"
    assert translator.data.metrics["best/bleu"] == result["bleu"]
    assert translator.data.tags["best/signature"] == result["signature"]
    with (tmp_path / "translator.run" / "metrics.csv").open() as table:
        (written,) = csv.DictReader(table)
    assert translator.data.metrics["loss"] == pytest.approx(float(written["loss"]))
    assert job(pretrain, *flags, "--side", "source", "--out", tmp_path / "encoder")[0] == 0
    flags = ("--features", world.features, "--vectors", world.vectors, "--epochs", 2)
    flags = (*flags, "--calibration.folds", 0, "--track", "mlflow", "--num-workers", 0)
    assert job(train_devise, *flags, "--out", tmp_path / "head")[0] == 0
    runs = mlflow_client.search_runs(["0"])
    by_name = {run.info.run_name: run for run in runs}
    assert by_name.keys() == {"translator", "encoder", "head"}
    assert "loss" in by_name["encoder"].data.metrics
    head = by_name["head"].data.metrics
    assert "head/loss" in head
    assert "head/hit_at_5" in head


def test_an_unknown_tracker_is_refused_with_those_there_are(job: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'comet' is no tracker; choose from mlflow, wandb, tens"):
        launch(print, None, locate(tmp_path / "out"), print, track="comet")  # type: ignore[arg-type]
    flags = ("--corpus", "c", "--out", "o", "--track", "comet")
    code, _, said = job(train_translator, *flags)
    assert code == 2
    assert said == (
        "error: --track: input should be 'mlflow', 'wandb' or 'tensorboard' (given: 'comet')\n"
    )


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_a_missing_extra_is_named_before_training(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ConfigError, match=rf"{package}: not installed; pip install 'seqvis\[tracki"
    ):
        sitting(tmp_path / "out", package)
    assert not (tmp_path / "out.run").exists()

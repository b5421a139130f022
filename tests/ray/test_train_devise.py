"""Training a head on three Ray workers, and looking for its learning rate on one."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs import train_devise
from seqvis.devise.train import train
from seqvis.ray_internals import jemalloc
from seqvis.training.workers import Resources
from tests.support.devise import make_data, settings_of, train_flags
from tests.support.processes import children_named
from tests.support.waiting import checkpoints, wait_until


def test_a_worker_that_is_killed_in_mid_epoch_changes_nothing(
    tmp_path: Path, ray_cluster: None
) -> None:
    data = make_data(tmp_path, each=200)
    histories: dict[str, list[dict[str, Any]]] = {}
    notes: list[str] = []
    loaded: set[str] = set()

    def report_of(name: str, killing: bool) -> Any:
        due = {2} if killing else set()

        def report(event: dict[str, Any]) -> None:
            if event["event"] == "epoch":
                histories[name] = event["history"]
            notes.append(event.get("text", event["event"]))
            if event["event"] == "progress" and event["epoch"] in due and event["position"] > 1:
                due.clear()
                notes.append("killed")
                saved = tmp_path / name / "out.run" / "checkpoints" / "head"
                wait_until(lambda: bool(checkpoints(saved)), "no checkpoint is saved")
                worker = children_named("RayTrainWorker")[0]
                loaded.update(mapped.path for mapped in worker.memory_maps())
                worker.kill()

        return report

    # Without batch norm and dropout the number of workers makes no difference.
    still = {"hidden": 0, "dropout": 0.0, "batch_norm": False}
    chosen = {"epochs": 3, "batch_size": 16, "method": "devise", "head": still}
    places = {"features": str(data / "features")}
    for name, resources in (("one", Resources()), ("three", Resources(3, cpus_per_worker=1))):
        settings = settings_of(data, tmp_path / name, **chosen, **places)
        metrics = train(settings, report_of(name, name == "three"), resources, stoppable=True)
    assert metrics["hit@5"] > 0.8
    assert jemalloc() in loaded
    after = notes[notes.index("killed") :]
    assert any("going on from" in text and "(epoch 2, batch 1)" in text for text in after)
    for ours, theirs in zip(histories["three"], histories["one"], strict=True):
        for key in ("step", "train_loss", "loss", "hit@5"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key


def test_a_rate_is_looked_for_on_a_worker(
    tmp_path: Path,
    ray_cluster: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("seqvis.devise.train.plot_rate_search", None)  # in this process alone
    flags = train_flags(make_data(tmp_path), tmp_path / "out", "--find-lr", "--finder.highest", 2)
    assert train_devise.main([str(flag) for flag in flags]) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1e-5 < result["learning_rate"] < 2
    assert Path(result["plot"]).is_file()

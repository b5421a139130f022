"""Several processes train a head as one does, also when their number changes from time to time."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing

from seqvis.devise.data import load_data
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.task import HeadTask
from seqvis.devise.train import train_worker
from seqvis.training.workers import Workers

pytestmark = pytest.mark.slow

STAGES = ((3, 2), (2, 4), (3, 6))  # workers, and the epoch up to which they train
# Shares of a batch are summed in another order than the whole, and float32 rounds each sum.
ROUNDING = 1e-5
STILL = {"hidden": 0, "dropout": 0.0, "batch_norm": False}  # the same for any number of workers


def settings_of(data: Path, out: Path, epochs: int, head: dict[str, Any]) -> DeviseSettings:
    places = {name: str(data / name) for name in ("features", "vectors")}
    given = {"out": str(out), "epochs": epochs, "batch_size": 60, "head": head}
    more = {"method": "devise", "unseen": str(data / "unseen.txt"), "calibration": {"folds": 2}}
    return DeviseSettings.model_validate(places | given | more)


def _work(rank: int, folder: Path, data: Path) -> None:
    """Train one head in stages of three, two and three workers, and one with batch norm in two."""
    torch.set_num_threads(1)
    runs = [("head", STILL, *stage) for stage in STAGES] + [("normed", {"hidden": 16}, 2, 3)]
    for number, (name, head, count, epochs) in enumerate(runs):
        if rank < count:
            distributed.init_process_group(
                "gloo", init_method=f"file://{folder}/store-{number}", rank=rank, world_size=count
            )
            chosen = settings_of(data, folder / name, epochs, head)
            train_worker(chosen, Workers(rank, count), lambda event: None)
            distributed.destroy_process_group()


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    multiprocessing.spawn(_work, (folder, data), 3)
    return folder


def test_workers_whose_number_changes_lose_as_one_does(
    data: Path, together: Path, tmp_path: Path
) -> None:
    for _, epochs in STAGES:
        chosen = settings_of(data, tmp_path / "head", epochs, STILL)
        train_worker(chosen, Workers(), lambda event: None)
    ours, alone = (history(folder / "head") for folder in (together, tmp_path))
    assert len(ours) == len(alone) == 6
    for row, expected in zip(ours, alone, strict=True):
        for name in ("train_loss", "loss", "hit@1", "hit@5"):
            assert float(row[name]) == pytest.approx(float(expected[name]), rel=ROUNDING), name
    bonus, expected_bonus = (metrics(f / "head")["unseen_bonus"] for f in (together, tmp_path))
    assert bonus == expected_bonus > 0


def test_the_loss_is_that_of_the_model_that_is_kept(data: Path, together: Path) -> None:
    """Two workers' statistics of batch norm differ; each measures its share with the first's."""
    chosen = settings_of(data, together, 3, {"hidden": 16})
    loaded = load_data(chosen)
    task = HeadTask(loaded.train, loaded.valid, loaded.targets, chosen)
    model = task.build_model().eval()
    tensors = load_file(together / "normed" / "model.safetensors")
    model.load_state_dict({n.removeprefix("head."): t for n, t in tensors.items() if n != "centre"})
    with torch.no_grad():
        whole = task.evaluate(model, Workers())
    recorded = metrics(together / "normed")
    assert recorded["loss"] == pytest.approx(whole["loss"], rel=ROUNDING)
    assert recorded["hit@5"] == whole["hit@5"]


def history(model: Path) -> list[dict[str, str]]:
    with (model / "metrics.csv").open() as lines:
        return list(csv.DictReader(lines))


def metrics(model: Path) -> dict[str, Any]:
    recorded: dict[str, Any] = json.loads((model / "manifest.json").read_bytes())["metrics"]
    return recorded

"""Searches whose trials are played instead of trained.

A played trial's metric is a function of its settings and its epoch, so that a search that was
interrupted can be held against one that was not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from seqvis.storage import locate
from seqvis.training.checkpoints import Snapshot
from tune.study.records import Trial
from tune.study.settings import TRANSLATOR, StudySettings
from tune.study.space import Space
from tune.study.study import Study

SPACE = """
model.dropout.input: {uniform: [0.0, 0.5]}
optimizer.learning_rate: {log_uniform: [0.001, 0.1]}
model.hidden_size: {choice: [16, 24]}
"""
EPOCHS = 9


def choices(**changes: Any) -> StudySettings:
    return StudySettings.model_validate({"space": "s", "metric": "loss", "trials": 12, **changes})


def open_search(out: Path, space: Space, settings: StudySettings) -> Study:
    out.mkdir(exist_ok=True)
    return Study(settings, space, TRANSLATOR, locate(out))


def loss(trial: Trial, epoch: int) -> float:
    return trial.config["model.dropout.input"] + trial.config["optimizer.learning_rate"] / epoch


def checkpoint(search: Study, trial: Trial, epoch: int) -> None:
    """What a training leaves when it pauses, its weights a trace of who trained them."""
    model = search.records.model(trial.name)
    store = TRANSLATOR.checkpoints(model)
    latest = store.latest()
    before = store.read(latest).tensors["model.trace"] if latest else torch.zeros(0)
    number = torch.tensor([float(trial.name[1:])])
    settings = search.space.settings(TRANSLATOR, trial.config, "out")
    state = {
        "progress": {"step": epoch, "best_step": 3},
        "identity": settings.identity().values,  # type: ignore[attr-defined]
    }
    store.save(Snapshot({"model.trace": torch.cat([before, number])}, state), epoch, {3})
    store.wait()


def play(search: Study, fails: str = "") -> Iterator[str]:
    """Two trials at a time, in turn, an epoch each; yields after each thing that happens."""
    sitting: list[Trial] = []
    while True:
        while len(sitting) < 2 and (trial := search.next()) is not None:
            sitting.append(trial)
        if not sitting:
            return
        trial = sitting.pop(0)
        if trial.name == fails:
            search.failed(trial.name, "it broke")
            yield trial.name
            continue
        epoch = trial.epoch + 1
        if epoch <= trial.epochs:
            if search.population and epoch == search.until(trial):
                checkpoint(search, trial, epoch)
            go_on = search.result(trial.name, epoch, loss(trial, epoch), 1.0)
            yield trial.name
        if trial.epoch == trial.epochs:
            search.finished(trial.name)
        elif search.population and trial.epoch >= search.until(trial):
            search.paused(trial.name)
        elif go_on:
            sitting.append(trial)
        yield trial.name


def outcome(search: Study) -> list[dict[str, Any]]:
    """All but the clock's part of the records."""
    return [
        {
            "name": trial.name,
            "config": trial.config,
            "origin": trial.origin,
            "status": trial.status,
            "results": [(result.epoch, result.metric) for result in trial.results],
        }
        for trial in search.trials
    ]

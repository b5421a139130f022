"""Weights & Biases: its server, or with WANDB_MODE=offline a folder to be sent later."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from seqvis.training.trackers.tracking import Run, Status


class WandbTracker:
    """A run of the project that WANDB_PROJECT names, by default "seqvis"."""

    def __init__(self) -> None:
        self._run: wandb.Run
        self._stages: set[str] = set()

    def begin(self, run: Run, known: str | None) -> str:
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False):
            raise PermissionError(
                "no API key: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline"
            )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "seqvis"),
            name=run.name,
            id=known,
            resume="allow",
            config={**run.settings, **run.tags},
            allow_val_change=True,
            reinit="create_new",  # a run of the caller's own goes on beside it
            settings=wandb.Settings(console="off"),
        )
        return self._run.id

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        prefix = f"{stage}/" if stage else ""
        if stage not in self._stages:  # each stage counts its steps from 0
            self._stages.add(stage)
            self._run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")
        points = {f"{prefix}{name}": value for name, value in values.items()}
        self._run.log({f"{prefix}step": step, **points})

    def end(
        self, status: Status, results: Mapping[str, Any], kind: str, folder: Path | None
    ) -> None:
        self._run.summary.update({f"best/{name}": value for name, value in results.items()})
        if folder is not None:
            name = re.sub(r"[^\w.-]", "-", self._run.name or kind)
            self._run.log_artifact(str(folder), name=name, type=kind.replace(" ", "-"))
        self._run.finish(exit_code=0 if status == "finished" else 1)

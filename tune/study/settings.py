"""Settings of a study, and the kinds of model that it can tune."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from seqvis.config import MayChange, Settings, may_change
from seqvis.devise import train as devise
from seqvis.devise.settings import PLACES as DEVISE_PLACES
from seqvis.devise.settings import DeviseSettings
from seqvis.storage import Location
from seqvis.training.checkpoints import CheckpointStore
from seqvis.training.launch import run_directory
from seqvis.translation import train as translation
from seqvis.translation.task import PLACES as TRANSLATOR_PLACES
from seqvis.translation.task import TrainSettings


class StudySettings(Settings):
    """How a search proposes, stops and runs trials."""

    space: str
    """YAML file of the settings to search; docs/train/tuning.md, "The space"."""
    metric: str
    """Validation metric to optimise; lower is better for names that contain "loss"."""
    algorithm: Literal["random", "tpe", "pbt"] = "random"
    """random; tpe (Optuna's, learns from earlier trials); pbt (population-based training)."""
    trials: int = Field(20, ge=1)
    """Trials to run; with pbt the size of the population, without later members."""
    hours: float | None = Field(None, gt=0)
    """Stop after this many hours, over all sessions; a larger number lets the search continue."""
    gpu_hours: float | None = Field(None, gt=0)
    """Stop after this many GPU hours, over all trials."""
    seed: int = Field(1, ge=0)
    """Seed of the proposals. What a trial's training draws depends on --fit.seed."""
    early_stopping: bool = True
    """ASHA: stop trials that are worse than others at the same epoch (not with pbt)."""
    grace: int = Field(1, ge=1)
    """ASHA: epochs that every trial gets."""
    reduction: float = Field(3.0, gt=1)
    """ASHA: one trial in this many continues, to this many times more epochs."""
    interval: int = Field(1, ge=1)
    """pbt: epochs between two selections."""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """pbt: share of the population that is replaced by descendants of as many of the best."""
    retries: int = Field(1, ge=0)
    """How often a failed trial is tried again, from its last checkpoint."""
    max_concurrent: int = Field(0, ge=0)
    """Trials at the same time; 0: as many as the processors or GPUs allow."""
    num_workers: int = Field(1, ge=0)
    """Ray Train workers of a trial; 0 trains in the trial's own process, which starts sooner."""
    use_gpu: bool = False
    """Give each worker a GPU, or a share of one."""
    gpus_per_worker: float = Field(1.0, gt=0)
    """Share of a GPU, with --use-gpu; with 0.25 four trials of one worker share a GPU."""
    cpus_per_worker: int = Field(0, ge=0)
    """Processors of each worker; 0: an equal share of all."""

    @property
    def mode(self) -> Literal["min", "max"]:
        return "min" if "loss" in self.metric else "max"

    @property
    def sign(self) -> int:
        """Factor of the metric that makes smaller values better."""
        return 1 if self.mode == "min" else -1

    @property
    def gpus_per_trial(self) -> float:
        return max(1, self.num_workers) * self.gpus_per_worker if self.use_gpu else 0.0

    def identity(self) -> dict[str, Any]:
        """Return what must not change if the study is to be continued."""
        names = {"metric", "algorithm", "seed"}
        if self.algorithm == "pbt":
            return self.model_dump(include=names | {"trials", "interval", "quantile"})
        return self.model_dump(include=names | {"early_stopping", "grace", "reduction"})


@dataclass(frozen=True)
class TunableModel:
    """What a study needs to know about a kind of model."""

    artifact: str  # kind of the trained artifact
    settings: type[Settings]
    train: Callable[..., dict[str, Any]]
    paths: frozenset[str]  # settings that say where things are, which are never searched
    stage: str = ""  # folder of the checkpoints, below OUT.run/checkpoints, and name in its events
    epochs: str = "epochs"  # the setting that says how many a trial has

    def checkpoints(self, out: Location) -> CheckpointStore:
        """Open the checkpoints of a training that writes to `out`."""
        folder = run_directory(out) / "checkpoints"
        return CheckpointStore(folder / self.stage if self.stage else folder)

    def can_change(self, path: str) -> bool:
        """Return whether training may continue from a checkpoint with another value of `path`."""
        return may_change(self.settings, path) is not MayChange.NEVER


TRANSLATOR = TunableModel(
    artifact="translator",
    settings=TrainSettings,
    train=translation.train,
    paths=frozenset(TRANSLATOR_PLACES) - {"out"},
)
DEVISE = TunableModel(
    artifact="devise",
    settings=DeviseSettings,
    train=devise.train,
    paths=frozenset(DEVISE_PLACES) - {"out"},
    stage="head",
)
FINETUNED = replace(DEVISE, stage="finetune", epochs="finetune.epochs")
"""Trials that train a head and then the backbone with it, whose epochs are compared."""

MODELS = {model.artifact: model for model in (TRANSLATOR, DEVISE)}

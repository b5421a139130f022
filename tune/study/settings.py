"""What every search can be told: how many trials, by which algorithm, with which means.

The two kinds of model that are searched, as the search needs to know them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from seqvis.config import Settings
from seqvis.devise import train as devise
from seqvis.devise.settings import DeviseSettings
from seqvis.storage import Location
from seqvis.training.checkpoints import CheckpointStore
from seqvis.training.launch import run_directory
from seqvis.translation import train as translation


class SearchSettings(Settings):
    """How a search proposes, stops and runs trials."""

    space: str
    """YAML file of the settings to search; docs/tuning.md, "The space"."""
    metric: str
    """Validation metric to make best; names with loss: lower is better."""
    algorithm: Literal["random", "tpe", "pbt"] = "random"
    """random; tpe (Optuna's, learns from earlier trials); pbt (population-based training)."""
    trials: int = Field(20, ge=1)
    """Trials to run; with pbt the size of the population, whose replaced members come on top."""
    hours: float | None = Field(None, gt=0)
    """Stop after so many hours, over all sittings; what runs then goes on with a greater number."""
    gpu_hours: float | None = Field(None, gt=0)
    """Stop after so many hours of GPUs, over all trials."""
    seed: int = Field(1, ge=0)
    """Seed of the proposals. What a trial's training draws depends on --fit.seed."""
    early_stopping: bool = True
    """ASHA: stop trials that are worse than others at the same epoch (not with pbt)."""
    grace: int = Field(1, ge=1)
    """ASHA: epochs that every trial gets."""
    reduction: float = Field(3.0, gt=1)
    """ASHA: one in so many trials gets so many times more epochs."""
    interval: int = Field(1, ge=1)
    """pbt: epochs between two selections."""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """pbt: share of the population that is replaced by descendants of as many best ones."""
    retries: int = Field(1, ge=0)
    """How often a failed trial is tried again, from its last checkpoint."""
    max_concurrent: int = Field(0, ge=0)
    """Trials at a time; 0: as many as the processors or GPUs suffice for."""
    num_workers: int = Field(1, ge=0)
    """Ray Train workers of a trial; 0 trains in the trial's own process, which starts sooner."""
    use_gpu: bool = False
    """A GPU, or a share of one, for each worker."""
    gpus_per_worker: float = Field(1.0, gt=0)
    """Share of a GPU, with --use-gpu; 0.25 lets four trials of one worker share one."""
    cpus_per_worker: int = Field(0, ge=0)
    """Processors of each worker; 0: an equal share of all."""

    @property
    def mode(self) -> Literal["min", "max"]:
        return "min" if "loss" in self.metric else "max"

    @property
    def gpus_per_trial(self) -> float:
        return max(1, self.num_workers) * self.gpus_per_worker if self.use_gpu else 0.0

    def identity(self) -> dict[str, Any]:
        """What must stay the same for a search to go on."""
        names = ["metric", "algorithm", "seed"]
        if self.algorithm == "pbt":
            names += ["trials", "interval", "quantile"]
        else:
            names += ["early_stopping", "grace", "reduction"]
        return self.model_dump(include=set(names))


@dataclass(frozen=True)
class Kind:
    """What differs between searches."""

    artifact: str  # kind of the trained artifact
    settings: type[Settings]
    train: Callable[..., dict[str, Any]]
    paths: frozenset[str]  # settings that say where things are, not what a model becomes
    shaping: tuple[str, ...]  # beginnings of settings that a run's checkpoint is bound to
    not_shaping: tuple[str, ...]  # exceptions to these
    stage: str  # of the checkpoints, below OUT.run/checkpoints

    def checkpoints(self, out: Location) -> CheckpointStore:
        """Where a training that writes to `out` has its checkpoints."""
        folder = run_directory(out) / "checkpoints"
        return CheckpointStore(folder / self.stage if self.stage else folder)

    def can_change(self, path: str) -> bool:
        """Whether a run may go on from a checkpoint with another value of this setting."""
        if path.startswith(self.not_shaping):
            return True
        return not path.startswith(self.shaping)


TRANSLATOR = Kind(
    artifact="translator",
    settings=translation.TrainSettings,
    train=translation.train,
    paths=frozenset({"corpus", "vectors_source", "vectors_target"}),
    shaping=("variant", "model.", "epochs", "fit.", "batches."),
    not_shaping=("model.dropout.",),
    stage="",
)
DEVISE = Kind(
    artifact="devise",
    settings=DeviseSettings,
    train=devise.train,
    paths=frozenset({"features", "vectors", "unseen", "validation_features"}),
    shaping=("method", "head.", "centred", "validation_", "epochs", "fit.", "batch_size"),
    not_shaping=("head.dropout",),
    stage="head",
)
KINDS = {kind.artifact: kind for kind in (TRANSLATOR, DEVISE)}

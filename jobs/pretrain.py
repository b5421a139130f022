"""Pretrain a translator's encoder or decoder."""

from functools import partial
from typing import Any

from pydantic import Field

from seqvis.cli.console import training_console
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.training.trackers.tracking import TrackerNames
from seqvis.training.workers import Resources
from seqvis.translation.pretrain import PretrainSettings, pretrain


class Pretrain(RayJobSettings, PretrainSettings):  # type: ignore[misc]
    """Pretrains a translator's encoder or decoder as a language model, on text of one language.

    Interrupted, the same command goes on where it was; finished, one with more epochs does.
    """

    num_workers: int | None = Field(None, ge=0)
    """Ray Train workers; 0 trains in this process, without Ray. Default: one for each GPU with
    --use-gpu, else for each processor, up to four."""
    min_workers: int = Field(0, ge=0)
    """Fewest workers to go on with when nodes are lost; 0: wait for room for all."""
    use_gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: int = Field(0, ge=0)
    """Processors of each worker; 0: an equal share of all."""
    restart: bool = False
    """Begin anew, deleting the checkpoints in OUT.run."""
    track: TrackerNames = ()
    """Also show the run in mlflow, wandb (Weights & Biases) or tensorboard: settings, curves,
    artifact."""


def run(settings: Pretrain) -> dict[str, Any]:
    """Train and return the best epoch's metrics."""
    resources = Resources(
        settings.num_workers, settings.min_workers, settings.use_gpu, settings.cpus_per_worker
    )
    with training_console() as report:
        metrics = pretrain(
            settings.part(PretrainSettings), report, resources, settings.restart,
            settings.ray_session, settings.track,
        )  # fmt: skip
    return {**metrics, "out": settings.out}


main = partial(run_job, Pretrain, run)

if __name__ == "__main__":
    leave(main())

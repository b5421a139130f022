"""Train a translator on a corpus."""

from functools import partial
from typing import Any

from pydantic import Field

from seqvis.cli.console import training_console
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.training.lr_finder import FinderSettings
from seqvis.training.trackers.tracking import TrackerNames
from seqvis.training.workers import Resources
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import find_rate, train


class TrainTranslator(RayJobSettings, TrainSettings):  # type: ignore[misc]
    """Trains a translator on a prepared corpus, on one or many workers.

    Interrupted, the same command goes on where it was; finished, one with more epochs does.
    """

    num_workers: int | None = Field(None, ge=0)
    """Ray Train workers; 0 trains in this process, without Ray. Default: one for each GPU with
    --use-gpu, else for each processor, up to four, or fewer if a short trial finds them quicker."""
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
    find_lr: bool = False
    """Only look for a learning rate, on one worker: a short run, its plot and a suggestion."""
    finder: FinderSettings = FinderSettings()


def run(settings: TrainTranslator) -> dict[str, Any]:
    """Train and return the best epoch's metrics, or the suggested learning rate."""
    choices = settings.part(TrainSettings)
    with training_console() as report:
        resources = Resources(
            settings.num_workers, settings.min_workers, settings.use_gpu, settings.cpus_per_worker
        )
        if settings.find_lr:
            return find_rate(choices, settings.finder, report, resources, settings.ray_session)
        metrics = train(
            choices, report, resources, settings.restart, session=settings.ray_session,
            track=settings.track,
        )  # fmt: skip
    return {**metrics, "out": settings.out}


main = partial(run_job, TrainTranslator, run)

if __name__ == "__main__":
    leave(main())

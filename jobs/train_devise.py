"""Train a head that places pictures among words."""

from functools import partial
from typing import Any

from pydantic import Field

from seqvis.cli.console import training_console
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import find_rate, train
from seqvis.training.lr_finder import FinderSettings
from seqvis.training.trackers.tracking import TrackerNames
from seqvis.training.workers import Resources


class TrainDevise(RayJobSettings, DeviseSettings):  # type: ignore[misc]
    """Trains a DeViSE head that projects pictures' features into the space of word vectors.

    Interrupted, the same command goes on where it was; finished, one with more epochs does.
    """

    num_workers: int | None = Field(None, ge=0)
    """Ray Train workers; 0 trains in this process, without Ray. Default: one for each GPU with
    --use-gpu; else 0 for a head alone, which takes seconds, and for fine-tuning one for each
    processor, up to four."""
    min_workers: int = Field(0, ge=0)
    """Fewest workers to go on with when nodes are lost; 0: wait for room for all."""
    use_gpu: bool = False
    """One GPU for each worker."""
    cpus_per_worker: int = Field(0, ge=0)
    """Processors of each worker; 0: an equal share of all, for fine-tuning on GPUs one. Those that
    are left read the pictures of fine-tuning."""
    restart: bool = False
    """Begin anew, deleting the checkpoints in OUT.run."""
    track: TrackerNames = ()
    """Also show the run in mlflow, wandb (Weights & Biases) or tensorboard: settings, curves,
    artifact."""
    find_lr: bool = False
    """Only look for a learning rate of the head, on one worker (with --num-workers 0 in this
    process): a short run, its plot and a suggestion."""
    finder: FinderSettings = FinderSettings()


def run(settings: TrainDevise) -> dict[str, Any]:
    """Train and return the best epoch's metrics, or the suggested learning rate."""
    choices = settings.part(DeviseSettings)
    with training_console() as report:
        workers = settings.num_workers
        takes_long = choices.finetune.epochs or settings.use_gpu or settings.find_lr
        if workers is None and not takes_long:
            workers = 0
        resources = Resources(
            workers, settings.min_workers, settings.use_gpu, settings.cpus_per_worker
        )
        if settings.find_lr:
            return find_rate(choices, settings.finder, report, resources, settings.ray_session)
        metrics = train(
            choices, report, resources, settings.restart, session=settings.ray_session,
            track=settings.track,
        )  # fmt: skip
    return {**metrics, "out": settings.out}


main = partial(run_job, TrainDevise, run)

if __name__ == "__main__":
    leave(main())

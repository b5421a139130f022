"""Search for the settings of a DeViSE head."""

from functools import partial
from typing import Any

from seqvis.checks import require_extra
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.devise.data import load_data
from seqvis.devise.finetune import find_pictures
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import head_task
from seqvis.errors import ConfigError
from seqvis.storage import absolute
from tune.study.settings import DEVISE, FINETUNED, StudySettings


class TuneDevise(RayJobSettings, DeviseSettings, StudySettings):  # type: ignore[misc]
    """Search for the settings of a DeViSE head; each trial trains on the same features.

    Settings that the space does not name are those of train_devise. With --finetune.epochs each
    trial fine-tunes the backbone with its head, and these epochs are compared. If it was
    interrupted or killed, the same command continues where it stopped.
    """

    metric: str = "loss"
    """Validation metric to optimise: loss, hit@1, hit@5 or hit@10; of loss, lower is better. Values
    of different --loss cannot be compared: search over those by hit@5."""


def run(settings: TuneDevise) -> dict[str, Any]:
    """Search, and return the best trial."""
    if settings.method in ("conse", "blend"):
        raise ConfigError(f"--method {settings.method}: a search trains heads alone; leave it out")
    require_extra("tune", "ray")
    from tune.study.run import run_study  # loads Ray

    choices = settings.part(DeviseSettings)
    data = load_data(choices)
    if choices.init:
        head_task(choices, data)  # raises what is wrong with it
    if not choices.finetune.epochs:
        return run_study(DEVISE, settings)
    if settings.algorithm == "pbt":
        raise ConfigError("--algorithm pbt: needs one training; fine-tuning comes after another")
    find_pictures(choices, data)
    if choices.finetune.images:  # trials run in other directories
        there = {"images": absolute(choices.finetune.images)}
        tuned = {"finetune": choices.finetune.model_copy(update=there)}
        settings = settings.model_copy(update=tuned)
    return run_study(FINETUNED, settings)


main = partial(run_job, TuneDevise, run)

if __name__ == "__main__":
    leave(main())

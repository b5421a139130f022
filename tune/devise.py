"""Search for the settings of a DeViSE head; each trial trains on the same features."""

from functools import partial
from typing import Any

from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.devise.data import load_data
from seqvis.devise.settings import DeviseSettings
from seqvis.errors import ConfigError
from tune.study.run import run_study
from tune.study.settings import DEVISE, StudySettings


class TuneDevise(RayJobSettings, DeviseSettings, StudySettings):  # type: ignore[misc]
    """Search for the settings of a DeViSE head; each trial trains on the same features.

    Settings that the space does not name are those of train_devise. If it was interrupted or
    killed, the same command continues where it stopped.
    """

    metric: str = "loss"
    """Validation metric to optimise: loss, hit@1, hit@5 or hit@10; of loss, lower is better. Values
    of different --loss cannot be compared: search over those by hit@5."""


def run(settings: TuneDevise) -> dict[str, Any]:
    """Search, and return the best trial."""
    if settings.method in ("conse", "blend") or settings.finetune.epochs:
        raise ConfigError(
            "--method, --finetune.epochs: a search trains heads alone; leave them out"
        )
    load_data(settings.part(DeviseSettings))
    return run_study(DEVISE, settings)


main = partial(run_job, TuneDevise, run)

if __name__ == "__main__":
    leave(main())

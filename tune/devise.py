"""Searches for the settings of a DeViSE head, each trial a training on the same features."""

from collections.abc import Sequence
from typing import Any

from seqvis.cli.job import leave, run_job
from seqvis.config import JobSettings
from seqvis.devise.data import load_data
from seqvis.devise.settings import DeviseSettings
from seqvis.errors import ConfigError
from tune.study.run import run_search
from tune.study.settings import DEVISE, SearchSettings


class TuneDevise(JobSettings, DeviseSettings, SearchSettings):  # type: ignore[misc]
    """Searches for the settings of a DeViSE head, each trial a training on the same features.

    Settings that the space does not name are those of train_devise. Interrupted, or killed, the
    same command goes on where it was.
    """

    metric: str = "loss"
    """Validation metric to make best (loss, hit@1, hit@5, hit@10); names with loss: lower is
    better. Losses of different --loss do not compare: search over those by hit@5."""


def run(settings: TuneDevise) -> dict[str, Any]:
    """Searches and returns the best trial."""
    if settings.method in ("conse", "blend") or settings.finetune.epochs:
        raise ConfigError(
            "--method, --finetune.epochs: a search trains heads alone; leave them out"
        )
    load_data(
        DeviseSettings.model_validate(settings.model_dump(include=set(DeviseSettings.model_fields)))
    )
    return run_search(DEVISE, settings)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_job(TuneDevise, run, arguments)


if __name__ == "__main__":
    leave(main())

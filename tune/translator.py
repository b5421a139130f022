"""Search for the settings of a translator."""

from functools import partial
from typing import Any

from seqvis.checks import require_extra
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import check_inputs
from tune.study.settings import TRANSLATOR, StudySettings


class TuneTranslator(RayJobSettings, TrainSettings, StudySettings):  # type: ignore[misc]
    """Search for the settings of a translator; each trial trains on the same corpus.

    Settings that the space does not name are those of train_translator. If it was interrupted or
    killed, the same command continues where it stopped.
    """

    metric: str = "forced_loss"
    """Validation metric to optimise: loss, forced_loss, accuracy, bleu or chrf; of a loss, lower is
    better."""
    samples: int = 0
    """Validation sentences that are translated as examples; a search shows none."""


def run(settings: TuneTranslator) -> dict[str, Any]:
    """Search, and return the best trial."""
    check_inputs(settings)  # before any process is started
    require_extra("tune", "ray")
    from tune.study.run import run_study  # loads Ray

    return run_study(TRANSLATOR, settings)


main = partial(run_job, TuneTranslator, run)

if __name__ == "__main__":
    leave(main())

"""Searches for the settings of a translator, each trial a training on the same corpus."""

from collections.abc import Sequence
from typing import Any

from seqvis.cli.job import leave, run_job
from seqvis.config import JobSettings
from seqvis.translation.train import TrainSettings, check_inputs
from tune.study.run import run_search
from tune.study.settings import TRANSLATOR, SearchSettings


class TuneTranslator(JobSettings, TrainSettings, SearchSettings):  # type: ignore[misc]
    """Searches for the settings of a translator, each trial a training on the same corpus.

    Settings that the space does not name are those of train_translator. Interrupted, or killed, the
    same command goes on where it was.
    """

    metric: str = "forced_loss"
    """Validation metric to make best (loss, forced_loss, accuracy, bleu, chrf); names with loss:
    lower is better."""
    samples: int = 0
    """Validation sentences translated for show; a search shows none."""


def run(settings: TuneTranslator) -> dict[str, Any]:
    """Searches and returns the best trial."""
    check_inputs(settings)  # before any process is started
    return run_search(TRANSLATOR, settings)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_job(TuneTranslator, run, arguments)


if __name__ == "__main__":
    leave(main())

"""Make a corpus from sentence pairs."""

import json
import sys
from functools import partial
from typing import Any

from seqvis.artifacts import load
from seqvis.cli.console import stage_progress
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.corpus.prepare import prepare
from seqvis.corpus.report import as_text
from seqvis.corpus.settings import PrepareSettings


class PrepareCorpus(RayJobSettings, PrepareSettings):  # type: ignore[misc]  # two kinds of config
    """Makes a corpus for training a translator out of sentence pairs."""


def run(settings: PrepareCorpus) -> dict[str, Any]:
    """Prepare the corpus; return its metrics and where it is."""
    with stage_progress() as progress:
        metrics = prepare(settings.part(PrepareSettings), progress, settings.ray_session)
    corpus = load(settings.out, "corpus", verify=False)
    report = json.loads(corpus.file("report.json").read_bytes())
    print(as_text(report), file=sys.stderr)
    return {**metrics, "out": settings.out}


main = partial(run_job, PrepareCorpus, run)

if __name__ == "__main__":
    leave(main())

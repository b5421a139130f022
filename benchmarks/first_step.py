"""train_translator, interrupted when its first step is done: prints the time of that.

The arguments are the job's.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jobs.train_translator as job
from seqvis.cli.console import Report
from seqvis.cli.job import leave


@contextmanager
def _until_first_step() -> Iterator[Report]:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            print(f"first step {time.time()}", flush=True)
            raise KeyboardInterrupt

    yield report


if __name__ == "__main__":
    job.training_console = _until_first_step
    leave(job.main())

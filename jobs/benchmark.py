"""Measure each stage beside its reference.

Stage and reference, and the limit of both, are measured alternately, in one run. It needs a clone
of the project (the stages are in benchmarks/) and the peers, which `make bench` installs. Without
--data everything is measured on generated sentences and pictures.
"""

import importlib
import json
import sys
import time
from functools import partial
from typing import Any, Literal, get_args

import torch
from pydantic import Field
from rich.console import Console
from rich.table import Table

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.errors import ConfigError
from seqvis.storage import local_path, locate

Stage = Literal[
    "training", "translating", "preparing", "embedding", "head", "neighbours", "start", "million"
]
ALL: tuple[Stage, ...] = get_args(Stage)[:-1]  # a million vectors take half an hour
MEASURES = {
    "embedding": "pictures.measure_embedding",
    "head": "pictures.measure_head",
    "start": "training.measure_start",
    "million": "neighbours.measure_million",
}
"""Where a stage is measured if not by `measure` of its own file."""


class Benchmark(JobSettings):
    """Measures each stage beside its reference and its limit, alternately, in one run."""

    only: tuple[Stage, ...] = ()
    """Stages to measure. Default: all but `million`."""
    data: str | None = None
    """Folder with multi30k/train.fr and so on; without it, generated questions."""
    work: str = "runs/benchmark"
    """Local directory for what is prepared and trained once."""
    rounds: int = Field(2, ge=1)
    """Turns of each side."""
    threads: int = Field(0, ge=0)
    """PyTorch's threads, of all sides; 0: its own choice."""
    output: str | None = Field(None, alias="json")
    """File for all rates as JSON."""
    chart: str | None = None
    """PNG file for a bar chart."""
    markdown: str | None = None
    """File for the table as Markdown."""


def run(settings: Benchmark) -> dict[str, Any]:
    """Measure, and return the sides that do not reach what they should."""
    try:
        from benchmarks.instrument import HEADINGS, as_markdown, chart
        from benchmarks.material import Material
    except ImportError as error:
        raise ConfigError(f"{error}: run it in a clone of the project, by make bench") from error
    if settings.threads:
        torch.set_num_threads(settings.threads)
    data = local_path(settings.data) if settings.data else None
    material = Material(local_path(settings.work), data)
    material.work.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 130)
    rows, began = [], time.monotonic()
    for name in settings.only or ALL:
        file, function = MEASURES.get(name, f"{name}.measure").split(".")
        measure = getattr(importlib.import_module(f"benchmarks.stage_{file}"), function)
        for row in measure(material, settings.rounds):
            rows.append(row)
            print(json.dumps(row.as_json(), ensure_ascii=False), file=sys.stderr, flush=True)
    table = Table(*HEADINGS, box=None, pad_edge=False)
    for row in rows:
        for cells in row.cells():
            table.add_row(*cells)
        table.add_section()
    console.print(table)
    for path, content in (
        (settings.output, json.dumps([row.as_json() for row in rows], indent=1).encode()),
        (settings.markdown, as_markdown(rows).encode()),
        (settings.chart, chart(rows) if settings.chart else b""),
    ):
        if path:
            locate(path).write_bytes(content)
    missed = {row.stage: row.missed() for row in rows if row.missed()}
    return {"rows": len(rows), "missed": missed, "seconds": round(time.monotonic() - began)}


main = partial(run_job, Benchmark, run)

if __name__ == "__main__":
    leave(main())

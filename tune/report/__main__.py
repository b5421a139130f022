"""Report what mattered in a search for settings."""

from functools import partial
from typing import Any

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.errors import ConfigError
from seqvis.storage import locate
from tune.report.settings import Mode, ReportSettings
from tune.report.table import folder_of, read_search
from tune.report.writing import write_report


class Report(JobSettings):
    """Write the report of what mattered in a search: report.html and report.json."""

    trials: str
    """Folder that a search wrote, or its trials.parquet."""
    out: str | None = None
    """Folder for the report. Default: where the trials are."""
    metric: str | None = None
    """Name of the metric. Default: the search's."""
    mode: Mode | None = None
    """Whether the largest (max) or the smallest (min) value is best. Default: the search's."""
    title: str = "What mattered in this search"
    """Title of the page."""
    report: ReportSettings = ReportSettings()


def run(settings: Report) -> dict[str, Any]:
    """Write the report and return where it is and what it says."""
    trials = locate(settings.trials)
    folder = folder_of(trials)
    search = read_search(folder)
    metric = settings.metric or search.get("metric")
    mode = settings.mode or search.get("mode")
    if metric is None or mode not in ("max", "min"):
        raise ConfigError(f"{folder.uri}: search.json does not say; give --metric and --mode")
    out = folder if settings.out is None else locate(settings.out)
    return write_report(
        trials, out, metric=metric, mode=mode, title=settings.title, settings=settings.report
    )


main = partial(run_job, Report, run)

if __name__ == "__main__":
    leave(main())

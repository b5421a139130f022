"""Write `report.html` and `report.json` of a search."""

import json
from typing import Any

from seqvis.checks import require_extra
from seqvis.storage import Location
from tune.report.settings import Mode, ReportSettings
from tune.report.table import read_table

NEEDS = ("sklearn",)  # of the extra `tune`, imported only when a report is written


def write_report(
    trials: Location,
    out: Location,
    *,
    metric: str,
    mode: Mode,
    title: str,
    settings: ReportSettings | None = None,
) -> dict[str, Any]:
    """Write the report of the trials (a search's folder, or its `trials.parquet`) into `out`.

    `metric` names the column `metric`, and `mode` says which way is better. Returns what a job
    prints: the files, the numbers of trials, R² with its interval, the settings that matter more
    than chance, strongest first, and the reasons if nothing was ranked. Raises DataError if the
    trials cannot be read, ConfigError if the extra `tune` is not installed.
    """
    require_extra("tune", *NEEDS)
    from tune.report.analysis import analyse
    from tune.report.page import render_page

    table = read_table(trials)
    content = analyse(table, metric, mode, title, settings or ReportSettings())
    page, data = out / "report.html", out / "report.json"
    out.make_directory()
    data.replace(json.dumps(content, ensure_ascii=False, indent=1).encode())
    page.replace(render_page(content).encode())
    ranked = content["ranking"]["settings"] if content["ranking"] else []
    return {
        "report": page.uri,
        "data": data.uri,
        "trials": content["trials"]["all"],
        "usable": content["trials"]["usable"],
        "r2": content["r2"],
        "important": [row["setting"] for row in ranked if row["important"]],
        "refused": content["refused"],
        "summary": content["summary"],
    }

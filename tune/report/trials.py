"""What the report tells of trials and settings before any forest is grown."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tune.report.encoding import make_design
from tune.report.response import Response, usable_rows
from tune.report.settings import Mode
from tune.report.table import Setting, Table, plain

_BEST = 10  # trials in the table
_TOGETHER = 0.6  # rank correlation above which two settings are hard to tell apart
_LEAST_TRIALS = 20  # fewer give a rank correlation of 0.6 by chance


def used_trials(table: Table, response: Response) -> list[dict[str, Any]]:
    """The trials that the forest learns from, with what it is to predict."""
    return [
        {
            "trial": str(table.trials["trial"].iloc[row]),
            "value": float(value),
            "configuration": table.configuration(int(row)),
        }
        for row, value in zip(response.rows, response.values, strict=True)
    ]


def together(settings: Sequence[Setting], rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Pairs of settings that rose and fell together, so that one can stand in for the other."""
    if len(rows) < _LEAST_TRIALS or len(settings) < 2:
        return []
    design = make_design(settings, rows)
    ranks = pd.DataFrame(design.matrix).corr(method="spearman").abs().fillna(0).to_numpy()
    found = []
    for number, first in enumerate(settings):
        for second in settings[number + 1 :]:
            block = ranks[np.ix_(design.columns[first.name], design.columns[second.name])]
            if block.max() >= _TOGETHER:
                pair = {"first": first.name, "second": second.name}
                found.append({**pair, "correlation": round(float(block.max()), 2)})
    return found


def counts(table: Table) -> dict[str, Any]:
    trials = table.trials
    epochs = trials["epochs"].fillna(0).astype(int)
    reached = sorted(Counter(epochs.tolist()).items())
    return {
        "all": len(trials),
        "usable": len(usable_rows(table)),
        "inherited": int(table.trials["parent"].notna().sum()),
        **{one: int((trials["status"] == one).sum()) for one in ("finished", "stopped", "failed")},
        "epochs": int(epochs.sum()),
        "seconds": float(trials["seconds"].fillna(0).sum()),
        "reached": [{"epochs": number, "trials": count} for number, count in reached],
    }


def best_trials(table: Table, mode: Mode) -> list[dict[str, Any]]:
    rows = usable_rows(table)
    usable = table.trials.iloc[rows]
    order = usable["metric"].astype(float).sort_values(ascending=mode == "min", kind="stable")
    return [
        {
            "trial": str(table.trials["trial"].iloc[row]),
            "metric": float(order[row]),
            "epochs": plain(table.trials["epochs"].iloc[row]),
            "seconds": plain(table.trials["seconds"].iloc[row]),
            "configuration": table.configuration(int(row)),
        }
        for row in order.index[:_BEST]
    ]


def unused_trials(table: Table) -> list[dict[str, Any]]:
    """Trials that are not used, each with why."""
    usable = set(usable_rows(table).tolist())
    return [
        {
            "trial": str(one["trial"]),
            "epochs": plain(one["epochs"]),
            "reason": str(one["error"] or "").strip() or "its metric is not a finite number",
        }
        for row, one in table.trials.iterrows()
        if row not in usable
    ]


def describe(setting: Setting) -> dict[str, Any]:
    described: dict[str, Any] = {"setting": setting.name, "kind": setting.kind}
    if setting.kind == "category":
        described["levels"] = list(setting.levels)
    else:
        described["low"] = plain(setting.values.min())
        described["high"] = plain(setting.values.max())
    return described | {"only_with": setting.switch}

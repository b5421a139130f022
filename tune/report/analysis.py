"""Everything the report says, as one tree of plain values: the content of `report.json`.

The page is drawn from this tree alone, so that the two cannot differ.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from tune.report import words
from tune.report.effects import contrast, interactions, match_groups, partial_dependence, refit
from tune.report.forest import Design, judge
from tune.report.settings import Mode, ReportSettings
from tune.report.table import Response, Setting, Table, at_epoch, make_response, plain

_LEAST_TRIALS, _TRIALS_PER_SETTING = 20, 3
_BEST = 10  # trials in the table
_TOGETHER = 0.6  # rank correlation above which two settings are hard to tell apart
_STRONGEST = 4  # settings whose pairs are looked at
_CURVE_POINTS, _SURFACE_POINTS = 15, 12


def analyse(
    table: Table, metric: str, mode: Mode, title: str, settings: ReportSettings
) -> dict[str, Any]:
    """Return the content of the report."""
    response = make_response(table, settings.epoch)
    needed = needed_trials(len(table.settings))
    inherited = int(table.trials["parent"].notna().sum())
    content: dict[str, Any] = {
        "title": title,
        "metric": metric,
        "mode": mode,
        "trials": {**_counts(table), "inherited": inherited},
        "best": _best_trials(table, mode),
        "failed": _unused_trials(table),
        "settings": [_describe(setting) for setting in table.settings],
        "fixed": dict(table.fixed),
        "budget": words.budget(response, metric, inherited),
        "used": [
            {
                "trial": str(table.trials["trial"].iloc[row]),
                "value": float(value),
                "configuration": table.configuration(row),
            }
            for row, value in zip(response.rows, response.values, strict=True)
        ],
        "together": _together(table.settings, response),
        **_ranked_or_refused(table, response, mode, settings, needed),
        "method": {
            "needed": needed,
            **settings.forest.model_dump(include={"trees", "repeats", "refits", "seed"}),
        },
    }
    ranked = content["ranking"] or content
    content["order"] = [row["setting"] for row in ranked["settings"]]
    content["summary"] = words.headline(content)
    return content


def needed_trials(settings: int) -> int:
    """Return the number of usable trials below which nothing is ranked."""
    return max(_LEAST_TRIALS, _TRIALS_PER_SETTING * settings)


def _counts(table: Table) -> dict[str, Any]:
    trials = table.trials
    epochs = trials["epochs"].fillna(0).astype(int)
    reached = sorted(Counter(epochs.tolist()).items())
    return {
        "all": len(trials),
        "usable": len(table.usable_rows()),
        **{end: int((trials["status"] == end).sum()) for end in ("finished", "stopped", "failed")},
        "epochs": int(epochs.sum()),
        "seconds": float(trials["seconds"].fillna(0).sum()),
        "reached": [{"epochs": number, "trials": count} for number, count in reached],
    }


def _best_trials(table: Table, mode: Mode) -> list[dict[str, Any]]:
    metric = table.trials["metric"].iloc[table.usable_rows()].astype(float)
    order = metric.sort_values(ascending=mode == "min", kind="stable").index[:_BEST]
    return [
        {
            "trial": str(table.trials["trial"].iloc[row]),
            "metric": float(metric[row]),
            "epochs": plain(table.trials["epochs"].iloc[row]),
            "seconds": plain(table.trials["seconds"].iloc[row]),
            "configuration": table.configuration(row),
        }
        for row in order
    ]


def _unused_trials(table: Table) -> list[dict[str, Any]]:
    usable = set(table.usable_rows())
    return [
        {
            "trial": str(trial["trial"]),
            "epochs": plain(trial["epochs"]),
            "reason": str(trial["error"] or "").strip() or "its metric is not a finite number",
        }
        for row, trial in table.trials.iterrows()
        if row not in usable
    ]


def _describe(setting: Setting) -> dict[str, Any]:
    described: dict[str, Any] = {"setting": setting.name, "kind": setting.kind}
    if setting.kind == "category":
        described["levels"] = list(setting.levels)
    else:
        described["low"] = float(np.nanmin(setting.values))
        described["high"] = float(np.nanmax(setting.values))
    return described | {"only_with": setting.switch}


def _together(settings: Sequence[Setting], response: Response) -> list[dict[str, Any]]:
    """Return pairs of settings that rose and fell together; few trials correlate by chance."""
    if len(response.rows) < _LEAST_TRIALS or len(settings) < 2:
        return []
    matrix = Design.of(settings, response).matrix
    ranks = pd.DataFrame(matrix).corr(method="spearman").abs().to_numpy()
    pairs = []
    for (row, first), (column, second) in combinations(enumerate(settings), 2):
        if ranks[row, column] >= _TOGETHER:
            correlation = round(float(ranks[row, column]), 2)
            pairs.append({"first": first.name, "second": second.name, "correlation": correlation})
    return pairs


def _ranked_or_refused(
    table: Table, response: Response, mode: Mode, settings: ReportSettings, needed: int
) -> dict[str, Any]:
    refused: dict[str, Any] = {"refused": [], "ranking": None, "deeper": None, "r2": None}
    usable = len(response.rows)
    if not table.settings:
        return refused | {"refused": ["no setting varied between the trials"]}
    if usable < needed:
        return refused | {"refused": [words.too_few(usable, needed, len(table.settings))]}
    if np.ptp(response.values) == 0:
        return refused | {"refused": ["the metric is the same in all trials"]}
    ranking = _ranking(table, response, mode, settings, thorough=True)
    r2 = ranking["r2"]
    if r2["low"] <= 0:
        return refused | {"r2": r2, "refused": [words.explains_nothing(r2)]}
    deeper = None
    if response.how == "same epoch" and settings.epoch is None:
        last = table.epoch_reached_by(needed)
        if last > (response.epoch or 0):
            deeper = _ranking(table, at_epoch(table, last), mode, settings, thorough=False)
    return {"refused": [], "r2": r2, "ranking": ranking, "deeper": deeper}


def _ranking(
    table: Table, response: Response, mode: Mode, settings: ReportSettings, thorough: bool
) -> dict[str, Any]:
    """Return R², the importances and curves of settings; if `thorough`, also groups and pairs."""
    rows, sign = response.rows, 1 if mode == "max" else -1
    design = Design.of(table.settings, response)
    groups = match_groups(settings.groups, table.settings) if thorough else {}
    members = {f"group {name}": names for name, names in groups.items()}
    members = {**{setting.name: [setting.name] for setting in table.settings}, **members}
    judgement, importance = judge(design, members, settings.forest)
    ranking: dict[str, Any] = {"epoch": response.epoch, "trials": len(rows), **judgement}
    ranking["settings"] = []
    if judgement["r2"]["low"] <= 0:
        return ranking
    forests = refit(design, settings.forest)
    for setting in table.settings:
        shown, grid = setting.grid(rows, _CURVE_POINTS)
        curve = {"values": shown, **partial_dependence(forests, design, setting.name, grid)}
        effect = _effect(setting, curve, sign)
        says = words.effect_sentence(effect)
        row = {"setting": setting.name, **importance[setting.name], "effect": effect}
        ranking["settings"].append({**row, "says": says, "curve": curve})
    ranking["settings"].sort(key=lambda row: row["importance"]["value"], reverse=True)
    if not thorough:
        return ranking
    by_name = {setting.name: setting for setting in table.settings}
    ranking["groups"] = []
    for name, names in groups.items():
        varied = [by_name[member] for member in names]
        worth = contrast(design, varied, sign, settings.forest)
        group = {"group": name, "settings": names, **importance[f"group {name}"]}
        ranking["groups"].append({**group, "contrast": worth})
    strong = [row["setting"] for row in ranking["settings"] if row["important"]][:_STRONGEST]
    grids = {name: by_name[name].grid(rows, _SURFACE_POINTS) for name in strong}
    ranking["interactions"] = interactions(forests, design, grids, settings.forest)
    return ranking


def _effect(setting: Setting, curve: Mapping[str, Sequence[Any]], sign: int) -> dict[str, Any]:
    """Return where the curve is best, and the difference between its highest and lowest point."""
    heights = sign * np.array(curve["middle"])
    shape, span = "between", float(np.ptp(heights))
    if setting.kind == "category":
        shape = "category"
    elif span > 0:
        # A value that is nearly the best counts as best: a curve of trees is flat at its ends.
        near = heights >= heights.max() - 0.1 * span
        if near[0] != near[-1]:
            shape = "lower" if near[0] else "higher"
    return {"shape": shape, "best": curve["values"][int(heights.argmax())], "difference": span}

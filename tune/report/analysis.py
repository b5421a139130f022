"""Everything the report says, as one tree of plain values: the content of `report.json`.

The page is drawn from this tree alone, so that the two cannot differ. What may surprise: where
the report refuses to rank, the tree has no importance at all, not even a doubtful one.

What the report tells of trials and settings before any forest is grown.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tune.report import words
from tune.report.effects import (
    Curve,
    contrast,
    interactions,
    match_groups,
    partial_dependence,
    refit,
)
from tune.report.forest import Design, Grid, Judgement, judge, make_design, make_grid
from tune.report.settings import Mode, ReportSettings
from tune.report.table import (
    Response,
    Setting,
    Table,
    at_epoch,
    epoch_reached_by,
    make_response,
    plain,
    usable_rows,
)

_LEAST_TRIALS, _TRIALS_PER_SETTING = 20, 3
_STRONGEST = 4  # settings whose pairs are looked at
_SURFACE_POINTS = 12


def analyse(
    table: Table, metric: str, mode: Mode, title: str, settings: ReportSettings
) -> dict[str, Any]:
    """The content of the report."""
    content: dict[str, Any] = {
        "title": title,
        "metric": metric,
        "mode": mode,
        "trials": counts(table),
        "best": best_trials(table, mode),
        "failed": unused_trials(table),
        "settings": [describe(one) for one in table.settings],
        "fixed": dict(table.fixed),
    }
    response = make_response(table, settings.epoch)
    content["budget"] = {
        "how": response.how,
        "epoch": response.epoch,
        "share": response.budget_share,
        "shown_as": words.shown_as(response, metric),
        "explanation": words.budget_sentence(response, metric),
        "outliers": words.moved_sentence(response, metric),
        "inherited": words.inherited_sentence(content["trials"]["inherited"]),
    }
    content["used"] = used_trials(table, response)
    content["together"] = together(table.settings, response.rows)
    content |= _ranked_or_refused(table, response, mode, settings)
    content["method"] = {
        "needed": needed_trials(len(table.settings)),
        **settings.forest.model_dump(include={"trees", "repeats", "refits", "seed"}),
    }
    content["order"] = _order(content)
    content["summary"] = words.headline(content)
    return content


def _order(content: Mapping[str, Any]) -> list[str]:
    """The settings that varied, the most important first where they were ranked."""
    rows = content["ranking"]["settings"] if content["ranking"] else content["settings"]
    return [row["setting"] for row in rows]


def needed_trials(settings: int) -> int:
    """Usable trials without which nothing is ranked."""
    return max(_LEAST_TRIALS, _TRIALS_PER_SETTING * settings)


def _ranked_or_refused(
    table: Table, response: Response, mode: Mode, settings: ReportSettings
) -> dict[str, Any]:
    refused: dict[str, Any] = {"ranking": None, "deeper": None, "r2": None}
    usable, needed = len(response.rows), needed_trials(len(table.settings))
    if not table.settings:
        return refused | {"refused": ["no setting varied between the trials"]}
    if usable < needed:
        return refused | {"refused": [words.too_few(usable, needed, len(table.settings))]}
    if np.ptp(response.values) == 0:
        return refused | {"refused": ["the metric is the same in all trials"]}
    ranking = _ranking(table, response, mode, settings, thorough=True)
    if ranking["r2"]["low"] <= 0:
        reason = words.explains_nothing(ranking["r2"])
        return refused | {"r2": ranking["r2"], "refused": [reason]}
    deeper = None
    if response.how == "same epoch" and settings.epoch is None:
        last = epoch_reached_by(table, needed)
        if last > (response.epoch or 0):
            deeper = _ranking(table, at_epoch(table, last), mode, settings, thorough=False)
    return {"refused": [], "r2": ranking["r2"], "ranking": ranking, "deeper": deeper}


def _ranking(
    table: Table, response: Response, mode: Mode, settings: ReportSettings, thorough: bool
) -> dict[str, Any]:
    """R², the importances and curves of settings; if `thorough`, of groups and pairs as well."""
    design = make_design(table.settings, response.rows, response.epochs)
    groups = match_groups(settings.groups, table.settings) if thorough else {}
    asked: dict[str, tuple[str, ...]] = {one.name: (one.name,) for one in table.settings}
    asked |= {_group_key(name): members for name, members in groups.items()}
    judgement = judge(design, response.values, asked, settings.forest)
    found: dict[str, Any] = {
        "epoch": response.epoch,
        "trials": len(response.rows),
        "r2": asdict(judgement.r2),
        "chance": judgement.chance,
        "bar": judgement.bar,
    }
    if judgement.r2.low <= 0:
        return found | {"settings": []}
    forests = refit(design, response.values, settings.forest)
    sign = 1 if mode == "max" else -1
    grids = {one.name: make_grid(one, response.rows) for one in table.settings}
    rows = [
        _row(one, judgement, partial_dependence(forests, design, one.name, grid), grid, sign)
        for one, grid in ((one, grids[one.name]) for one in table.settings)
    ]
    found["settings"] = sorted(rows, key=lambda row: row["importance"]["value"], reverse=True)
    if thorough:
        found["groups"] = _groups(table, design, response, groups, judgement, settings, sign)
        strong = [one["setting"] for one in found["settings"] if one["important"]][:_STRONGEST]
        surfaces = {
            one.name: make_grid(one, response.rows, _SURFACE_POINTS) for one in table.settings
        }
        pairs = interactions(forests, design, response.values, strong, surfaces, settings.forest)
        found["interactions"] = [
            {
                "first": one.pair[0],
                "second": one.pair[1],
                "h2": one.h2,
                "chance": one.chance,
                "found": one.found,
                "first_values": list(surfaces[one.pair[0]].shown),
                "second_values": list(surfaces[one.pair[1]].shown),
                "surface": one.surface.tolist(),
            }
            for one in pairs
        ]
    return found


def _group_key(name: str) -> str:
    return f"group {name}"


def _row(
    setting: Setting, judgement: Judgement, curve: Curve, grid: Grid, sign: int
) -> dict[str, Any]:
    effect = _effect(setting, curve, grid, sign)
    return {
        "setting": setting.name,
        "importance": asdict(judgement.importance[setting.name]),
        "important": judgement.matters(setting.name),
        "effect": effect,
        "says": words.effect_sentence(effect),
        "curve": {
            "values": list(grid.shown),
            "middle": curve.middle.tolist(),
            "low": curve.low.tolist(),
            "high": curve.high.tolist(),
        },
    }


def _effect(setting: Setting, curve: Curve, grid: Grid, sign: int) -> dict[str, Any]:
    """Where the curve is best, and what lies between its ends."""
    heights = sign * curve.middle
    best = int(heights.argmax())
    shape = "between"
    if setting.kind == "category":
        shape = "category"
    elif len(heights) > 1 and np.ptp(heights) > 0:
        # Nearly best at an end counts as best there: a curve of trees is flat at its ends.
        near = np.flatnonzero(heights >= heights.max() - 0.1 * np.ptp(heights))
        if near[-1] == len(heights) - 1 and near[0] > 0:
            shape = "higher"
        elif near[0] == 0 and near[-1] < len(heights) - 1:
            shape = "lower"
    return {"shape": shape, "best": grid.shown[best], "difference": float(np.ptp(heights))}


def _groups(
    table: Table,
    design: Design,
    response: Response,
    groups: Mapping[str, Sequence[str]],
    judgement: Judgement,
    settings: ReportSettings,
    sign: int,
) -> list[dict[str, Any]]:
    by_name = {one.name: one for one in table.settings}
    found = []
    for name, members in groups.items():
        against_off = contrast(
            design, response.values, [by_name[one] for one in members], sign, settings.forest
        )
        verdict = None
        if against_off is not None:
            verdict = {**asdict(against_off), "verdict": against_off.verdict}
        found.append(
            {
                "group": name,
                "settings": list(members),
                "importance": asdict(judgement.importance[_group_key(name)]),
                "important": judgement.matters(_group_key(name)),
                "contrast": verdict,
            }
        )
    return found


_BEST = 10  # trials in the table
_TOGETHER = 0.6  # rank correlation above which two settings are hard to tell apart


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

"""How the metric depends on the strongest settings, and whether groups of settings help.

Partial dependence (Friedman 2001) is what forests predict on average over the trials if a setting
has a certain value in all of them. All values and trials are predicted in one call: scikit-learn's
`partial_dependence` gives the same figures, but with a call for each value it takes twelve times as
long.
"""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations, product
from typing import Any

import numpy as np
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer, StandardScaler

from tune.report.forest import FOLDS, Design, interval, new_forest
from tune.report.settings import ForestSettings
from tune.report.table import Numbers, Setting

_BACKGROUND = 40  # trials at which H² is measured and over which its predictions are averaged
_AVERAGED = 10  # forests whose H², or whose surface, is averaged
_OFF_SHARE = 0.1  # a number can be off if its least value is below this share of its greatest
_OFF_LEVELS = ("false", "0", "none", "off")
_BEST_SHARE = 0.1
_REPEATS = 2  # of the folds in which the effect of the other settings is removed


def refit(design: Design, settings: ForestSettings) -> list[RandomForestRegressor]:
    """Grow forests, each on as many trials drawn with replacement."""
    random = np.random.default_rng(settings.seed + 1)
    forests, trials = [], len(design.response)
    for _ in range(settings.refits):
        drawn = design.take(random.integers(trials, size=trials))
        forest = new_forest(settings, int(random.integers(2**31)))
        forests.append(forest.fit(drawn.matrix, drawn.response))
    return forests


def partial_dependence(
    forests: Sequence[RandomForestRegressor], design: Design, name: str, grid: Numbers
) -> dict[str, list[float]]:
    """Return the mean curve of a setting over the trials that have it, and the middle 90 %."""
    column = design.columns[name]
    matrix = design.matrix[design.present[:, column]]
    curves = [_average(forest, matrix, [column], grid[:, None]) for forest in forests]
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    return {"middle": list(np.mean(curves, axis=0)), "low": list(low), "high": list(high)}


def _average(
    forest: RandomForestRegressor, matrix: Numbers, columns: Sequence[int], values: Numbers
) -> Numbers:
    """Return the mean prediction over `matrix` with `columns` set to each row of `values`."""
    copies = np.broadcast_to(matrix, (len(values), *matrix.shape)).copy()
    copies[:, :, list(columns)] = values[:, None, :]
    predicted = forest.predict(copies.reshape(-1, matrix.shape[1]))
    return np.asarray(predicted).reshape(len(values), -1).mean(axis=1)


def interactions(
    forests: Sequence[RandomForestRegressor],
    design: Design,
    grids: Mapping[str, tuple[list[Any], Numbers]],
    settings: ForestSettings,
) -> list[dict[str, Any]]:
    """Measure every pair of the settings in `grids`, the strongest interaction first.

    H² (Friedman and Popescu 2008) is the share of the variance of the joint partial dependence that
    is not the sum of the settings' own. Forests find some in data without any. So H² is also
    measured on what an additive model predicts, with its errors in random order, many times; an
    interaction is called one if its H² is above every one of those.
    """
    random = np.random.default_rng(settings.seed + 2)
    trials = len(design.response)
    some = design.take(random.choice(trials, size=min(_BACKGROUND, trials), replace=False))
    seeds = random.integers(2**31, size=_AVERAGED)
    actual = [new_forest(settings, int(s)).fit(design.matrix, design.response) for s in seeds]
    measured = [_h_squared(forest, some, list(grids)) for forest in actual]
    additive = _additive_forests(design, settings)
    without = [_h_squared(forest, some, list(grids)) for forest in additive]
    pairs = []
    for pair in combinations(grids, 2):
        (first_values, first), (second_values, second) = (grids[name] for name in pair)
        values = np.array([(x, y) for x in first for y in second])
        columns = [design.columns[name] for name in pair]
        averaged = forests[:_AVERAGED]
        surfaces = [_average(forest, design.matrix, columns, values) for forest in averaged]
        h2, chance = np.mean([h2[pair] for h2 in measured]), max(h2[pair] for h2 in without)
        pairs.append(
            {
                "first": pair[0],
                "second": pair[1],
                "h2": float(h2),
                "chance": chance,
                "found": bool(h2 > chance),
                "first_values": first_values,
                "second_values": second_values,
                "surface": np.mean(surfaces, axis=0).reshape(len(first), -1).tolist(),
            }
        )
    return sorted(pairs, key=lambda pair: (pair["found"], pair["h2"]), reverse=True)


def _additive_forests(design: Design, settings: ForestSettings) -> list[RandomForestRegressor]:
    """Grow forests on what an additive model predicts, plus its errors in random order."""
    random, response = np.random.default_rng(settings.seed + 3), design.response
    model = HistGradientBoostingRegressor(
        interaction_cst="no_interactions",
        learning_rate=0.05,
        max_iter=150,
        max_leaf_nodes=4,
        min_samples_leaf=max(4, len(response) // 15),
        random_state=settings.seed,
    ).fit(design.matrix, response)
    expected = np.asarray(model.predict(design.matrix))
    forests = []
    for _ in range(settings.refits):
        forest = new_forest(settings, int(random.integers(2**31)))
        shuffled = expected + random.permutation(response - expected)
        forests.append(forest.fit(design.matrix, shuffled))
    return forests


def _h_squared(
    forest: RandomForestRegressor, some: Design, names: Sequence[str]
) -> dict[tuple[str, str], float]:
    """Return H² of every pair, over some of the trials."""

    def centred(*names: str) -> Numbers:
        columns = [some.columns[name] for name in names]
        values = _average(forest, some.matrix, columns, some.matrix[:, columns])
        return values - values.mean()

    alone = {name: centred(name) for name in names}
    h2 = {}
    for first, second in combinations(names, 2):
        joint = centred(first, second)
        rest, variance = joint - alone[first] - alone[second], float((joint**2).sum())
        h2[first, second] = float((rest**2).sum()) / variance if variance > 0 else 0.0
    return h2


def match_groups(
    groups: Mapping[str, Sequence[str]], settings: Sequence[Setting]
) -> dict[str, list[str]]:
    """Return the settings of each group; groups of which nothing varied are left out."""
    matched: dict[str, list[str]] = {}
    for setting, (group, patterns) in product(settings, groups.items()):
        if any(fnmatchcase(setting.name, pattern) for pattern in patterns):
            matched.setdefault(group, []).append(setting.name)
    return {group: matched[group] for group in groups if group in matched}


def off_value(setting: Setting) -> float | None:
    """Return the number that switches a setting off; None if the search did not reach it."""
    if setting.kind == "category":
        levels = [level for level in _OFF_LEVELS if level in setting.levels]
        return float(setting.levels.index(levels[0])) if levels else None
    least, greatest = np.nanmin(setting.values), np.nanmax(setting.values)
    can_be_off = setting.kind == "number" and 0 <= least <= _OFF_SHARE * greatest
    return 0.0 if can_be_off else None


def contrast(
    design: Design, members: Sequence[Setting], sign: int, settings: ForestSettings
) -> dict[str, Any] | None:
    """Compare a group with everything of it off; None if it cannot be off.

    Everything off is a corner of the space, where a forest averages over what is near; it found a
    fifth of a known gain. So forests only remove the effect of the other settings, and smooth
    curves that add up, one for each setting of the group, explain the rest. The best tenth is
    chosen by curves on one half of the trials and its gain read from curves on the other half, many
    times, because choosing and measuring on the same trials flatters. Returns what the best tenth
    (`best`) and all joint values that were tried (`drawn`) are worth in the metric's unit, positive
    if better. `sign` is -1 if a smaller metric is better.
    """
    off = [value for value in map(off_value, members) if value is not None]
    columns = [design.columns[member.name] for member in members]
    tried = design.matrix[:, columns]
    if len(off) < len(members) or np.isnan(tried).any():
        return None
    rest = sign * _without_others(design, columns, settings)
    random = np.random.default_rng(settings.seed + 4)
    gains = []
    for _ in range(settings.refits):
        halves = np.array_split(random.permutation(len(rest)), 2)
        curves = [_curves(members).fit(tried[half], rest[half]) for half in halves]
        chosen_by, read_from = (curve.predict(np.vstack([off, tried])) for curve in curves)
        gain = read_from[1:] - read_from[0]
        top = np.argsort(chosen_by[1:])[-max(1, round(_BEST_SHARE * len(gain))) :]
        gains.append((gain.mean(), gain[top].mean()))
    drawn, best = (interval(np.mean(draws), draws) for draws in np.transpose(gains))
    verdict = "helps" if best["low"] > 0 else "hurts" if best["high"] < 0 else "not shown"
    return {"drawn": drawn, "best": best, "verdict": verdict}


def _without_others(design: Design, columns: list[int], settings: ForestSettings) -> Numbers:
    """Subtract what forests on the other columns predict for trials that they have not seen."""
    others, response = np.delete(design.matrix, columns, axis=1), design.response
    if not others.shape[1]:
        return response - response.mean()
    predicted = []
    for seed in range(settings.seed, settings.seed + _REPEATS):
        folds = KFold(FOLDS, shuffle=True, random_state=seed)
        forest = new_forest(settings, seed)
        predicted.append(cross_val_predict(forest, others, response, cv=folds))
    return response - np.mean(predicted, axis=0)


def _curves(members: Sequence[Setting]) -> Pipeline:
    """Return quadratic splines of each number, a step for each level of a category."""
    splines = SplineTransformer(n_knots=3, degree=2, extrapolation="linear")
    places = range(len(members))
    numbers = [place for place in places if members[place].kind != "category"]
    categories = [place for place in places if members[place].kind == "category"]
    levels = [range(len(members[place].levels)) for place in categories]
    steps = OneHotEncoder(categories=levels, drop="first", sparse_output=False)
    shapes = make_column_transformer((splines, numbers), (steps, categories))
    return make_pipeline(shapes, StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))

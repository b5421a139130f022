"""How the metric goes with the strongest settings, alone and two together.

Partial dependence (Friedman 2001): what forests predict on average over the trials if one setting
is given a certain value in all of them. Its band is the middle 90 % of forests on resampled trials.

Interaction is Friedman and Popescu's H² (2008): the share of the variance of the joint partial
dependence of two settings that is not the sum of their own. Forests find some in data without any,
so the same is measured where there is none: on what an additive model gives, with its errors in
random order, many times. An interaction is called one if its H² is above every one of those.

Settings that belong together: how much they matter jointly, and whether having them helps.

A group is a name and patterns of setting names (`*.dropout.weight`). Shuffled together, its
settings show what is lost when none of them is known, which is more than each alone shows where
one can stand in for the other.

Whether a group helps is another question, asked of groups that can be switched off (every setting
zero, or false): what are the best tenth of the joint values that were tried worth, against all of
them off? A forest is the wrong judge of that, since everything off is a corner of the space where
it averages over what is near; it found a fifth of a known gain. So forests on the other settings
only take out what those do, and the rest is explained by smooth curves, one per setting of the
group, that add up. The best tenth is chosen by curves on one half of the trials and its gain read
from curves on the other half, many times: a choice and its praise from the same trials flatter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from tune.report.forest import (
    FOLDS,
    Design,
    Estimate,
    Grid,
    Matrix,
    encode_value,
    interval,
    new_forest,
)
from tune.report.settings import ForestSettings
from tune.report.table import Setting

_BACKGROUND = 40  # trials that H² is measured at, and that its predictions are averaged over
_ACTUAL = 10  # forests whose H², or whose surface, is averaged
SURFACE_POINTS = 12


@dataclass(frozen=True)
class Curve:
    """Partial dependence at each value of a grid, with its band."""

    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Interaction:
    """H² of two settings, the most that forests found where there is none, and the joint partial
    dependence at the pairs of values (first, second)."""

    pair: tuple[str, str]
    h2: float
    chance: float
    surface: NDArray[np.float64]

    @property
    def found(self) -> bool:
        return self.h2 > self.chance


def refit(
    design: Design, response: NDArray[np.float64], settings: ForestSettings
) -> list[RandomForestRegressor]:
    """Forests, each on as many trials drawn with replacement."""
    random = np.random.default_rng(settings.seed + 1)
    forests = []
    for _ in range(settings.refits):
        drawn = random.integers(len(response), size=len(response))
        forest = new_forest(settings, int(random.integers(2**31)))
        forests.append(forest.fit(design.matrix[drawn], response[drawn]))
    return forests


def partial_dependence(
    forests: Sequence[RandomForestRegressor], design: Design, name: str, grid: Grid
) -> Curve:
    """The curve of one setting; of a conditional one, over the trials that have it."""
    there = design.conditional.get(name)
    matrix = design.matrix if there is None else design.matrix[there]
    curves = np.array([average(one, matrix, design.columns[name], grid.encoded) for one in forests])
    low, high = np.quantile(curves, [0.05, 0.95], axis=0)
    return Curve(curves.mean(axis=0), low, high)


def average(
    forest: RandomForestRegressor, matrix: Matrix, columns: Sequence[int], values: Matrix
) -> NDArray[np.float64]:
    """The mean prediction over the rows of `matrix` with `columns` set to each row of values."""
    copies = np.broadcast_to(matrix, (len(values), *matrix.shape)).copy()
    copies[:, :, list(columns)] = values[:, None, :]
    predicted = forest.predict(copies.reshape(-1, matrix.shape[1]))
    return np.asarray(predicted).reshape(len(values), -1).mean(axis=1)


def interactions(
    forests: Sequence[RandomForestRegressor],
    design: Design,
    response: NDArray[np.float64],
    names: Sequence[str],
    grids: Mapping[str, Grid],
    settings: ForestSettings,
) -> list[Interaction]:
    """Every pair of these settings, the strongest interaction first.

    `grids` has, for each name, the values that its surfaces are drawn over.
    """
    random = np.random.default_rng(settings.seed + 2)
    size = min(_BACKGROUND, len(response))
    some = design.take(random.choice(len(response), size=size, replace=False))
    seeds = random.integers(2**31, size=_ACTUAL)
    actual = [new_forest(settings, int(s)).fit(design.matrix, response) for s in seeds]
    drawn = [_h_squared(forest, some, names) for forest in actual]
    null = [_h_squared(one, some, names) for one in _additive_forests(design, response, settings)]
    found = []
    for pair in combinations(names, 2):
        h2, chance = np.mean([one[pair] for one in drawn]), max(one[pair] for one in null)
        surface = _surface(forests, design, pair, [grids[name] for name in pair])
        found.append(Interaction(pair, float(h2), float(chance), surface))
    return sorted(found, key=lambda one: (one.found, one.h2), reverse=True)


def _additive_forests(
    design: Design, response: NDArray[np.float64], settings: ForestSettings
) -> list[RandomForestRegressor]:
    """Forests on what an additive model says of the trials, plus its errors in random order."""
    random = np.random.default_rng(settings.seed + 3)
    model = HistGradientBoostingRegressor(
        interaction_cst="no_interactions",
        learning_rate=0.05,
        max_iter=150,
        max_leaf_nodes=4,
        min_samples_leaf=max(4, len(response) // 15),
        random_state=settings.seed,
    ).fit(design.matrix, response)
    expected = np.asarray(model.predict(design.matrix))
    errors = response - expected
    forests = []
    for _ in range(settings.refits):
        forest = new_forest(settings, int(random.integers(2**31)))
        forests.append(forest.fit(design.matrix, expected + random.permutation(errors)))
    return forests


def _h_squared(
    forest: RandomForestRegressor, some: Design, names: Sequence[str]
) -> dict[tuple[str, str], float]:
    """H² of every pair, over some of the trials."""

    def centred(columns: Sequence[int]) -> NDArray[np.float64]:
        values = average(forest, some.matrix, columns, some.matrix[:, list(columns)])
        return values - values.mean()

    alone = {name: centred(some.columns[name]) for name in names}
    found = {}
    for first, second in combinations(names, 2):
        joint = centred([*some.columns[first], *some.columns[second]])
        rest = joint - alone[first] - alone[second]
        variance = float((joint**2).sum())
        found[first, second] = float((rest**2).sum()) / variance if variance > 0 else 0.0
    return found


def _surface(
    forests: Sequence[RandomForestRegressor],
    design: Design,
    pair: tuple[str, str],
    grids: Sequence[Grid],
) -> NDArray[np.float64]:
    first, second = (grid.encoded for grid in grids)
    pairs = np.hstack([np.repeat(first, len(second), axis=0), np.tile(second, (len(first), 1))])
    both = [column for name in pair for column in design.columns[name]]
    over = np.mean([average(one, design.matrix, both, pairs) for one in forests[:_ACTUAL]], axis=0)
    return np.asarray(over).reshape(len(first), len(second))


_OFF_SHARE = 0.1  # a number whose least value is below this share of its greatest can be off
_BEST_SHARE = 0.1
_REPEATS = 2  # of the folds in which the other settings are taken out

Verdict = Literal["helps", "hurts", "not shown"]


@dataclass(frozen=True)
class Contrast:
    """A group against everything of it off, in the metric's unit and positive if better.

    `drawn` is the mean over all joint values that were tried, `best` over the best tenth.
    """

    drawn: Estimate
    best: Estimate

    @property
    def verdict(self) -> Verdict:
        if self.best.low > 0:
            return "helps"
        return "hurts" if self.best.high < 0 else "not shown"


def match_groups(
    groups: Mapping[str, Sequence[str]], settings: Sequence[Setting]
) -> dict[str, tuple[str, ...]]:
    """The settings of each group; groups of which nothing varied are left out."""
    found = {
        group: tuple(
            one.name
            for one in settings
            if any(fnmatchcase(one.name, pattern) for pattern in patterns)
        )
        for group, patterns in groups.items()
    }
    return {group: members for group, members in found.items() if members}


def off_value(setting: Setting) -> float | str | None:
    """The value that switches a setting off, or None if it was not searched down to there."""
    if setting.kind == "category":
        return next((one for one in ("false", "0", "none", "off") if one in setting.levels), None)
    least, greatest = float(setting.values.min()), float(setting.values.max())
    if setting.kind == "number" and 0 <= least <= _OFF_SHARE * greatest:
        return 0.0
    return None


def contrast(
    design: Design,
    response: NDArray[np.float64],
    members: Sequence[Setting],
    sign: int,
    settings: ForestSettings,
) -> Contrast | None:
    """The group against off; None if it cannot be off. `sign` is -1 if a smaller metric is
    better."""
    offs = [(member, off_value(member)) for member in members]
    encoded = [encode_value(member, off) for member, off in offs if off is not None]
    columns = [column for member in members for column in design.columns[member.name]]
    tried = design.matrix[:, columns]
    if len(encoded) < len(members) or np.isnan(tried).any():
        return None
    rest = sign * _without_others(design.matrix, response, columns, settings)
    random = np.random.default_rng(settings.seed + 4)
    gains = []
    for _ in range(settings.refits):
        order = random.permutation(len(rest))
        halves = np.array_split(order, 2)
        curves = [_curves(tried).fit(tried[half], rest[half]) for half in halves]
        gains.append(_gains(curves, tried, np.concatenate(encoded)))
    drawn, best = (np.array(one) for one in zip(*gains, strict=True))
    return Contrast(interval(float(drawn.mean()), drawn), interval(float(best.mean()), best))


def _without_others(
    matrix: Matrix,
    response: NDArray[np.float64],
    columns: Sequence[int],
    settings: ForestSettings,
) -> NDArray[np.float64]:
    """What is left of the response when forests on the other columns have predicted it, each
    trial by forests that have not seen it."""
    others = np.delete(matrix, list(columns), axis=1)
    if not others.shape[1]:
        return response - response.mean()
    predicted = [
        cross_val_predict(
            new_forest(settings, settings.seed + repeat),
            others,
            response,
            cv=KFold(FOLDS, shuffle=True, random_state=settings.seed + repeat),
        )
        for repeat in range(_REPEATS)
    ]
    return response - np.mean(predicted, axis=0)


def _curves(tried: Matrix) -> Pipeline:
    """Quadratic splines of each number, one step for each column of zeros and ones."""
    steps = [bool(np.isin(column, (0.0, 1.0)).all()) for column in tried.T]
    numbers = [number for number, step in enumerate(steps) if not step]
    splines = SplineTransformer(n_knots=3, degree=2, extrapolation="linear")
    shapes = make_column_transformer((splines, numbers), remainder="passthrough")
    return make_pipeline(shapes, StandardScaler(), RidgeCV(np.logspace(-1, 3, 9)))


def _gains(curves: Sequence[Pipeline], tried: Matrix, off: Matrix) -> tuple[float, float]:
    """Gains over off of all joint values that were tried, and of the best tenth."""
    chosen_by, read_from = (one.predict(np.vstack([off, tried])) for one in curves)
    gains = read_from[1:] - read_from[0]
    best = np.argsort(chosen_by[1:])[-max(1, round(_BEST_SHARE * len(gains))) :]
    return float(gains.mean()), float(gains[best].mean())

"""How the metric goes with the strongest settings, alone and two together.

Partial dependence (Friedman 2001): what forests predict on average over the trials if one setting
is given a certain value in all of them. Its band is the middle 90 % of forests on resampled trials.

Interaction is Friedman and Popescu's H² (2008): the share of the variance of the joint partial
dependence of two settings that is not the sum of their own. Forests find some in data without any,
so the same is measured where there is none: on what an additive model gives, with its errors in
random order, many times. An interaction is called one if its H² is above every one of those.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from tune.report.encoding import Grid
from tune.report.forest import Design, Matrix, new_forest
from tune.report.settings import ForestSettings

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

"""How much a random forest explains of the trials, and which settings it needs for that.

Forests are judged on trials that they have not seen: five folds, many times. The importance of a
setting is how much the squared error of held-out trials grows when that setting's values are
shuffled among them (permutation importance, Breiman 2001), as a share of the variance.

scikit-learn's `permutation_importance` shuffles single columns and returns only means. Here groups
of settings are shuffled jointly, a setting that another one switches on only among the trials that
have it, and the errors of single trials are kept, because the intervals are bootstrapped over both
repeats and trials. Optuna's importances are not judged on held-out trials, have no intervals, and
are shares of one, so that they name an important setting even where the trials differ by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from tune.report.settings import ForestSettings
from tune.report.table import Numbers, Response, Rows, Setting

FOLDS = 5
_BOOTSTRAPS = 1000
_SHUFFLES = 4
_LEAST = 0.01  # of the variance: less is of no use to anyone, even if it is more than chance


@dataclass(frozen=True)
class Design:
    """The trials as the forest has them: a column for each setting, then unranked ones."""

    columns: Mapping[str, int]
    matrix: Numbers  # (trials, columns)
    present: NDArray[np.bool_]  # (trials, columns); False if its switch removes a setting
    response: Numbers  # (trials,)

    @classmethod
    def of(cls, settings: Sequence[Setting], response: Response) -> "Design":
        """Return the trials of a response; the epochs of each are an unranked column."""
        rows, switched = response.rows, [bool(setting.switch) for setting in settings]
        columns = {setting.name: number for number, setting in enumerate(settings)}
        matrix = np.column_stack([setting.column(rows) for setting in settings])
        empty = np.column_stack([np.isnan(setting.values[rows]) for setting in settings])
        design = cls(columns, matrix, ~(empty & switched), response.values)
        return design if response.epochs is None else design.with_column("", response.epochs)

    def take(self, rows: Rows) -> "Design":
        return Design(self.columns, self.matrix[rows], self.present[rows], self.response[rows])

    def with_column(self, name: str, values: Numbers) -> "Design":
        columns = {**self.columns, name: self.matrix.shape[1]}
        present = np.column_stack([self.present, np.ones(len(values), bool)])
        return Design(columns, np.column_stack([self.matrix, values]), present, self.response)


def new_forest(settings: ForestSettings, seed: int) -> RandomForestRegressor:
    """Make a forest whose splits look at all columns.

    With few trials and few strong settings that explains more than a third or half of them.
    """
    return RandomForestRegressor(settings.trees, min_samples_leaf=2, random_state=seed)


def judge(
    design: Design, groups: Mapping[str, Sequence[str]], settings: ForestSettings
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return R² with what chance reaches, and the importance of each group of settings.

    A group may be a single setting. Forests also get a column of random numbers, a new one each
    time: `chance` is what 95 % of those columns stay below. A group is important if its whole
    interval lies above the `bar`, which is chance, or a hundredth of the variance if that is more.
    """
    random = np.random.default_rng(settings.seed)
    response, trials, repeats = design.response, len(design.response), settings.repeats
    error, total = np.zeros((repeats, trials)), np.zeros((repeats, trials))
    growth = np.zeros((repeats, len(groups) + 1, trials))
    members = [*groups.values(), ["noise"]]
    for repeat in range(repeats):
        noisy = design.with_column("noise", random.random(trials))
        folds = KFold(FOLDS, shuffle=True, random_state=_seed(random))
        for train, test in folds.split(noisy.matrix):
            forest = new_forest(settings, _seed(random))
            forest.fit(noisy.matrix[train], response[train])
            held_out = _held_out(forest, noisy.take(test), members, random)
            error[repeat, test], growth[repeat][:, test] = held_out
            total[repeat, test] = (response[test] - response[train].mean()) ** 2
    draws = []
    for _ in range(_BOOTSTRAPS):
        of_repeats, of_trials = (
            np.bincount(random.integers(size, size=size), minlength=size)
            for size in (repeats, trials)
        )
        unexplained = of_repeats @ error @ of_trials
        grown = np.tensordot(of_repeats, growth, axes=1) @ of_trials
        draws.append(np.array([unexplained, *grown]) / (of_repeats @ total @ of_trials))
    unexplained, *importances = np.transpose(draws)
    chance = float(np.quantile(growth[:, -1].mean(axis=1) / total.mean(), 0.95))
    bar = max(chance, _LEAST)
    r2 = interval(1 - error.sum() / total.sum(), 1 - unexplained)
    means = growth.mean(axis=(0, 2)) / total.mean()
    judged = {}
    for group, mean, drawn in zip(groups, means, importances, strict=False):
        importance = interval(mean, drawn)
        judged[group] = {"importance": importance, "important": importance["low"] > bar}
    return {"r2": r2, "chance": chance, "bar": bar}, judged


def _held_out(
    forest: RandomForestRegressor,
    held: Design,
    groups: Sequence[Sequence[str]],
    random: np.random.Generator,
) -> tuple[Numbers, Numbers]:
    """Return squared errors (trials,) and by how much they grow for each group (groups, trials)."""
    trials, width = held.matrix.shape
    copies = np.broadcast_to(held.matrix, (len(groups), _SHUFFLES, trials, width)).copy()
    for group, group_copies in zip(groups, copies, strict=True):
        for copy in group_copies:
            order = random.permutation(trials)
            for column in (held.columns[name] for name in group):
                present = held.present[:, column]
                copy[present, column] = held.matrix[order[present[order]], column]
    predicted = forest.predict(np.concatenate([held.matrix, copies.reshape(-1, width)]))
    error = (held.response - predicted[:trials]) ** 2
    shuffled = (held.response - predicted[trials:].reshape(len(groups), _SHUFFLES, trials)) ** 2
    return error, shuffled.mean(axis=1) - error


def interval(value: float, draws: Sequence[float] | Numbers) -> dict[str, float]:
    """Return a value with the middle 95 % of its draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))

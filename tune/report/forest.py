"""How much a random forest explains of the trials, and which settings it needs for that.

The forest is judged on trials that it has not seen: five folds, many times over. Out come R² and,
for each setting, by how much the squared error of held-out trials grows when that setting's values
are shuffled among them (permutation importance, Breiman 2001), as a share of the variance. Every
forest is also given a column of random numbers, drawn anew each time: what such a column reaches
is what chance reaches, and only more than that counts.

Uncertainty: forests, folds and shuffles differ between the repeats, and trials are few; so the
intervals are bootstrapped over both repeats and trials. What may surprise: the two bounds of an
importance do not move with R²; they are paired with it, of the same held-out trials.

Settings as columns of numbers for the forest, and the values that curves are drawn over.

A number is one column, on a logarithmic scale where it was searched on one; a category is a column
of zeros and ones per level, of two levels one column. An empty number that a switch explains
becomes the median of the others, so that the forest can learn of the switch from the switch alone;
an empty number without one stays empty, which scikit-learn's trees can split on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold

from tune.report.settings import ForestSettings
from tune.report.table import Setting, plain

FOLDS = 5
_BOOTSTRAPS = 1000
_SHUFFLES = 4
NOISE = "noise"
_LEAST = 0.01  # of the variance: less is of no use to anyone, even where it is more than chance

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Design:
    """The settings as columns of numbers: (trials, columns), and which columns are whose.

    `conditional` names the settings that are not there in all trials; the rows where they are.
    """

    matrix: Matrix
    columns: Mapping[str, tuple[int, ...]]
    conditional: Mapping[str, NDArray[np.bool_]]

    def take(self, rows: NDArray[np.int64]) -> "Design":
        there = {name: mask[rows] for name, mask in self.conditional.items()}
        return Design(self.matrix[rows], self.columns, there)


@dataclass(frozen=True)
class Estimate:
    """A value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Judgement:
    """R² on held-out trials, and the importance of each group of settings that was asked for, in
    the unit of R². `chance` is the highest importance that 95 % of the columns of noise reach."""

    r2: Estimate
    importance: Mapping[str, Estimate]
    chance: float

    @property
    def bar(self) -> float:
        """What an interval must lie above: chance, and a hundredth of the variance."""
        return max(self.chance, _LEAST)

    def matters(self, name: str) -> bool:
        """Whether the whole interval lies above the bar."""
        return self.importance[name].low > self.bar


def new_forest(settings: ForestSettings, seed: int) -> RandomForestRegressor:
    """The one kind of forest of the report. All columns are looked at in each split: with few
    trials and few strong settings that explains more than looking at a third or half of them."""
    return RandomForestRegressor(settings.trees, min_samples_leaf=2, random_state=seed)


def judge(
    design: Design,
    response: NDArray[np.float64],
    groups: Mapping[str, Sequence[str]],
    settings: ForestSettings,
) -> Judgement:
    """R² and the importance of each group of settings (a group may be one setting)."""
    random = np.random.default_rng(settings.seed)
    names = [*groups, NOISE]
    trials, repeats = len(response), settings.repeats
    error, total = np.zeros((repeats, trials)), np.zeros((repeats, trials))
    growth = np.zeros((repeats, len(names), trials))
    for repeat in range(repeats):
        noisy = _with_noise(design, random)
        members = {**groups, NOISE: (NOISE,)}
        folds = KFold(FOLDS, shuffle=True, random_state=_seed(random))
        for train, test in folds.split(noisy.matrix):
            forest = new_forest(settings, _seed(random))
            forest.fit(noisy.matrix[train], response[train])
            error[repeat, test], growth[repeat][:, test] = _held_out(
                forest, noisy.take(test), response[test], list(members.values()), random
            )
            total[repeat, test] = (response[test] - response[train].mean()) ** 2
    r2, importance = _bootstrap(error, total, growth, random)
    noise = growth[:, -1].mean(axis=1) / total.mean()
    chance = float(np.quantile(noise, 0.95))
    return Judgement(r2, dict(zip(names[:-1], importance, strict=False)), chance)


def _with_noise(design: Design, random: np.random.Generator) -> Design:
    matrix = np.column_stack([design.matrix, random.random(len(design.matrix))])
    columns = {**design.columns, NOISE: (design.matrix.shape[1],)}
    return Design(matrix, columns, design.conditional)


def _held_out(
    forest: RandomForestRegressor,
    held: Design,
    response: NDArray[np.float64],
    groups: Sequence[Sequence[str]],
    random: np.random.Generator,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared errors (trials,), and by how much they grow for each group (groups, trials)."""
    trials, width = held.matrix.shape
    copies = np.broadcast_to(held.matrix, (len(groups), _SHUFFLES, trials, width)).copy()
    for number, group in enumerate(groups):
        for copy in copies[number]:
            shuffle(copy, held, group, random)
    predicted = forest.predict(np.concatenate([held.matrix, copies.reshape(-1, width)]))
    error = (response - predicted[:trials]) ** 2
    shuffled = (response - predicted[trials:].reshape(len(groups), _SHUFFLES, trials)) ** 2
    return error, shuffled.mean(axis=1) - error


def shuffle(
    matrix: Matrix, design: Design, group: Sequence[str], random: np.random.Generator
) -> None:
    """Shuffles a group's columns in place, all of them by the same exchange of trials; a setting
    that is not always there only among the trials that have it."""
    order = random.permutation(len(matrix))
    for name in group:
        columns, there = design.columns[name], design.conditional.get(name)
        if there is None:
            matrix[:, columns] = matrix[order][:, columns]
        else:
            exchanged = matrix[order[there[order]]]
            for column in columns:
                matrix[there, column] = exchanged[:, column]


def _bootstrap(
    error: NDArray[np.float64],
    total: NDArray[np.float64],
    growth: NDArray[np.float64],
    random: np.random.Generator,
) -> tuple[Estimate, list[Estimate]]:
    repeats, trials = error.shape
    r2: list[float] = []
    importance: list[NDArray[np.float64]] = []
    for _ in range(_BOOTSTRAPS):
        of_repeats = np.bincount(random.integers(repeats, size=repeats), minlength=repeats)
        of_trials = np.bincount(random.integers(trials, size=trials), minlength=trials)
        variance = float(of_repeats @ total @ of_trials)
        r2.append(float(1 - of_repeats @ error @ of_trials / variance))
        grown = np.tensordot(of_repeats, growth, axes=1) @ of_trials
        importance.append(grown / variance)
    means = growth.mean(axis=(0, 2)) / total.mean()
    bounds = np.quantile(np.array(importance), [0.025, 0.975], axis=0)
    estimates = [
        Estimate(float(mean), float(low), float(high))
        for mean, low, high in zip(means, *bounds, strict=True)
    ]
    return interval(float(1 - error.sum() / total.sum()), r2), estimates


def interval(value: float, draws: Sequence[float] | NDArray[np.float64]) -> Estimate:
    """A value with the middle 95 % of its draws."""
    low, high = np.quantile(np.asarray(draws), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))


_POINTS = 15  # of a curve


@dataclass(frozen=True)
class Grid:
    """Values of one setting: as they are shown, and the rows of numbers that stand for them."""

    shown: tuple[Any, ...]
    encoded: Matrix  # (values, columns of the setting)


def make_design(
    settings: Sequence[Setting],
    rows: NDArray[np.int64],
    unranked: NDArray[np.float64] | None = None,
) -> Design:
    """The settings of these trials of the table, and a column that belongs to none of them."""
    columns: dict[str, tuple[int, ...]] = {}
    conditional: dict[str, NDArray[np.bool_]] = {}
    parts: list[Matrix] = []
    for setting in settings:
        part = _encode(setting, rows)
        first = sum(one.shape[1] for one in parts)
        columns[setting.name] = tuple(range(first, first + part.shape[1]))
        parts.append(part)
        if setting.switch is not None:
            conditional[setting.name] = setting.values.iloc[rows].notna().to_numpy()
    if unranked is not None:
        parts.append(unranked[:, None])
    return Design(np.column_stack(parts), columns, conditional)


def _encode(setting: Setting, rows: NDArray[np.int64]) -> Matrix:
    values = setting.values.iloc[rows]
    if setting.kind == "category":
        levels = _columns_of(setting)
        texts = values.where(values.notna(), values.mode().get(0))
        return np.column_stack([(texts == level).to_numpy(dtype=float) for level in levels])
    numbers = values.to_numpy(dtype=float)
    if setting.switch is not None:
        there = numbers[np.isfinite(numbers)]
        numbers = np.where(np.isfinite(numbers), numbers, np.median(there) if len(there) else 0.0)
    return scaled(setting, numbers)[:, None]


def _columns_of(setting: Setting) -> tuple[str, ...]:
    return setting.levels[1:] if len(setting.levels) == 2 else setting.levels


def scaled(setting: Setting, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers on the scale they were searched on."""
    return np.log10(numbers) if setting.kind == "log" else numbers


def encode_value(setting: Setting, value: float | str) -> NDArray[np.float64]:
    """One value as the setting's columns."""
    if setting.kind == "category":
        return np.array([float(value == level) for level in _columns_of(setting)])
    return scaled(setting, np.array([value], dtype=float))


def make_grid(setting: Setting, rows: NDArray[np.int64], points: int = _POINTS) -> Grid:
    """Evenly spaced values between the smallest and largest of these trials, all of them where
    they are few; of a category its levels."""
    values = setting.values.iloc[rows].dropna()
    if setting.kind == "category":
        seen = [level for level in setting.levels if level in set(values)]
        return Grid(tuple(seen), np.array([encode_value(setting, level) for level in seen]))
    numbers = np.unique(scaled(setting, values.to_numpy(dtype=float)))
    if len(numbers) > points:
        numbers = np.linspace(numbers[0], numbers[-1], points)
    shown = 10**numbers if setting.kind == "log" else numbers
    return Grid(tuple(plain(one) for one in shown), numbers[:, None])

"""Settings as columns of numbers for the forest, and the values that curves are drawn over.

A number is one column, on a logarithmic scale where it was searched on one; a category is a column
of zeros and ones per level, of two levels one column. An empty number that a switch explains
becomes the median of the others, so that the forest can learn of the switch from the switch alone;
an empty number without one stays empty, which scikit-learn's trees can split on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune.report.forest import Design, Matrix
from tune.report.table import Setting, plain

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

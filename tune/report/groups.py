"""Settings that belong together: how much they matter jointly, and whether having them helps.

A group is a name and patterns of setting names (`*.dropout.weight`). Shuffled together, its
settings show what is lost when none of them is known, which is more than each alone shows where
one can stand in for the other. Whether a group helps is another question, asked of groups that can
be switched off (every setting zero, or false): what do forests predict for the best tenth of the
joint values that were tried, against everything off? The best tenth is chosen by a forest on one
half of the trials and its gain read from a forest on the other half, many times, since a choice
and its praise from the same trials would flatter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from tune.report.dependence import average
from tune.report.encoding import encode_value
from tune.report.forest import Design, Estimate, Matrix, interval, new_forest
from tune.report.settings import ForestSettings
from tune.report.table import Setting

_OFF_SHARE = 0.1  # a number whose least value is below this share of its greatest can be off
_BEST_SHARE = 0.1
_OTHERS = 30  # trials whose other settings the predictions are averaged over

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


def halves(
    design: Design, response: NDArray[np.float64], settings: ForestSettings
) -> list[tuple[RandomForestRegressor, RandomForestRegressor]]:
    """Pairs of forests on the two halves of the trials, divided anew for each pair."""
    random = np.random.default_rng(settings.seed + 4)
    pairs = []
    for _ in range(settings.refits):
        order = random.permutation(len(response))
        middle = len(order) // 2
        first, second = (
            new_forest(settings, int(random.integers(2**31))).fit(
                design.matrix[rows], response[rows]
            )
            for rows in (order[:middle], order[middle:])
        )
        pairs.append((first, second))
    return pairs


def contrast(
    pairs: Sequence[tuple[RandomForestRegressor, RandomForestRegressor]],
    design: Design,
    members: Sequence[Setting],
    sign: int,
) -> Contrast | None:
    """The group against off; None if it cannot be off. `sign` is -1 if a smaller metric is
    better."""
    offs = [(member, off_value(member)) for member in members]
    encoded = [encode_value(member, off) for member, off in offs if off is not None]
    if len(encoded) < len(members):
        return None
    columns = [column for member in members for column in design.columns[member.name]]
    random = np.random.default_rng(0)
    size = min(_OTHERS, len(design.matrix))
    others = design.matrix[random.choice(len(design.matrix), size=size, replace=False)]
    tried = np.vstack([np.concatenate(encoded), design.matrix[:, columns]])
    gains = [_gains(first, second, others, columns, tried, sign) for first, second in pairs]
    drawn, best = (np.array(one) for one in zip(*gains, strict=True))
    return Contrast(interval(float(drawn.mean()), drawn), interval(float(best.mean()), best))


def _gains(
    first: RandomForestRegressor,
    second: RandomForestRegressor,
    others: Matrix,
    columns: Sequence[int],
    tried: Matrix,
    sign: int,
) -> tuple[float, float]:
    """Gains over off, which is the first row of `tried`: of all rows, and of the best tenth."""
    chosen_by = sign * average(first, others, columns, tried)
    read_from = sign * average(second, others, columns, tried)
    gains = read_from[1:] - read_from[0]
    best = np.argsort(chosen_by[1:])[-max(1, round(_BEST_SHARE * len(gains))) :]
    return float(gains.mean()), float(gains[best].mean())

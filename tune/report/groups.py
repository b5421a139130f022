"""Settings that belong together: how much they matter jointly, and whether having them helps.

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
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import make_column_transformer
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from tune.report.encoding import encode_value
from tune.report.forest import FOLDS, Design, Estimate, Matrix, interval, new_forest
from tune.report.settings import ForestSettings
from tune.report.table import Setting

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

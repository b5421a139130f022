"""What the forest explains: one number per trial, made comparable between budgets.

A trial that ASHA stopped after one epoch has a worse metric than one that was trained for nine,
whatever its settings; and anything that goes with the budget would seem to matter. Three ways, the
first that the table allows:

1. all trials were trained for as many epochs: the metric as it is;
2. there is a history: the metric of all trials after the same epoch, the last one that (nearly)
   all of them reached. Nobody has been selected by then, so nothing is distorted;
3. else what is expected of its number of epochs is subtracted from each: a curve through all
   trials that only rises, or only falls (isotonic regression). The number is also given to the
   forest, unranked, so that no setting has to stand in for it. Being stopped is a consequence of
   bad settings, so this takes a part of true effects away as well.

What may surprise: values that are far worse or better than the rest (a loss that exploded) are
moved to Tukey's outer fence, three interquartile ranges from the quartiles; a forest minimises
squares, and one of them would be all that it explains.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from tune.report.table import Table

How = Literal["same budget", "same epoch", "centred"]
_NEARLY_ALL = 0.95  # one trial that lost its time elsewhere must not take the rest back to epoch 1
_FENCE = 3.0  # interquartile ranges


@dataclass(frozen=True)
class Response:
    """`values[i]` belongs to the trial at `rows[i]` of the table. `epoch` is None where centred.
    `moved` counts outliers; `budget_share` is the share of the metric's variance that went with
    the number of epochs and was taken out; `epochs` are then those of each trial."""

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    how: How
    epoch: int | None
    moved: int = 0
    budget_share: float | None = None
    epochs: NDArray[np.float64] | None = None


def usable_rows(table: Table) -> NDArray[np.int64]:
    """The trials that did not fail and whose metric is a number."""
    metric = pd.to_numeric(table.trials["metric"], errors="coerce")
    usable = (table.trials["status"] != "failed") & np.isfinite(metric)
    return np.flatnonzero(usable.to_numpy())


def comparable_rows(table: Table) -> NDArray[np.int64]:
    """The usable trials that owe nothing to another trial's training."""
    rows = usable_rows(table)
    return rows[table.trials["parent"].iloc[rows].isna().to_numpy()]


def make_response(table: Table, epoch: int | None = None) -> Response:
    """The response of all comparable trials; `epoch` asks for another epoch than the common one."""
    rows = comparable_rows(table)
    trials = table.trials.iloc[rows]
    epochs = trials["epochs"].to_numpy(dtype=float)
    if table.history is not None and (epoch is not None or len(set(epochs)) > 1):
        chosen = common_epoch(table) if epoch is None else epoch
        return at_epoch(table, chosen)
    metric = trials["metric"].to_numpy(dtype=float)
    if len(set(epochs)) <= 1:
        fenced, moved = _fenced(metric)
        last = int(epochs[0]) if len(epochs) else None
        return Response(rows, fenced, "same budget", last, moved)
    usual = pd.Series(metric).groupby(epochs).transform("median").to_numpy()
    unusual, moved = _fenced(metric - usual)
    metric = usual + unusual
    expected = IsotonicRegression(increasing="auto").fit_transform(epochs, metric)
    share = float(expected.var() / metric.var()) if metric.var() > 0 else 0.0
    return Response(rows, metric - expected, "centred", None, moved, share, epochs)


def at_epoch(table: Table, epoch: int) -> Response:
    """The metric after that epoch, of the comparable trials that reached it."""
    assert table.history is not None
    after = table.history[table.history["epoch"] == epoch].drop_duplicates("trial", keep="last")
    by_trial = after.set_index("trial")["metric"]
    rows = comparable_rows(table)
    values = table.trials["trial"].iloc[rows].map(by_trial).to_numpy(dtype=float)
    there = np.isfinite(values)
    fenced, moved = _fenced(values[there])
    return Response(rows[there], fenced, "same epoch", epoch, moved)


def common_epoch(table: Table) -> int:
    """The last epoch that nearly all comparable trials have a metric of."""
    return epoch_reached_by(table, int(np.ceil(_NEARLY_ALL * len(comparable_rows(table)))))


def epoch_reached_by(table: Table, trials: int) -> int:
    """The last epoch that so many comparable trials have a metric of; 0 if there is none."""
    assert table.history is not None
    names = set(table.trials["trial"].iloc[comparable_rows(table)])
    history = table.history[np.isfinite(table.history["metric"])]
    reached = history[history["trial"].isin(names)].groupby("epoch")["trial"].nunique()
    enough = reached.index[reached >= max(trials, 1)]
    return int(enough.max()) if len(enough) else 0


def _fenced(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """The values with outliers moved to the fence, and how many were."""
    if not len(values):
        return values, 0
    lower, upper = np.quantile(values, [0.25, 0.75])
    reach = _FENCE * (upper - lower)
    fenced = np.clip(values, lower - reach, upper + reach) if reach > 0 else values
    return fenced, int((fenced != values).sum())

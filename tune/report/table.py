"""The trials of a search as the report sees them: which settings varied, and what each one is.

In: the folder that a search wrote, `trials.parquet` with one row per trial, and beside it, where
they are, `search.json` (metric, mode, space) and `history.parquet` (trial, epoch, metric: one row
per epoch). Out: a `Table`. What may surprise: a setting that is empty exactly where another one
has a certain value (`attention_size` where attention is off) is known by that switch, so that
being empty is counted as the switch's doing and not as its own.

What the forest explains: one number per trial, made comparable between budgets.

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

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from seqvis.errors import DataError
from seqvis.storage import Location

PREFIX = "config/"
_COLUMNS = ("trial", "status", "epochs", "seconds", "metric", "error")
_STATUSES = ("finished", "stopped", "failed")
_LOG_RATIO = 20  # a positive number that varies by less is never read on a logarithmic scale
_FEW = 6  # an empty value beside so few distinct numbers is one more level of a choice
NOT_SET = "not set"

Kind = Literal["number", "log", "category"]


@dataclass(frozen=True)
class Setting:
    """One setting that varied. `values` has one entry per trial of the table: floats (NaN where
    empty) for numbers, text for categories, whose `levels` are in order."""

    name: str
    kind: Kind
    values: pd.Series
    levels: tuple[str, ...] = ()
    switch: str | None = None

    @property
    def short_name(self) -> str:
        """The last two parts of the dotted path, enough to know it by."""
        return ".".join(self.name.split(".")[-2:])


@dataclass(frozen=True)
class Table:
    """`trials` has the columns trial, status, epochs, seconds, metric, error and parent (the trial
    whose checkpoint this one went on from, or nothing) and is indexed 0, 1, …; `fixed` are
    settings with one value throughout; `history` is None where there is none."""

    trials: pd.DataFrame
    settings: tuple[Setting, ...]
    fixed: Mapping[str, Any]
    history: pd.DataFrame | None

    def configuration(self, row: int) -> dict[str, Any]:
        """The settings that varied, as this trial had them; None where empty."""
        found = {one.name: one.values.iloc[row] for one in self.settings}
        return {name: plain(value) for name, value in found.items()}


def read_table(trials: Location) -> Table:
    """The table of a search's folder, or of its `trials.parquet`.

    Raises DataError if there is no such file, or if it has not the columns of a trials table.
    """
    folder = folder_of(trials)
    place = folder / "trials.parquet" if folder is trials else trials
    if not place.exists():
        raise DataError(f"{place.uri}: no such file; give the folder that a search wrote")
    frame = _read_parquet(place, _COLUMNS)
    unknown = sorted(set(frame["status"]) - set(_STATUSES))
    if unknown:
        raise DataError(f"{place.uri}: status {unknown[0]!r} is none of {', '.join(_STATUSES)}")
    history = None
    if (folder / "history.parquet").exists():
        history = _read_parquet(folder / "history.parquet", ("trial", "epoch", "metric"))
    return make_table(frame, read_search(folder).get("space", {}), history)


def folder_of(trials: Location) -> Location:
    """The search's folder, of itself or of its table of trials."""
    return trials if trials.is_directory() else trials.parent()


def make_table(
    frame: pd.DataFrame, space: Mapping[str, Any], history: pd.DataFrame | None = None
) -> Table:
    """Sorts the columns `config/…` into those that varied, with their kind, and fixed ones."""
    frame = frame.reset_index(drop=True)
    names = [name for name in frame.columns if name.startswith(PREFIX)]
    varied, fixed = [], {}
    for column in names:
        name, values = column.removeprefix(PREFIX), frame[column].astype(object)
        if len({_text(value) for value in values}) > 1:
            varied.append((name, values))
        elif len(values):
            fixed[name] = plain(values.iloc[0])
    settings = tuple(_setting(name, values, space.get(name, {}), varied) for name, values in varied)
    if "parent" not in frame:
        frame["parent"] = None
    return Table(frame[[*_COLUMNS, "parent"]], settings, fixed, history)


def _setting(
    name: str,
    values: pd.Series,
    distribution: Mapping[str, Any],
    others: Sequence[tuple[str, pd.Series]],
) -> Setting:
    empty = values.isna()
    there = values[~empty]
    switch = _switch(empty, others) if empty.any() else None
    numeric = all(_is_number(value) for value in there)
    few = there.map(_text).nunique() <= _FEW and empty.any() and switch is None
    if not numeric or few or len(there) == 0:
        texts = values.map(_text)
        if switch is not None:
            texts[empty] = None
        return Setting(name, "category", texts, _ordered(there, texts), switch)
    numbers = values.astype(float)
    return Setting(name, _number_kind(numbers.dropna(), distribution), numbers, (), switch)


def _switch(empty: pd.Series, others: Sequence[tuple[str, pd.Series]]) -> str | None:
    """The setting whose value decides alone whether this one is empty."""
    for name, values in others:
        texts = values.map(_text)
        if values.isna().any() or texts.nunique() > _FEW:
            continue
        if (empty.groupby(texts).nunique() == 1).all():
            return name
    return None


def _number_kind(numbers: pd.Series, distribution: Mapping[str, Any]) -> Kind:
    """As the space says; else logarithmic where that spreads the values more evenly."""
    form = next(iter(distribution), "choice") if isinstance(distribution, dict) else "choice"
    if form != "choice":
        return "log" if "log" in form else "number"
    if numbers.min() <= 0 or numbers.max() < _LOG_RATIO * numbers.min():
        return "number"
    return "log" if _off_centre(np.log(numbers)) < _off_centre(numbers) else "number"


def _off_centre(numbers: pd.Series) -> float:
    """How far the median lies from the middle of the range, as a share of the range."""
    least, greatest = float(numbers.min()), float(numbers.max())
    return abs((float(numbers.median()) - least) / (greatest - least) - 0.5)


def _ordered(there: pd.Series, texts: pd.Series) -> tuple[str, ...]:
    """Numbers by size and the rest by name, "not set" first."""
    levels = set(texts.dropna())
    if len(there) and all(_is_number(value) for value in there):
        known = [_text(value) for value in sorted(set(there))]
    else:
        known = sorted(levels - {NOT_SET})
    return tuple([NOT_SET] * (NOT_SET in levels) + known)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, (bool, np.bool_))


def _text(value: Any) -> str:
    value = plain(value)
    if value is None:
        return NOT_SET
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """A value as JSON has it: no NumPy types, and None for what is empty or not finite."""
    if isinstance(value, np.ndarray):
        return [plain(one) for one in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value


def _read_parquet(place: Location, needed: Sequence[str]) -> pd.DataFrame:
    content = io.BytesIO(place.read_bytes())
    try:
        frame = pd.read_parquet(content)
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(f"{place.uri}: not a Parquet file that can be read ({error})") from error
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise DataError(f"{place.uri}: has no column {missing[0]!r}; is it a search's?")
    return frame


def read_search(folder: Location) -> dict[str, Any]:
    """`search.json` in a folder, or {} if there is none."""
    place = folder / "search.json"
    if not place.exists():
        return {}
    try:
        return dict(json.loads(place.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{place.uri}: not JSON with keys and values ({error})") from error


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
    from sklearn.isotonic import IsotonicRegression  # of the extra `tune`

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

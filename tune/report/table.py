"""The trials of a search as the report compares them: settings that varied, one number a trial."""

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
NOT_SET = "not set"
_COLUMNS = ("trial", "status", "epochs", "seconds", "metric", "error")
_STATUSES = ("finished", "stopped", "failed")
_LOG_RATIO = 20  # a positive number that varies by less is never read on a logarithmic scale
_FEW = 6  # an empty value beside so few distinct numbers is one more level of a choice
_NEARLY_ALL = 0.95  # a single trial that ended early must not take all others back to epoch 1
_FENCE = 3.0  # interquartile ranges

Kind = Literal["number", "log", "category"]
Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """A setting that varied, with a number for each trial: NaN if empty, the level of a category.

    A setting that is empty exactly where another one has a certain value (`attention_size` without
    attention) has that one as its `switch`, which is then credited with its absence.
    """

    name: str
    kind: Kind
    values: Numbers
    levels: tuple[str, ...] = ()
    switch: str | None = None

    def shown(self, number: float) -> Any:
        """Return the value that a number stands for; None if empty."""
        if self.kind == "category" and not np.isnan(number):
            return self.levels[int(number)]
        return plain(number)

    def scaled(self, numbers: Any) -> Numbers:
        """Convert numbers to the scale on which they were searched."""
        return np.asarray(np.log10(numbers) if self.kind == "log" else numbers, dtype=float)

    def column(self, rows: Rows) -> Numbers:
        """Return the forest's column for these trials.

        A value that is empty because of the switch becomes the usual one, so that a forest can
        learn of the switch only from the switch. Other empty values stay NaN.
        """
        numbers = self.values[rows]
        present = pd.Series(numbers).dropna()
        if self.switch is not None and len(present):
            usual = present.mode()[0] if self.kind == "category" else present.median()
            numbers = np.where(np.isnan(numbers), usual, numbers)
        return self.scaled(numbers)

    def grid(self, rows: Rows, points: int) -> tuple[list[Any], Numbers]:
        """Return values to draw a curve over, as they are shown and as the forest has them."""
        numbers = np.unique(self.scaled(self.values[rows]))
        numbers = numbers[~np.isnan(numbers)]
        if len(numbers) > points and self.kind != "category":
            numbers = np.linspace(numbers[0], numbers[-1], points)
        raw = 10**numbers if self.kind == "log" else numbers
        return [self.shown(number) for number in raw], numbers


@dataclass(frozen=True)
class Table:
    """All trials of a search."""

    trials: pd.DataFrame  # indexed 0, 1, …; the columns of `trials.parquet` without the settings
    settings: tuple[Setting, ...]
    fixed: Mapping[str, Any]  # settings with the same value in all trials
    history: pd.DataFrame | None  # trial, epoch, metric

    def configuration(self, row: int) -> dict[str, Any]:
        """Return the varied settings of a trial; None where empty."""
        return {setting.name: setting.shown(setting.values[row]) for setting in self.settings}

    def usable_rows(self) -> Rows:
        """Return the trials that did not fail and whose metric is a number."""
        metric = pd.to_numeric(self.trials["metric"], errors="coerce")
        return np.flatnonzero((self.trials["status"] != "failed") & np.isfinite(metric))

    def comparable_rows(self) -> Rows:
        """Return the usable trials that did not continue another trial's training."""
        rows = self.usable_rows()
        return rows[self.trials["parent"].iloc[rows].isna().to_numpy()]

    def epoch_reached_by(self, trials: int) -> int:
        """Return the last epoch after which so many comparable trials have a metric, or 0."""
        assert self.history is not None
        names = self.trials["trial"].iloc[self.comparable_rows()]
        history = self.history[np.isfinite(self.history["metric"])]
        reached = history[history["trial"].isin(names)].groupby("epoch")["trial"].nunique()
        enough = reached.index[reached >= max(trials, 1)]
        return int(enough.max()) if len(enough) else 0


@dataclass(frozen=True)
class Response:
    """What the forest predicts: `values[i]` of the trial at `rows[i]` of the table."""

    rows: Rows
    values: Numbers
    how: Literal["same budget", "same epoch", "centred"]
    epoch: int | None  # after which trials are compared
    moved: int = 0  # outliers
    budget_share: float | None = None  # of the variance, removed by centring
    epochs: Numbers | None = None  # of each trial, if centred


def make_response(table: Table, epoch: int | None = None) -> Response:
    """Make trials with different numbers of epochs comparable, by the first way that is possible.

    1. All trials were trained for the same number of epochs: the metric as it is.
    2. There is a history: the metric after the same epoch, which is `epoch` or the last one that
       nearly all trials reached. Nothing was selected before it, so nothing is distorted.
    3. What is expected of its number of epochs, by isotonic regression, is subtracted from each
       trial. Trials are stopped because of bad settings, so this also removes a part of true
       effects. The forest gets the epochs as well, so that no setting has to stand in for them.
    """
    rows = table.comparable_rows()
    trials = table.trials.iloc[rows]
    epochs, metric = (trials[name].to_numpy(dtype=float) for name in ("epochs", "metric"))
    different = len(set(epochs)) > 1
    if table.history is not None and (epoch is not None or different):
        nearly_all = int(np.ceil(_NEARLY_ALL * len(rows)))
        return at_epoch(table, table.epoch_reached_by(nearly_all) if epoch is None else epoch)
    if not different:
        fenced, moved = _fenced(metric)
        return Response(rows, fenced, "same budget", int(epochs[0]) if len(epochs) else None, moved)
    from sklearn.isotonic import IsotonicRegression  # part of the extra `tune`

    usual = pd.Series(metric).groupby(epochs).transform("median").to_numpy()
    unusual, moved = _fenced(metric - usual)
    metric = usual + unusual
    expected = IsotonicRegression(increasing="auto").fit_transform(epochs, metric)
    share = float(expected.var() / metric.var()) if metric.var() > 0 else 0.0
    return Response(rows, metric - expected, "centred", None, moved, share, epochs)


def at_epoch(table: Table, epoch: int) -> Response:
    """Return the metric after an epoch, of the comparable trials that reached it."""
    assert table.history is not None
    after = table.history[table.history["epoch"] == epoch].drop_duplicates("trial", keep="last")
    rows = table.comparable_rows()
    metric = table.trials["trial"].iloc[rows].map(after.set_index("trial")["metric"])
    values = metric.to_numpy(dtype=float)
    reached = np.isfinite(values)
    fenced, moved = _fenced(values[reached])
    return Response(rows[reached], fenced, "same epoch", epoch, moved)


def _fenced(values: Numbers) -> tuple[Numbers, int]:
    """Move outliers to Tukey's outer fence, and count them.

    A forest minimises squares: a single exploded loss would be all that it explains.
    """
    if not len(values):
        return values, 0
    lower, upper = np.quantile(values, [0.25, 0.75])
    reach = _FENCE * (upper - lower)
    fenced = np.clip(values, lower - reach, upper + reach) if reach > 0 else values
    return fenced, int((fenced != values).sum())


def read_table(trials: Location) -> Table:
    """Read the table of a search's folder, or of its `trials.parquet`. Raises DataError."""
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
    """Return the search's folder, given the folder or its table of trials."""
    return trials if trials.is_directory() else trials.parent()


def read_search(folder: Location) -> dict[str, Any]:
    """Read `search.json` in a folder; {} if there is none."""
    place = folder / "search.json"
    if not place.exists():
        return {}
    try:
        return dict(json.loads(place.read_bytes()))
    except (ValueError, TypeError) as error:
        raise DataError(f"{place.uri}: not JSON with keys and values ({error})") from error


def _read_parquet(place: Location, needed: Sequence[str]) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(io.BytesIO(place.read_bytes()))
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(f"{place.uri}: not a Parquet file that can be read ({error})") from error
    missing = [name for name in needed if name not in frame.columns]
    if missing:
        raise DataError(f"{place.uri}: has no column {missing[0]!r}; is it a search's?")
    return frame


def make_table(
    frame: pd.DataFrame, space: Mapping[str, Any], history: pd.DataFrame | None = None
) -> Table:
    """Sort the columns `config/…` into settings that varied, with their kind, and fixed ones."""
    frame = frame.reset_index(drop=True)
    varied: dict[str, pd.Series] = {}
    fixed: dict[str, Any] = {}
    for column in (name for name in frame.columns if name.startswith(PREFIX)):
        name, values = column.removeprefix(PREFIX), frame[column].astype(object)
        if values.map(_text).nunique() > 1:
            varied[name] = values
        elif len(values):
            fixed[name] = plain(values.iloc[0])
    settings = tuple(_setting(name, space.get(name, {}), varied) for name in varied)
    if "parent" not in frame:
        frame["parent"] = None
    return Table(frame[[*_COLUMNS, "parent"]], settings, fixed, history)


def _setting(
    name: str, distribution: Mapping[str, Any], varied: Mapping[str, pd.Series]
) -> Setting:
    values = varied[name]
    empty, present = values.isna(), values.dropna()
    switch = next((other for other in varied if _switches(varied[other], empty)), None)
    numeric = bool(len(present)) and all(_is_number(value) for value in present)
    few = present.map(_text).nunique() <= _FEW and empty.any() and switch is None
    if numeric and not few:
        numbers = values.astype(float)
        kind = _number_kind(numbers.dropna(), distribution)
        return Setting(name, kind, np.asarray(numbers, dtype=float), (), switch)
    levels = [_text(value) for value in (sorted(set(present)) if numeric else present)]
    levels = list(dict.fromkeys(levels)) if numeric else sorted(set(levels))
    if empty.any() and switch is None:
        levels = [NOT_SET, *levels]
    codes = values.map(_text).map({level: float(code) for code, level in enumerate(levels)})
    return Setting(name, "category", np.asarray(codes, dtype=float), tuple(levels), switch)


def _switches(values: pd.Series, empty: pd.Series) -> bool:
    """Return whether the values of a setting alone decide whether another one is empty."""
    texts = values.map(_text)
    if not empty.any() or values.isna().any() or texts.nunique() > _FEW:
        return False
    return bool((empty.groupby(texts).nunique() == 1).all())


def _number_kind(numbers: pd.Series, distribution: Mapping[str, Any]) -> Kind:
    """Return the scale of the space, or else the one that spreads the values more evenly."""
    form = next(iter(distribution), "choice") if isinstance(distribution, dict) else "choice"
    if form != "choice":
        return "log" if "log" in form else "number"
    if numbers.min() <= 0 or numbers.max() < _LOG_RATIO * numbers.min():
        return "number"
    return "log" if _off_centre(np.log(numbers)) < _off_centre(numbers) else "number"


def _off_centre(numbers: pd.Series) -> float:
    """Return how far the median lies from the middle of the range, as a share of the range."""
    return float(abs((numbers.median() - numbers.min()) / (numbers.max() - numbers.min()) - 0.5))


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
    """Return a value as JSON has it: no NumPy types, and None for what is empty or not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not np.isfinite(value)):
        return None
    return value

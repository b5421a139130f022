"""Pairs in a pandas DataFrame, copied to Parquet where all nodes reach it."""

from collections.abc import Iterator
from functools import partial

import pandas as pd
import pyarrow as pa

from seqvis.cluster import Progress
from seqvis.corpus.inputs.parquet import ParquetPairs, open_parquet, write_pairs
from seqvis.corpus.inputs.source import Columns, Index, check_columns, no_columns
from seqvis.errors import DataError
from seqvis.storage import Location

NAME = "DataFrame"  # in messages
COPIED_ROWS = 50_000  # at a time


def open_frame(frame: pd.DataFrame, columns: Columns | None) -> Index:
    """Check a table of pairs; a missing value is a blank text.

    Raises ConfigError without `columns`, DataError if one is missing or holds something else.
    """
    names = [str(name) for name in frame.columns]
    if columns is None:
        raise no_columns(NAME, names)
    check_columns(NAME, columns, names)
    if not len(frame):
        raise DataError(f"{NAME}: has no rows; give a table with pairs")
    sides = frame.iloc[:, [names.index(column) for column in columns]]
    return partial(_copy, sides.set_axis(columns, axis=1), columns)


def _copy(
    frame: pd.DataFrame, columns: Columns, scratch: Location, progress: Progress
) -> ParquetPairs:
    place = scratch / "pairs.parquet"
    write_pairs(_tables(frame, columns, progress), place)
    return open_parquet(place, NAME, columns)


def _tables(frame: pd.DataFrame, columns: Columns, progress: Progress) -> Iterator[pa.Table]:
    for first in range(0, len(frame), COPIED_ROWS):
        part = frame.iloc[first : first + COPIED_ROWS]
        yield pa.table({column: _texts(part[column], column, first) for column in columns})
        progress("copying", first + len(part), len(frame))


def _texts(values: "pd.Series[str]", column: str, first: int) -> pa.Array:
    try:
        return pa.array(values, pa.string(), from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        odd = next(
            (row, value)
            for row, value in enumerate(values, first)
            if not isinstance(value, str) and not pd.isna(value)
        )
        raise DataError(
            f"{NAME}: row {odd[0]} has {odd[1]!r:.40} as {column}, which is no text; repair it, "
            f"or name other columns"
        ) from error

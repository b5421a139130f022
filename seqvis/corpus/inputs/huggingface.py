"""Pairs in a dataset of Hugging Face, copied to Parquet where all nodes reach it."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa

from seqvis.checks import require_extra
from seqvis.cluster import Progress
from seqvis.config import suggestion
from seqvis.corpus.inputs.parquet import ParquetPairs, check_schema, open_parquet, write_pairs
from seqvis.corpus.inputs.source import Columns, Index
from seqvis.errors import DataError
from seqvis.storage import HUGGING_FACE, Location, load_named_dataset, local_path

COPIED_ROWS = 50_000  # at a time


def open_dataset(name: str, columns: Columns | None, split: str | None, usual_split: str) -> Index:
    """Load a dataset and check it.

    Raises DataError if it cannot be loaded, lacks the split, or as `check_schema` does.
    """
    if name.startswith(HUGGING_FACE):
        dataset = load_named_dataset(name, split or usual_split)
    else:
        dataset = _load_folder(name, split, usual_split)
    columns = check_schema(name, dataset.features.arrow_schema, columns)
    if not len(dataset):
        raise DataError(f"{name}: has no rows; give a dataset with pairs")
    return partial(_copy, name, dataset, columns)


def _load_folder(name: str, split: str | None, usual_split: str) -> Any:
    require_extra("hub", "datasets")
    import datasets

    try:
        loaded = datasets.load_from_disk(str(local_path(name)))
    except Exception as error:  # of many kinds; an IndexError if there are no rows
        raise DataError(
            f"{name}: is a folder without a dataset, or with an empty or damaged one ({error}); "
            f"give one that save_to_disk wrote"
        ) from error
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or ""): loaded}
    wanted = split or (usual_split if isinstance(loaded, dict) else str(loaded.split or ""))
    if wanted not in splits:
        if "" in splits:
            raise DataError(f"{name}: is one dataset without splits; leave out the split {wanted}")
        hint = suggestion(wanted, list(splits))
        raise DataError(
            f"{name}: has no split {wanted}, it has {', '.join(splits)}{hint}; name it by --split "
            f"or --valid-split"
        )
    return splits[wanted]


def _copy(
    name: str, dataset: Any, columns: Columns, scratch: Location, progress: Progress
) -> ParquetPairs:
    own = dataset.column_names
    outer = {column if column in own else column.partition(".")[0] for column in columns}
    chosen = dataset.select_columns([column for column in own if column in outer])

    def tables() -> Iterator[pa.Table]:
        done = 0
        for table in chosen.with_format("arrow").iter(COPIED_ROWS):
            yield table
            done += table.num_rows
            progress("copying", done, len(dataset))

    place = scratch / "pairs.parquet"
    write_pairs(tables(), place)
    return open_parquet(place, name, columns)

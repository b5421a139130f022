"""Run work on Ray Data: on blocks of sentence pairs, or on items such as partitions."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from seqvis.cluster import Progress, quiet_ray_data
from seqvis.corpus.inputs.source import PairSource
from seqvis.errors import SeqvisError

Done = tuple[Any, int]  # what a piece of work returns, and how many rows or items it was


def run_blocks(
    source: PairSource,
    work: Callable[[pa.Table], Any],
    rows_per_task: int,
    max_line_bytes: int,
    stage: str,
    progress: Progress,
) -> Iterator[Any]:
    """Read the pairs in tasks of so many rows, apply `work` to each table, yield what it returns.

    Results come in no fixed order and should be small: they reach this process. A SeqvisError of
    reader or `work` is raised here as it was.
    """
    rows = source.rows
    readers = [
        source.reader(rows[first : first + rows_per_task], max_line_bytes)
        for first in range(0, len(rows), rows_per_task)
    ]

    def read_and_work(reader: Callable[[], Iterator[pa.Table]]) -> Iterator[Done]:
        for table in reader():
            yield work(table), table.num_rows

    return _run(readers, read_and_work, stage, len(rows), progress)


def run_items(
    items: Sequence[Any], work: Callable[[Any], Any], stage: str, progress: Progress
) -> Iterator[Any]:
    """Apply `work` to each item, one task each, and yield what it returns, as `run_blocks` does."""

    def work_on(item: Any) -> Iterator[Done]:
        yield work(item), 1

    return _run(items, work_on, stage, len(items), progress)


def _run(
    items: Sequence[Any],
    work: Callable[[Any], Iterator[Done]],
    stage: str,
    total: int,
    progress: Progress,
) -> Iterator[Any]:
    import ray

    def apply(table: pa.Table) -> Iterator[pa.Table]:
        try:
            for item in table["item"].to_pylist():
                for result, rows in work(pickle.loads(item)):
                    yield _packed(result, rows)
        except SeqvisError as error:  # raised, it would arrive as text inside a Ray error
            yield _packed(error, 0)

    with quiet_ray_data():
        packed = [{"item": pickle.dumps(item)} for item in items]
        dataset: Any = ray.data.from_items(packed, override_num_blocks=len(packed))
        results = dataset.map_batches(
            apply, batch_size=None, batch_format="pyarrow", zero_copy_batch=True
        )
        done = 0
        progress(stage, 0, total)
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                result = pickle.loads(row["result"])
                if isinstance(result, SeqvisError):
                    raise result
                done += row["rows"]
                progress(stage, done, total)
                yield result


def _packed(result: Any, rows: int) -> pa.Table:
    return pa.table({"result": [pickle.dumps(result)], "rows": [rows]})

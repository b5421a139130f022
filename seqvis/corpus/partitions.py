"""Tables split into numbered partitions on disk, for work that does not fit in memory.

A writer puts all its partitions into one Arrow file, one record batch each; a reader fetches the
same partition from every writer's file without reading the others. Finding duplicates and counting
words this way takes memory that does not grow with the corpus.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from seqvis.storage import Location, storage_errors


def write_partitions(location: Location, table: pa.Table, numbers: np.ndarray, count: int) -> None:
    """Writes row i of `table` to partition `numbers[i]` of `count`; order within one is kept."""
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(count + 1))
    table = table.take(pa.array(order)).combine_chunks()
    batches = [_one_batch(table.slice(a, b - a)) for a, b in pairwise(bounds)]
    _write(location, batches)


def write_whole(location: Location, table: pa.Table) -> None:
    """Writes the table as the only partition."""
    _write(location, [_one_batch(table)])


def _write(location: Location, batches: Sequence[pa.RecordBatch]) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with storage_errors(location.uri):
        with location.filesystem.open_output_stream(location.path) as sink:
            with pa.ipc.new_file(sink, batches[0].schema, options=options) as writer:
                for batch in batches:
                    writer.write_batch(batch)


def read_partition(location: Location, number: int) -> pa.Table:
    """One partition of a file that `write_partitions` wrote."""
    with location.filesystem.open_input_file(location.path) as file:
        reader = pa.ipc.open_file(file)
        return pa.Table.from_batches([reader.get_batch(number)])


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_pylist([], schema=table.schema)

"""Tables cut into numbered partitions on disk, for work that is larger than memory.

A writer puts all its partitions into one Arrow file, one record batch each; a reader fetches
the same partition out of every writer's file without reading the others. This is how duplicates
are found and words counted with memory that does not grow with the corpus.
"""

from itertools import pairwise

import numpy as np
import pyarrow as pa

from seqvis.storage import Location, storage_errors


def write_partitions(location: Location, table: pa.Table, numbers: np.ndarray, count: int) -> None:
    """Writes row i of `table` to partition `numbers[i]` of `count`; order within one is kept."""
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(count + 1))
    table = table.take(pa.array(order)).combine_chunks()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with storage_errors(location.uri):
        with location.filesystem.open_output_stream(location.path) as sink:
            with pa.ipc.new_file(sink, table.schema, options=options) as writer:
                for first, last in pairwise(bounds):
                    writer.write_batch(_one_batch(table.slice(first, last - first)))


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

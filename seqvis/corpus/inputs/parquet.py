"""Pairs in a Parquet file, read by ranges of rows.

What cannot be entered in the middle, such as TMX, is first written to such a file (`write_pairs`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqvis.corpus.inputs.source import (
    Columns,
    check_columns,
    check_texts,
    gathered,
    no_columns,
    pair_table,
)
from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors

BATCH_ROWS = 8192

_TEXTS = (
    *(pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()),
    pa.null(),  # of a column without any value
)

Piece = tuple[int, int, int]  # a row group, how many of its rows to skip, how many to take


@dataclass(frozen=True)
class ParquetPairs:
    """A Parquet file of which two columns are the sides of pairs."""

    uri: str  # what messages call it
    names: tuple[str, str]
    location: Location
    columns: Columns
    group_rows: tuple[int, ...]  # of each row group

    @property
    def rows(self) -> range:
        return range(sum(self.group_rows))

    @property
    def lines(self) -> dict[str, int]:
        return {self.uri: len(self.rows)}

    def reader(self, rows: range, longest: int) -> Callable[[], Iterator[pa.Table]]:
        """Return a reader; where it begins within a row group, it decodes the rows before too."""
        pieces: list[Piece] = []
        begin = 0
        for group, count in enumerate(self.group_rows):
            skip = max(0, rows.start - begin)
            take = min(count, rows.stop - begin) - skip
            if take > 0:
                pieces.append((group, skip, take))
            begin += count
        return partial(read_pieces, self.location, self.columns, pieces, rows.start, longest)

    def encoding_advice(self, side: int) -> str:
        return "write the table again with its texts in UTF-8"


def read_pieces(
    location: Location, columns: Columns, pieces: list[Piece], first: int, longest: int
) -> Iterator[pa.Table]:
    """Yield tables of `PAIR_SCHEMA` for these pieces, which begin with row `first`."""
    return gathered(_tables(location, columns, pieces, first, longest))


def _tables(
    location: Location, columns: Columns, pieces: list[Piece], first: int, longest: int
) -> Iterator[pa.Table]:
    with _opened(location) as file:
        for group, skip, take in pieces:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=list(columns)):
                wanted = _flat(pa.Table.from_batches([batch.slice(skip, take)]))
                skip = max(0, skip - batch.num_rows)
                take -= wanted.num_rows
                if wanted.num_rows:
                    source, target = (
                        check_texts(_as_bytes(wanted[name]), longest) for name in columns
                    )
                    yield pair_table(source, target, first)
                    first += wanted.num_rows
                if not take:
                    break


def open_parquet(
    location: Location, uri: str, columns: Columns | None, names: tuple[str, str] | None = None
) -> ParquetPairs:
    """Check a Parquet file; messages call it `uri`, and its two columns `names`.

    Raises DataError if it is damaged or empty, or as `check_schema` does.
    """
    with _opened(location) as file:
        columns = check_schema(uri, file.schema_arrow, columns)
        metadata = file.metadata
        rows = tuple(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
    if not sum(rows):
        raise DataError(f"{uri}: has no rows; give a table with pairs")
    source, target = columns
    names = names or (f"{uri}, column {source}", f"{uri}, column {target}")
    return ParquetPairs(uri, names, location, columns, rows)


def check_schema(uri: str, schema: pa.Schema, columns: Columns | None) -> Columns:
    """Return the columns, which are named by paths, such as translation.fr in a struct.

    Raises ConfigError without `columns`, DataError if one is missing or holds no text.
    """
    flat = _flat(schema.empty_table()).schema
    if columns is None:
        raise no_columns(uri, flat.names)
    check_columns(uri, columns, flat.names)
    for column in columns:
        kind = flat.field(column).type
        if not _is_text(kind):
            raise DataError(f"{uri}: column {column} holds {kind}, not text; name other --columns")
    return columns


def write_pairs(tables: Iterable[pa.Table], place: Location) -> None:
    """Write tables as they come, a row group each. Raises StorageError if there is no room."""
    writer = None
    with storage_errors(place.uri), place.filesystem.open_output_stream(place.path) as sink:
        for table in tables:
            writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()


@contextmanager
def _opened(location: Location) -> Iterator[pq.ParquetFile]:
    try:
        with location.filesystem.open_input_file(location.path) as stream:
            # Without buffering ahead, a row group of any size takes little memory.
            with pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20) as file:
                yield file
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{location.uri}: damaged or cut off Parquet file ({error}); fetch it again"
        ) from error


def _flat(table: pa.Table) -> pa.Table:
    """Return the table with the members of structs as columns: translation.fr."""
    while any(map(pa.types.is_struct, table.schema.types)):
        table = table.flatten()
    return table


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return kind in _TEXTS


def _as_bytes(values: pa.ChunkedArray) -> pa.BinaryArray:
    return pc.fill_null(values.combine_chunks().cast(pa.binary()), b"")

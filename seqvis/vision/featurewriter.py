"""New features and those of an earlier run become the parts of one artifact, in a single pass.

In: the listing, what the earlier artifact knows of its files, and a stream of results for the other
files, both in the listing's order. Out: Parquet parts, sorted by path, as if all had been embedded
at once. What would surprise a reader: a file whose time changed but not its size is read again,
and if its content proves to be the same (status `SAME`) its features are carried over after all.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqvis.artifacts import ArtifactWriter
from seqvis.errors import DataError
from seqvis.storage import storage_errors
from seqvis.vision.featuretable import PARTS, REJECTED, FeatureTable
from seqvis.vision.listing import Listing

EMBEDDED, SAME, NOT_FINITE = "embedded", "same", "not finite"  # any other status is a reason

GROUP_ROWS = 1024  # files that are merged at once, and rows read together at most
PART_GROUPS = 16


@dataclass
class Counts:
    """What became of the files."""

    embedded: int = 0
    carried: int = 0
    rejected: Counter[str] = field(default_factory=Counter)

    @property
    def images(self) -> int:
        return self.embedded + self.carried


@dataclass(frozen=True)
class Known:
    """What an earlier artifact knows of the listed files."""

    table: FeatureTable | None
    row: np.ndarray  # int64 [files]: the file's row in `table`, -1 if it has none
    unchanged: np.ndarray  # bool [files]: path, size and time are the same
    content_hash: pa.Array  # binary [files]: set where only the time differs, else null

    @classmethod
    def of(cls, listing: Listing, table: FeatureTable | None) -> "Known":
        count = len(listing)
        if table is None:
            no_hash = pa.nulls(count, pa.binary())
            return cls(None, np.full(count, -1), np.zeros(count, bool), no_hash)
        old = table.columns(["path", "size", "modified", "content_hash"]).combine_chunks()
        found = pc.index_in(listing.table["path"].combine_chunks(), old["path"].combine_chunks())
        row = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        same = {
            name: (old[name].to_numpy()[row] == listing.table[name].to_numpy()) & (row >= 0)
            for name in ("size", "modified")
        }
        unchanged = same["size"] & same["modified"]
        in_doubt = same["size"] & ~unchanged
        hashes = old["content_hash"].take(pa.array(row, mask=~in_doubt)).combine_chunks()
        return cls(table, row, unchanged, hashes)


def result_schema(dimension: int, with_classes: bool) -> pa.Schema:
    """Of the stream of results, apart from `status` and `row`, and of what is carried over."""
    tops = [
        ("top_classes", pa.list_(pa.int16(), 10)),
        ("top_probabilities", pa.list_(pa.float32(), 10)),
    ]
    return pa.schema(
        [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("content_hash", pa.binary()),
            ("features", pa.list_(pa.float16(), dimension)),
            *(tops if with_classes else []),
            ("thumbnail", pa.binary()),
        ]
    )


def write_features(
    writer: ArtifactWriter,
    listing: Listing,
    known: Known,
    results: Iterator[pa.Table],
    schema: pa.Schema,
) -> Counts:
    """Writes parts and rejected files. `results` has a row a file that is not `known.unchanged`.

    Raises DataError if a feature is not finite, or if no picture is left.
    """
    rejected = list(listing.aside)
    counts = Counts(rejected=Counter(reason for _, reason in rejected))
    stream = _Stream(results)
    paths = listing.table["path"]
    with _PartWriter(writer) as parts:
        for first in range(0, len(listing), GROUP_ROWS):
            rows = np.arange(first, min(first + GROUP_ROWS, len(listing)))
            carried = known.unchanged[rows]
            fresh = stream.take(int((~carried).sum()))
            status = np.array(fresh["status"].to_pylist() if fresh else [], dtype=object)
            new_rows = rows[~carried]
            embedded = status == EMBEDDED
            old_rows = np.sort(np.concatenate([rows[carried], new_rows[status == SAME]]))
            for place in np.flatnonzero(~embedded & (status != SAME)):
                path = paths[int(new_rows[place])].as_py()
                if status[place] == NOT_FINITE:
                    raise DataError(
                        f"{path}: the backbone's features of this picture are not finite numbers; "
                        f"its weights are damaged or too large for float16"
                    )
                rejected.append((path, str(status[place])))
            tables = [schema.empty_table()]
            if fresh:
                tables.append(fresh.select(schema.names).filter(pa.array(embedded)).cast(schema))
            if known.table is not None and len(old_rows):
                tables.append(known.table.take(known.row[old_rows], schema.names).cast(schema))
            kept = np.concatenate([new_rows[embedded], old_rows])
            order = np.argsort(kept)
            parts.write(_with_listing(listing, kept[order], pa.concat_tables(tables).take(order)))
            counts.embedded += int(embedded.sum())
            counts.carried += len(old_rows)
            counts.rejected.update(status[~embedded & (status != SAME)].tolist())
    _check_any(listing, counts)
    _write_rejected(writer, rejected)
    return counts


def _with_listing(listing: Listing, rows: np.ndarray, results: pa.Table) -> pa.Table:
    listed = listing.table.take(rows)
    names = ("path", "label", "size", "modified", *listing.extra)
    columns = {name: listed[name] for name in names[:4]}
    columns |= {name: results[name] for name in results.column_names}
    columns |= {name: listed[name] for name in names[4:]}
    return pa.table(columns)


class _Stream:
    """Takes exact numbers of rows from tables of any size."""

    def __init__(self, tables: Iterator[pa.Table]):
        self._tables = tables
        self._held: pa.Table | None = None

    def take(self, count: int) -> pa.Table | None:
        """The next `count` rows; None for 0."""
        taken: list[pa.Table] = []
        while count:
            if self._held is None or not self._held.num_rows:
                self._held = next(self._tables)
            piece = self._held.slice(0, count)
            self._held = self._held.slice(piece.num_rows)
            count -= piece.num_rows
            taken.append(piece)
        return pa.concat_tables(taken) if taken else None


class _PartWriter:
    """Parquet files of `PART_GROUPS` row groups each; holds one group at a time."""

    def __init__(self, writer: ArtifactWriter):
        self._writer = writer
        self._stack = ExitStack()
        self._open: pq.ParquetWriter | None = None
        self._groups = 0

    def __enter__(self) -> "_PartWriter":
        return self

    def __exit__(self, *error: object) -> None:
        with storage_errors(self._writer.destination.uri):
            self._stack.close()

    def write(self, table: pa.Table) -> None:
        if not table.num_rows:
            return
        with storage_errors(self._writer.destination.uri):
            if self._open is None or self._groups % PART_GROUPS == 0:
                self._stack.close()
                number = self._groups // PART_GROUPS
                location = self._writer.path(f"{PARTS}/part-{number:05d}.parquet")
                self._open = self._stack.enter_context(
                    pq.ParquetWriter(
                        location.path, table.schema, filesystem=location.filesystem,
                        compression="zstd", use_dictionary=["label"],
                    )
                )  # fmt: skip
            self._open.write_table(table, row_group_size=GROUP_ROWS)
        self._groups += 1


def _check_any(listing: Listing, counts: Counts) -> None:
    if not counts.images:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.rejected.most_common())
        raise DataError(
            f"{listing.uri}: none of its {counts.rejected.total()} files is a picture that can be "
            f"used ({reasons})"
        )


def _write_rejected(writer: ArtifactWriter, rejected: list[tuple[str, str]]) -> None:
    location = writer.path(REJECTED)
    table = pa.table(
        {
            "path": pa.array([path for path, _ in rejected], pa.string()),
            "reason": pa.array([reason for _, reason in rejected], pa.string()),
        }
    )
    with storage_errors(writer.destination.uri):
        pq.write_table(table, location.path, filesystem=location.filesystem)

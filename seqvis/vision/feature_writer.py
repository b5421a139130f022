"""Combine new features with those of earlier runs into one artifact, sorted by path.

`keep_results` writes the good results of a stream into pieces, which outlive the process;
`write_features` merges these with what was known before, as if everything had been embedded at
once. A file with a new time but the same size is read again, and if its content is unchanged
(status `SAME`), its old features are kept.

`DecodePictures` is the CPU task of `embed_images`. A task's process imports the module of its
function: this one does not need PyTorch, which takes seconds and half a gigabyte.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from seqvis.artifacts import ArtifactWriter
from seqvis.errors import DataError
from seqvis.storage import storage_errors
from seqvis.vision import images
from seqvis.vision.feature_table import PARTS, REJECTED, FeatureTable, Pieces
from seqvis.vision.foldertree import NO_FILE, REMEDIES, UNREADABLE
from seqvis.vision.images import BadImage, Fit, enough
from seqvis.vision.listing import WHERE, Listing, PictureReader

EMBEDDED, SAME, NOT_FINITE = "embedded", "same", "not finite"  # any other status is a reason

GROUP_ROWS = 1024  # files that are merged at once, and rows read together at most
PART_GROUPS = 16


_DECODED = pa.schema(
    [
        *((name, pa.string()) for name in ("status", "format", "remedy")),
        *((name, pa.int32()) for name in ("width", "height")),
        *((name, pa.binary()) for name in ("content_hash", "thumbnail", "pixels")),
    ]
)


@dataclass(frozen=True)
class DecodePictures:
    """Turn files of the listing into squares of pixels and thumbnails, in a CPU task."""

    filesystem: fs.FileSystem
    size: int
    fit: Fit
    max_pixels: int

    def __call__(self, files: pa.Table) -> pa.Table:
        listed = files.select([*WHERE, "known_hash"]).to_pylist()
        read = PictureReader(self.filesystem).read
        return pa.Table.from_pylist([self._decode(read, **file) for file in listed], _DECODED)

    def _decode(
        self,
        read: Callable[..., bytes],
        place: str,
        first_byte: int,
        size: int,
        known_hash: bytes | None,
    ) -> dict[str, Any]:
        if size < 0:
            return _rejected(NO_FILE)
        try:
            images.check_bytes(size, self.max_pixels)
            most = images.BYTES_A_PIXEL * self.max_pixels + 1
            content = read(place, first_byte, size, most)
            content_hash = hashlib.blake2b(content, digest_size=16).digest()
            if content_hash == known_hash:
                return {"status": SAME}
            decoded = images.decode(content, enough(self.size), self.max_pixels)
        except FileNotFoundError:
            return _rejected(NO_FILE)
        except OSError:
            return _rejected(UNREADABLE)
        except BadImage as error:
            more = ", or raise --max-pixels" if error.reason in images.OF_LIMITS else ""
            return _rejected(error.reason, error.kind, error.remedy + more)
        return {
            "status": EMBEDDED,
            "width": decoded.width,
            "height": decoded.height,
            "content_hash": content_hash,
            "thumbnail": images.thumbnail(decoded.picture),
            "pixels": images.square(decoded.picture, self.size, self.fit).tobytes(),
        }


def _rejected(reason: str, kind: str = "", remedy: str = "") -> dict[str, Any]:
    return {"status": reason, "format": kind, "remedy": remedy or REMEDIES[reason]}


@dataclass(frozen=True)
class Outcome:
    """What became of each listed file."""

    status: np.ndarray  # str [files]; None where the file was not looked at again
    remedies: dict[int, tuple[str, str]]  # of rejected files: the format, and what to do


@dataclass(frozen=True)
class Known:
    """What earlier artifacts and pieces know about the listed files."""

    tables: tuple[FeatureTable, ...]
    table: np.ndarray  # int [files]: which of `tables` has the file, -1 if none
    row: np.ndarray  # int64 [files]: the file's row in that table
    unchanged: np.ndarray  # bool [files]: path, size and time are the same
    content_hash: pa.Array  # binary [files]: set where only the time differs, else null

    @classmethod
    def of(cls, listing: Listing, tables: Sequence[FeatureTable | None]) -> "Known":
        """Look the files up; the first table that has one unchanged counts."""
        count, kept = len(listing), tuple(table for table in tables if table is not None)
        table, row = np.full(count, -1), np.full(count, -1)
        unchanged = np.zeros(count, bool)
        hashes = np.full(count, None, dtype=object)
        for number, earlier in enumerate(kept):
            old = earlier.columns(["path", "size", "modified", "content_hash"]).combine_chunks()
            paths = old["path"].combine_chunks()
            rows = pc.index_in(listing.table["path"].combine_chunks(), paths)
            rows = rows.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            size, time = (
                (old[name].to_numpy()[rows] == listing.table[name].to_numpy()) & (rows >= 0)
                for name in ("size", "modified")
            )
            better = size & ~unchanged & (time | (table < 0))
            table[better], row[better] = number, rows[better]
            unchanged |= size & time
            in_doubt = np.flatnonzero(better & ~time)
            hashes[better] = None
            hashes[in_doubt] = old["content_hash"].take(pa.array(rows[in_doubt])).to_pylist()
        return cls(kept, table, row, unchanged, pa.array(hashes, pa.binary()))

    def take(self, files: np.ndarray, schema: pa.Schema) -> tuple[pa.Table, np.ndarray]:
        """Return stored columns of these files, and which file each row is of, in some order."""
        tables, order = [schema.empty_table()], [np.array([], dtype=int)]
        for number, table in enumerate(self.tables):
            mine = files[self.table[files] == number]
            mine = mine[np.argsort(self.row[mine])]
            if len(mine):
                tables.append(table.take(self.row[mine], schema.names).cast(schema))
                order.append(mine)
        return pa.concat_tables(tables), np.concatenate(order)


def result_schema(dimension: int, with_classes: bool) -> pa.Schema:
    """Return the columns of results, apart from `status` and `row`, and of what is carried over."""
    tops = [
        ("top_classes", pa.list_(pa.int16(), 10)),
        ("top_probabilities", pa.list_(pa.float32(), 10)),
    ]
    return pa.schema(
        [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("content_hash", pa.binary()),
            # float16's relative error, at most 1/2048, is a tenth of what bfloat16 arithmetic on a
            # GPU does to features, and changes cosines by less than 1e-6.
            ("features", pa.list_(pa.float16(), dimension)),
            *(tops if with_classes else []),
            ("thumbnail", pa.binary()),
        ]
    )


def keep_results(
    results: Iterable[pa.Table], listing: Listing, known: Known, pieces: Pieces, schema: pa.Schema
) -> Outcome:
    """Write good results into pieces; return what became of the files.

    `results` has a row for each file that is not `known.unchanged`, in the listing's order. Raises
    DataError if a feature is not finite. What is held is written even if `results` raises.
    """
    status = np.full(len(listing), None, dtype=object)
    remedies: dict[int, tuple[str, str]] = {}
    wanted = np.flatnonzero(~known.unchanged)
    names = ("path", "size", "modified")
    done = 0
    try:
        for table in results:
            files = wanted[done : done + table.num_rows]
            done += table.num_rows
            status[files] = table["status"].to_pylist()
            reasons = (table[name].to_pylist() for name in ("format", "remedy"))
            remedies |= {
                int(file): (kind, remedy)
                for file, kind, remedy in zip(files, *reasons, strict=True)
                if remedy
            }
            for file in files[status[files] == NOT_FINITE]:
                raise DataError(
                    f"{listing.table['path'][int(file)]}: the backbone's features of this picture "
                    f"are not finite numbers; its weights are damaged or too large for float16"
                )
            good = pa.array(status[files] == EMBEDDED)
            rows = table.select(schema.names).cast(schema)
            for name, column in zip(names, listing.table.select(names).take(files), strict=True):
                rows = rows.append_column(name, column)
            pieces.add(rows.filter(good))
    finally:
        pieces.flush()
    return Outcome(status, remedies)


def write_features(
    writer: ArtifactWriter,
    listing: Listing,
    known: Known,
    embedded: Known,
    outcome: Outcome,
    schema: pa.Schema,
) -> dict[str, Any]:
    """Write parts and rejected files. Raises DataError if no picture is left.

    Returns how many pictures there are (`images`), how many of them are new (`embedded`) and how
    many of earlier runs (`carried`), and `rejected`: how many files for each reason.

    Args:
        known: what was known before; `outcome` says what became of the other files.
        embedded: what the pieces of this run hold.
    """
    status = outcome.status
    is_new = status == EMBEDDED
    is_old = known.unchanged | (status == SAME)
    paths = listing.table["path"]
    rejected = [(path, reason, "", REMEDIES[reason]) for path, reason in listing.aside]
    for file in np.flatnonzero(~is_new & ~is_old):
        kind, remedy = outcome.remedies[int(file)]
        rejected.append((paths[int(file)].as_py(), str(status[file]), kind, remedy))
    reasons = Counter(reason for _, reason, _, _ in rejected)
    if not is_new.any() and not is_old.any():
        counts = reasons.most_common()
        listed = ", ".join(f"{count} {reason}" for reason, count in counts)
        remedy = next(remedy for _, reason, _, remedy in rejected if reason == counts[0][0])
        raise DataError(
            f"{listing.uri}: none of its {reasons.total()} files is a picture that can be used "
            f"({listed}); {remedy}"
        )

    def groups() -> Iterator[pa.Table]:
        for first in range(0, len(listing), GROUP_ROWS):
            rows = np.arange(first, min(first + GROUP_ROWS, len(listing)))
            new, new_rows = embedded.take(rows[is_new[rows]], schema)
            old, old_rows = known.take(rows[is_old[rows]], schema)
            kept = np.concatenate([new_rows, old_rows])
            order = np.argsort(kept)
            yield _with_listing(listing, kept[order], pa.concat_tables([new, old]).take(order))

    _write_parts(writer, groups())
    names = ("path", "reason", "format", "remedy")
    location = writer.path(REJECTED)
    columns = {name: [row[place] for row in rejected] for place, name in enumerate(names)}
    table = pa.table(columns, pa.schema([(name, pa.string()) for name in names]))
    with storage_errors(writer.destination.uri):
        pq.write_table(table, location.path, filesystem=location.filesystem)
    return {
        "images": int(is_new.sum() + is_old.sum()),
        "embedded": int(is_new.sum()),
        "carried": int(is_old.sum()),
        "rejected": dict(sorted(reasons.items())),
    }


def _with_listing(listing: Listing, rows: np.ndarray, results: pa.Table) -> pa.Table:
    listed = listing.table.take(rows)
    names = ("path", "label", "size", "modified", *listing.extra)
    columns = {name: listed[name] for name in names[:4]}
    columns |= {name: results[name] for name in results.column_names}
    columns |= {name: listed[name] for name in names[4:]}
    return pa.table(columns)


def _write_parts(writer: ArtifactWriter, groups: Iterator[pa.Table]) -> None:
    """Write Parquet files of `PART_GROUPS` row groups each; one group is in memory at a time."""
    filled = (table for table in groups if table.num_rows)
    with ExitStack() as stack:
        for number, table in enumerate(filled):
            with storage_errors(writer.destination.uri):
                if number % PART_GROUPS == 0:
                    stack.close()
                    location = writer.path(f"{PARTS}/part-{number // PART_GROUPS:05d}.parquet")
                    part = stack.enter_context(
                        pq.ParquetWriter(
                            location.path, table.schema, filesystem=location.filesystem,
                            compression="zstd", use_dictionary=["label"],
                        )
                    )  # fmt: skip
                part.write_table(table, row_group_size=GROUP_ROWS)
        with storage_errors(writer.destination.uri):
            stack.close()

"""The features artifact that `embed_images` writes: one row for each picture, sorted by path.

    parts/*.parquet   path, label, width, height, size, modified, content_hash, features, thumbnail,
                      top_classes and top_probabilities if the backbone knows ImageNet's classes,
                      and further columns of the table of images
    rejected.parquet  path, reason

Features are float16, on disk and where a table hands them out. Those of a large table are decoded
once a node into a flat file that all its processes map (`seqvis/nodefiles.py`).

Until a run is complete its finished pieces lie in `OUT.run/features/parts`, with the columns by
which a later run recognises a file. A piece appears whole, so a process that is killed at any
moment loses only what it had not written yet: two seconds of work, or a hundredth of the total
after a long run.
"""

import io
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqvis.artifacts import Artifact, load
from seqvis.checks import check_several
from seqvis.errors import ArtifactError, StorageError
from seqvis.nodefiles import MAPPED_BYTES, made_once
from seqvis.storage import Location, Place

KIND = "features"
PARTS, REJECTED = "parts", "rejected.parquet"
TOP_COLUMNS = ("top_classes", "top_probabilities")

FLAT = "features.float16"  # of what is mapped
CONFIG = "config.json"  # of pieces
PAUSE_SECONDS = 2.0
MOST_ROWS = 4096  # held in memory, and in a row group


class FeatureTable:
    """Stored features. Columns are read when they are first used."""

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        self.dimension = int(artifact.config["dimension"])
        self._parts = [artifact.file(name) for name in artifact.names_below(PARTS)]
        self._files = [_open(part) for part in self._parts]
        self._rows = sum(file.metadata.num_rows for file in self._files)
        self._check()

    @classmethod
    def open(cls, uri: Place, verify: bool = False) -> Self:
        """Open the features at `uri`; with `verify` each file's SHA-256 is checked (1 s per GB).

        Raises ArtifactError if they are missing, of another kind, incomplete or altered.
        """
        return cls(load(uri, KIND, verify=verify))

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self._rows

    @cached_property
    def features(self) -> np.ndarray:
        """float16 [n, dimension], read-only: in files that are mapped, unless they are small.

        Raises ArtifactError if a number is not finite, StorageError if there is no room for them.
        """
        size = len(self) * self.dimension * 2
        if size < MAPPED_BYTES:
            features = np.concatenate(list(self._feature_blocks()))
        else:
            folder = made_once(f"features-{self.artifact.fingerprint()}", size, self._write_flat)
            # Slicing a memmap object itself is ten times slower.
            features = np.memmap(folder / FLAT, np.float16, "r").view(np.ndarray)
        features.flags.writeable = False
        return features.reshape(len(self), self.dimension)

    def _write_flat(self, folder: Path) -> None:
        with (folder / FLAT).open("wb") as file:
            for block in self._feature_blocks():
                file.write(block.data)
        self.artifact.check_unchanged()

    def _feature_blocks(self) -> Iterator[np.ndarray]:
        """Yield the features of all pictures, float16 [rows, dimension], some thousands at once."""
        for part in self._parts:
            with _open(part) as file:
                for table in file.iter_batches(MOST_ROWS, columns=["path", "features"]):
                    flat = table["features"].flatten().to_numpy(zero_copy_only=False)
                    block = flat.reshape(-1, self.dimension)
                    bad = np.flatnonzero(~np.isfinite(block).all(1))
                    if len(bad):
                        raise ArtifactError(
                            f"{part.uri}: the features of {table['path'][int(bad[0])]} are not "
                            f"finite; embed the images anew with sound weights"
                        )
                    yield block

    @cached_property
    def labels(self) -> list[str]:
        """Each picture's label, for ImageNet's pictures the synset's id; "" where unknown."""
        return list(map(sys.intern, self.values("label")))

    @cached_property
    def paths(self) -> list[str]:
        """Each picture's path below the folder of images, or its URI: a stable id, ascending."""
        return list(self.values("path"))

    @cached_property
    def top_classes(self) -> np.ndarray | None:
        """int32 [n, 10]: the classifier's likeliest classes (ImageNet's numbers), or None."""
        return self._lists("top_classes", np.int32)

    @cached_property
    def top_probabilities(self) -> np.ndarray | None:
        """float32 [n, 10]: the probabilities of `top_classes`, or None."""
        return self._lists("top_probabilities", np.float32)

    @property
    def column_names(self) -> list[str]:
        return list(self._files[0].schema_arrow.names)

    def thumbnails(self, rows: Sequence[int]) -> list[bytes]:
        """Return JPEGs of these pictures, their longer side at most 128 pixels."""
        order = np.argsort(np.asarray(rows, np.int64), kind="stable")
        table = self.take(np.asarray(rows, np.int64)[order], ["thumbnail"])
        pictures = table["thumbnail"].to_pylist()
        back = np.argsort(order)
        return [pictures[place] for place in back]

    def values(self, name: str) -> Iterator[Any]:
        """Yield a column's values without holding them: a million paths take 100 MB as a list."""
        for file in self._files:
            for rows in file.iter_batches(MOST_ROWS, columns=[name]):
                yield from rows[name].to_pylist()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Return whole columns by name. Raises ArtifactError if one is not there."""
        check_several(names, "columns")
        missing = [name for name in names if name not in self.column_names]
        if missing:
            raise ArtifactError(
                f"{self.artifact.location.uri}: has no column {missing[0]} "
                f"(it has {', '.join(self.column_names)})"
            )
        return pa.concat_tables([file.read(columns=list(names)) for file in self._files])

    def take(self, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
        """Return columns of single rows, whose numbers must ascend, reading only their groups."""
        parts = [self._files[0].schema_arrow.empty_table().select(list(names))]
        first = 0
        for file in self._files:
            for group in range(file.num_row_groups):
                after = first + file.metadata.row_group(group).num_rows
                here = rows[np.searchsorted(rows, first) : np.searchsorted(rows, after)]
                if len(here):
                    parts.append(file.read_row_group(group, list(names)).take(here - first))
                first = after
        return pa.concat_tables(parts)

    def _lists(self, name: str, dtype: type) -> np.ndarray | None:
        if name not in self.column_names:
            return None
        column = self.columns([name])[name].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        return values.reshape(len(self), -1).astype(dtype)

    def _check(self) -> None:
        uri = self.artifact.location.uri
        if not self._parts or len(self) != self.artifact.metrics.get("images"):
            raise ArtifactError(
                f"{uri}: has {len(self) if self._parts else 0} rows where its manifest says "
                f"{self.artifact.metrics.get('images')}; make it anew with python -m "
                f"jobs.embed_images"
            )
        for part, file in zip(self._parts, self._files, strict=True):
            kind = file.schema_arrow.field("features").type
            if not pa.types.is_fixed_size_list(kind) or kind.list_size != self.dimension:
                raise ArtifactError(
                    f"{part.uri}: its features are {kind}, not {self.dimension} numbers each; "
                    f"make it anew with seqvis embed-images"
                )


def _open(part: Location) -> pq.ParquetFile:
    # Arrow keeps what it buffered ahead until the file is closed: a second copy of all features.
    # From an object store that is worth it, since many small reads are slow there.
    ahead = not part.is_local
    try:
        return pq.ParquetFile(part.path, filesystem=part.filesystem, pre_buffer=ahead)
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{part.uri}: is damaged ({error}); make it anew") from error


class Pieces:
    """The finished pieces of unfinished runs for one artifact."""

    def __init__(self, out: Location, config: Mapping[str, Any]):
        """`config`: the artifact's; what another backbone made is of no use."""
        self._run = out.beside(".run")
        self._folder = self._run / "features"
        self._config = {name: config[name] for name in ("backbone", "dimension")}
        self._names: list[str] = []
        self._held: list[pa.Table] = []
        self._started = self._last = time.monotonic()

    def earlier(self) -> FeatureTable | None:
        """Return what interrupted runs left; None if nothing of it can be used."""
        recorded = self._folder / CONFIG
        if not recorded.exists():
            return None
        try:
            fits = json.loads(recorded.read_bytes()) == self._config
        except (ValueError, StorageError):
            fits = False
        if not fits:
            self.delete()
            return None
        parts = self._folder / PARTS
        return self._table([f"{PARTS}/{name}" for name in parts.files_below()])

    def add(self, rows: pa.Table) -> None:
        """Take finished rows; write what is held when there is enough of it."""
        if rows.num_rows:
            self._held.append(rows)
        now = time.monotonic()
        held = sum(table.num_rows for table in self._held)
        waited = now - self._last >= max(PAUSE_SECONDS, (now - self._started) / 100)
        if waited or held >= MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        self._last = time.monotonic()
        if not self._held:
            return
        (self._folder / PARTS).make_directory()
        if not self._names:
            (self._folder / CONFIG).replace(json.dumps(self._config).encode())
        content = io.BytesIO()
        pq.write_table(
            pa.concat_tables(self._held), content, compression="zstd", row_group_size=MOST_ROWS
        )
        name = f"{PARTS}/{uuid.uuid4().hex}.parquet"
        (self._folder / name).replace(content.getvalue())
        self._names.append(name)
        self._held = []

    def written(self) -> FeatureTable | None:
        """Return what this run has written; None if nothing."""
        return self._table(self._names)

    def delete(self) -> None:
        """Remove all pieces, once the artifact holds them."""
        self._folder.delete()
        if self._run.exists() and not self._run.children():
            self._run.delete()

    def _table(self, names: list[str]) -> FeatureTable | None:
        rows = {name: self._rows(name) for name in names}
        sound: dict[str, dict[str, Any]] = {name: {} for name, count in rows.items() if count}
        metrics = {"images": sum(rows.values())}
        artifact = Artifact(self._folder, KIND, self._config, metrics, sound, self._folder)
        return FeatureTable(artifact) if sound else None

    def _rows(self, name: str) -> int:
        """Count a piece's rows; 0 if it was being written, or lost, when the machine stopped."""
        piece = self._folder / name
        try:
            return int(pq.read_metadata(piece.path, filesystem=piece.filesystem).num_rows)
        except (pa.ArrowInvalid, OSError):
            return 0

"""The finished pieces of a run of `embed_images`, kept next to its result until that is complete.

Each piece is a Parquet file in `OUT.run/features/parts`, with the columns by which a later run
recognises a file. A piece appears whole, so a process that is killed at any moment loses only what
it had not written yet: two seconds of work, or a hundredth of the total after a long run.
"""

import io
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqvis.artifacts import Artifact
from seqvis.errors import StorageError
from seqvis.storage import Location
from seqvis.vision.feature_table import KIND, PARTS, FeatureTable

CONFIG = "config.json"
PAUSE_SECONDS = 2.0
MOST_ROWS = 4096  # held in memory, and in a row group


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
        """What interrupted runs left; None if nothing of it can be used."""
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
        """Takes finished rows; writes what is held when there is enough of it."""
        if rows.num_rows:
            self._held.append(rows)
        now = time.monotonic()
        held = sum(table.num_rows for table in self._held)
        waited = now - self._last >= max(PAUSE_SECONDS, (now - self._started) / 100)
        if waited or held >= MOST_ROWS:
            self.flush()

    def flush(self) -> None:
        """Writes what is held."""
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
        """What this run has written; None if nothing."""
        return self._table(self._names)

    def delete(self) -> None:
        """Removes all pieces, once the artifact holds them."""
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
        """Of a piece; 0 if it was being written, or lost, when the machine stopped."""
        piece = self._folder / name
        try:
            return int(pq.read_metadata(piece.path, filesystem=piece.filesystem).num_rows)
        except (pa.ArrowInvalid, OSError):
            return 0

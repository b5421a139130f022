"""`manifest.json`: the current state of a collection, replaced in one step.

It has the form of every artifact's manifest (kind "collection", configuration, sizes and hashes of
the segments' files) with one more entry, "state": the dimension, the backend, the segments with
their tombstones, and the journal of the changes since. Files that it does not name are leftovers of
a crash, and the next writer removes them.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqvis import artifacts
from seqvis.artifacts import FORMAT_VERSION, MANIFEST
from seqvis.collection.index import Backend, IndexSettings
from seqvis.config import settings_from
from seqvis.disk import remove_quietly, replace_synced
from seqvis.errors import ArtifactError

KIND = "collection"
SHARDED = "sharded collection"  # a directory of several, see shards.py
SEGMENTS, TOMBSTONES = "segments", "tombstones"


@dataclass(frozen=True)
class SegmentEntry:
    name: str
    tombstones: str | None  # a file in tombstones/, bool (rows)


@dataclass(frozen=True)
class State:
    config: dict[str, Any]
    dimension: int
    backend: Backend
    settings: IndexSettings
    segments: tuple[SegmentEntry, ...]
    journal: str
    number: int  # grows with every state, so that new names are new
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    snapshot: bool = False

    def files_of(self, segment: str) -> dict[str, Any]:
        prefix = f"{SEGMENTS}/{segment}/"
        return {
            name.removeprefix(prefix): entry
            for name, entry in self.files.items()
            if name.startswith(prefix)
        }


def write_state(folder: Path, state: State) -> None:
    """Makes `state` the collection's, durably and in one step."""
    manifest = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "config": state.config,
        "metrics": {},
        "files": state.files,
        "state": {
            "dimension": state.dimension,
            "backend": state.backend,
            "settings": state.settings.model_dump(),
            "segments": [[entry.name, entry.tombstones] for entry in state.segments],
            "journal": state.journal,
            "number": state.number,
            "snapshot": state.snapshot,
        },
    }
    content = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
    replace_synced(folder / MANIFEST, content)


def read_state(folder: Path, verify: bool = False) -> State:
    """The collection's state. Raises ArtifactError if it is none, or a file lacks or differs.

    With `verify` every file's SHA-256 is computed (about 1 s per GB), otherwise sizes only.
    """
    if kind_of(folder) == SHARDED:
        raise ArtifactError(
            f"{folder}: is a sharded collection, which is not opened as one; open its directories "
            f"shard-000 and so on, or serve it"
        )
    for attempt in range(20):
        before = _content(folder)
        try:
            artifact = artifacts.load(str(folder), KIND, verify)
        except ArtifactError:
            if before == _content(folder):
                raise
        else:
            if before is not None and before == _content(folder):
                return _parse(json.loads(before), dict(artifact.files), folder)
        time.sleep(0.01 * attempt)  # a writer has just replaced it
    raise ArtifactError(f"{folder}: changes faster than it can be read; try again")


def kind_of(folder: Path) -> str | None:
    """What the manifest in `folder` says it is; None without one that can be read."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stamp(path: Path) -> tuple[int, int, int]:
    """Changes when the file is replaced or grows."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def remove_leftovers(folder: Path, state: State) -> None:
    """Deletes what a crash, or an earlier state, left behind."""
    segments = {entry.name for entry in state.segments}
    tombstones = {entry.tombstones for entry in state.segments}
    for path in (folder / SEGMENTS).glob("*"):
        if path.name not in segments:
            remove_quietly(path)
    for path in (folder / TOMBSTONES).glob("*"):
        if path.name not in tombstones:
            remove_quietly(path)
    for path in [*folder.glob("journal-*"), *folder.glob(".*.partial")]:
        if path.name != state.journal:
            remove_quietly(path)


def _content(folder: Path) -> bytes | None:
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None


def _parse(manifest: dict[str, Any], files: dict[str, Any], folder: Path) -> State:
    try:
        state = manifest["state"]
        return State(
            manifest["config"],
            int(state["dimension"]),
            state["backend"],
            settings_from(IndexSettings, state["settings"], str(folder)),
            tuple(SegmentEntry(name, tombstones) for name, tombstones in state["segments"]),
            str(state["journal"]),
            int(state["number"]),
            files,
            bool(state["snapshot"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / MANIFEST}: does not describe a collection's state ({error}); "
            f"restore a snapshot or build anew"
        ) from error

"""`manifest.json`: the current state of a collection, replaced in one step.

It has the form of every artifact's manifest (kind "collection", configuration, sizes and hashes of
the segments' files) with one more entry, "state": the dimension, the backend, the segments with
their tombstones, and the journal of the changes since. Files that it does not name are leftovers of
a crash, and the next writer removes them.

A snapshot is a collection's directory with a finished journal and hashes of all files, which can be
moved and is verified when it is restored. Segments are hard links where the disk allows it, so a
snapshot there costs neither time nor space.
"""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqvis import artifacts
from seqvis.artifacts import FORMAT_VERSION, MANIFEST
from seqvis.collection.index import Backend, IndexSettings
from seqvis.config import settings_from
from seqvis.disk import (
    file_hash,
    link_or_copy,
    remove_quietly,
    replace_synced,
    sync_directory,
    write_synced,
)
from seqvis.errors import ArtifactError
from seqvis.storage import locate, storage_errors

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
    """Make `state` the collection's, durably and in one step."""
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
    """Return a collection's state. Raises ArtifactError if it has none or a file is not as it says.

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
    """Return what the manifest in `folder` says it is; None without one that can be read."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["kind"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def stamp(path: Path) -> tuple[int, int, int]:
    """Return numbers that change when the file is replaced or grows."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def remove_leftovers(folder: Path, state: State) -> None:
    """Delete what a crash, or an earlier state, left behind."""
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


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Yield a directory to write, which is durably renamed to `target` when the block ends."""
    staging = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with storage_errors(str(target)):
            yield staging
            os.rename(staging, target)
            sync_directory(target.parent)
    except BaseException:
        remove_quietly(staging)
        raise


def check_free(target: Path, kind: str) -> None:
    """Raise ArtifactError if something stands at `target`."""
    artifacts.check_destination(locate(target), KIND)
    if (target / MANIFEST).exists():
        raise ArtifactError(f"{target}: is there already; choose another place for the {kind}")


def write_snapshot(folder: Path, state: State, journal_size: int, target: Path) -> None:
    """Copy `state` with the first `journal_size` bytes of its journal to a new directory."""
    check_free(target, "snapshot")
    with appearing(target) as staging:
        _copy_files(folder, staging, list(state.files))
        with (folder / state.journal).open("rb") as stream:
            write_synced(staging / state.journal, stream.read(journal_size))
        journal = {"size": journal_size, "sha256": file_hash(staging / state.journal)}
        files = {**state.files, state.journal: journal}
        write_state(staging, replace(state, files=files, snapshot=True))


def restore_snapshot(uri: str, target: Path) -> None:
    """Make a collection of a snapshot, after checking every file's hash.

    Raises ArtifactError if the snapshot is altered or incomplete, or `target` is taken.
    """
    check_free(target, "restored collection")
    artifact = artifacts.load(uri, KIND, verify=True)
    source = artifact.location
    with appearing(target) as staging:
        staging.mkdir(parents=True)
        if source.is_local:
            _copy_files(Path(source.path), staging, [*artifact.files, MANIFEST])
        else:
            artifact.local_copy(staging)
        state = read_state(staging)
        if not state.snapshot:
            raise ArtifactError(f"{uri}: is a collection in use, not a snapshot; make one")
        files = {name: entry for name, entry in state.files.items() if name != state.journal}
        _own_copy(staging / state.journal)
        write_state(staging, replace(state, files=files, snapshot=False))


def _copy_files(folder: Path, staging: Path, names: list[str]) -> None:
    folders = {staging / SEGMENTS, staging / TOMBSTONES}
    for name in names:
        target = staging / name
        folders.add(target.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(folder / name, target)
    for made in sorted(folders, reverse=True):
        made.mkdir(parents=True, exist_ok=True)
        sync_directory(made)


def _own_copy(path: Path) -> None:
    """Replace a hard link by a copy: the journal will grow, the snapshot's must not."""
    content = path.read_bytes()
    path.unlink()
    write_synced(path, content)

"""Snapshots: copies of a collection at one moment, which can be moved and are verified on restore.

A snapshot is a collection's directory with a finished journal and hashes of all files. Segments are
hard links where the disk allows it, so a snapshot there costs neither time nor space.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from seqvis import artifacts
from seqvis.artifacts import MANIFEST
from seqvis.collection.manifest import KIND, SEGMENTS, TOMBSTONES, State, read_state, write_state
from seqvis.disk import file_hash, link_or_copy, remove_quietly, sync_directory, write_synced
from seqvis.errors import ArtifactError
from seqvis.storage import locate, storage_errors


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A directory to write, which gets the name `target` when the block ends, durably."""
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
    """Raises ArtifactError if something stands at `target`."""
    artifacts.check_destination(locate(target), KIND)
    if (target / MANIFEST).exists():
        raise ArtifactError(f"{target}: is there already; choose another place for the {kind}")


def write_snapshot(folder: Path, state: State, journal_size: int, target: Path) -> None:
    """Copies `state` with the first `journal_size` bytes of its journal to a new directory."""
    check_free(target, "snapshot")
    with appearing(target) as staging:
        _copy_files(folder, staging, list(state.files))
        with (folder / state.journal).open("rb") as stream:
            write_synced(staging / state.journal, stream.read(journal_size))
        journal = {"size": journal_size, "sha256": file_hash(staging / state.journal)}
        files = {**state.files, state.journal: journal}
        write_state(staging, replace(state, files=files, snapshot=True))


def restore_snapshot(uri: str, target: Path) -> None:
    """Makes a collection of a snapshot, after checking every file's hash.

    Raises ArtifactError if the snapshot is altered or incomplete, or `target` is taken.
    """
    check_free(target, "restored collection")
    source = locate(uri)
    artifact = artifacts.load(source, KIND, verify=True)
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
    """Replaces a hard link by a copy: the journal will grow, the snapshot's must not."""
    content = path.read_bytes()
    path.unlink()
    write_synced(path, content)

"""Opening a collection's directory: the lock of the one writer, its files, and its first state."""

import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seqvis.artifacts import MANIFEST
from seqvis.disk import sync_directory, write_synced
from seqvis.errors import ArtifactError, ConfigError, StorageError
from seqvis.search.blobs import load_array
from seqvis.search.index import Backend, IndexSettings
from seqvis.search.journal import JournalReader, heading
from seqvis.search.segments import BY_GRAPHS, SearchBy, Segment
from seqvis.search.state import SEGMENTS, TOMBSTONES, State, read_state, stamp, write_state
from seqvis.search.tail import Tail
from seqvis.search.view import Part, View, part_of
from seqvis.storage import storage_errors

LOCK = "writer.lock"
_RETRY = 0.05  # seconds between tries to take it


class WriterLock:
    """Held by the one process that writes to a collection, until closed or the process ends."""

    def __init__(self, folder: Path, wait: float = 0.0):
        """Raises StorageError if another still holds it after `wait` seconds."""
        with storage_errors(str(folder)):
            self._descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        until = time.monotonic() + wait
        try:
            while not self._taken():
                if time.monotonic() >= until:
                    owner = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
                    raise StorageError(
                        f"{folder}: process {owner or 'unknown'} is writing to this collection; "
                        f"wait for it or stop it, or open the collection with read_only=True"
                    )
                time.sleep(_RETRY)
        except BaseException:
            os.close(self._descriptor)
            raise
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)

    def _taken(self) -> bool:
        try:
            # flock, not lockf: the latter lets the same process take it twice.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Opened:
    """A collection's content as it was when its files were read."""

    state: State
    view: View
    journal: JournalReader
    segments: Mapping[str, Segment] = field(default_factory=dict)  # by name
    manifest: tuple[int, int, int] = (0, 0, 0)
    by: SearchBy = BY_GRAPHS


def open_files(
    folder: Path,
    known: Mapping[str, Segment],
    verify: bool = False,
    by: SearchBy = BY_GRAPHS,
) -> Opened:
    """Reads state, segments and journal; segments that are in `known` are not opened again.

    A writer may replace everything meanwhile: then it is read anew. Raises ArtifactError if
    something is missing or damaged.
    """
    for attempt in range(20):
        try:
            before = stamp(folder / MANIFEST)
        except OSError:
            before = (0, 0, 0)  # read_state explains what is missing
        try:
            return _open_once(folder, known, verify, by, before)
        except (ArtifactError, FileNotFoundError) as error:
            if before == (0, 0, 0) or before == stamp(folder / MANIFEST):
                if isinstance(error, FileNotFoundError):
                    raise ArtifactError(
                        f"{error.filename}: is missing; restore a snapshot or build anew"
                    ) from error
                raise
        time.sleep(0.01 * attempt)
    raise ArtifactError(f"{folder}: changes faster than it can be opened; try again")


def create_directory(folder: Path, state: State) -> None:
    """Writes an empty collection's files; `state` names its journal."""
    for made in (folder, folder / SEGMENTS, folder / TOMBSTONES):
        made.mkdir(parents=True)
    write_synced(folder / state.journal, heading(secrets.randbits(32)))
    write_state(folder, state)
    sync_directory(folder.parent)


def first_state(
    dimension: int,
    backend: Backend,
    config: Mapping[str, Any] | None,
    settings: IndexSettings | None,
) -> State:
    """What an empty collection consists of. Raises ConfigError if it cannot be one."""
    if dimension < 1:
        raise ConfigError(f"a collection's dimension is {dimension}; it must be at least 1")
    if backend not in ("nmslib", "exact"):
        raise ConfigError(f"{backend}: no such backend; choose nmslib or exact")
    try:
        stored = json.loads(json.dumps(dict(config or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"a collection's config must be JSON ({error})") from error
    chosen = settings or IndexSettings()
    return State(stored, dimension, backend, chosen, (), "journal-00000001", 1)


def _open_once(
    folder: Path,
    known: Mapping[str, Segment],
    verify: bool,
    by: SearchBy,
    before: tuple[int, int, int],
) -> Opened:
    state = read_state(folder, verify)
    segments, parts = {}, []
    for entry in state.segments:
        segment = known.get(entry.name) or Segment(
            folder / SEGMENTS / entry.name,
            state.dimension,
            state.files_of(entry.name),
            state.settings,
            by,
        )
        segments[entry.name] = segment
        parts.append(_part(segment, folder, entry.tombstones))
    tail = Tail(state.dimension)
    view = View((*parts, part_of(tail, np.zeros(0, dtype=bool))))
    journal = JournalReader(folder / state.journal)
    for operation in journal.new_records():
        view = view.applied(operation)
    return Opened(state, view, journal, segments, before, by)


def _part(segment: Segment, folder: Path, tombstones: str | None) -> Part:
    if tombstones is None:
        return part_of(segment, np.zeros(len(segment), dtype=bool))
    dead = np.array(load_array(folder / TOMBSTONES / tombstones))
    if dead.dtype != bool or dead.shape != (len(segment),):
        raise ArtifactError(
            f"{folder / TOMBSTONES / tombstones}: does not fit its segment; restore a snapshot"
        )
    return part_of(segment, dead)

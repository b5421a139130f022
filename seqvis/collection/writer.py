"""The writing half of a collection: the journal for small changes, a commit for large ones.

A change is synced to the journal before the view shows it. Compactions and loads write new segments
first and then replace the collection's state in one step; a new journal carries over the changes
that were made meanwhile. In that step the tombstones and the new journal are synced before the
manifest that names them is renamed. If a crash comes earlier, the new files are leftovers.
"""

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from seqvis.artifacts import MANIFEST
from seqvis.collection.compaction import NewSegment, living_batches, write_segments
from seqvis.collection.items import Batch, Item, batches
from seqvis.collection.journal import HEADING_SIZE, Deleted, JournalWriter, Operation, encode
from seqvis.collection.manifest import (
    SEGMENTS,
    TOMBSTONES,
    SegmentEntry,
    State,
    remove_leftovers,
    write_state,
)
from seqvis.collection.reader import OpenCollection, Opened, open_files
from seqvis.collection.segments import Segment
from seqvis.collection.shards import check_belongs
from seqvis.collection.view import View
from seqvis.disk import file_hash, remove_quietly, sync_directory, synced_file, write_synced
from seqvis.errors import ArtifactError, StorageError
from seqvis.storage import storage_errors


@dataclass(frozen=True)
class KeptSegment:
    """A segment that is kept, with the rows of it that are dead, bool (rows)."""

    segment: Segment
    dead: np.ndarray


def write_commit(
    folder: Path,
    state: State,
    number: int,
    kept: list[KeptSegment],
    new: list[NewSegment],
    journal: JournalWriter,
    begin: int,
) -> None:
    """Makes these segments, with `journal` from byte `begin` on, the collection's content.

    The records of the journal apply to the new segments as they did to the old.
    """
    entries: list[SegmentEntry] = []
    files: dict[str, Any] = {}
    for part in kept:
        name = part.segment.name
        prefix = f"{SEGMENTS}/{name}/"
        files.update({k: v for k, v in state.files.items() if k.startswith(prefix)})
        tombstones = f"{number:08d}-{name}.npy" if part.dead.any() else None
        if tombstones:
            files[f"{TOMBSTONES}/{tombstones}"] = _write_array(
                folder / TOMBSTONES / tombstones, part.dead
            )
        entries.append(SegmentEntry(name, tombstones))
    for made in new:
        files.update({f"{SEGMENTS}/{made.name}/{k}": v for k, v in made.files.items()})
        entries.append(SegmentEntry(made.name, None))
    sync_directory(folder / TOMBSTONES)
    with journal.path.open("rb") as stream:
        content = stream.read(journal.offset)
    name = f"journal-{number:08d}"
    write_synced(folder / name, content[:HEADING_SIZE] + content[begin:])
    written = replace(
        state, segments=tuple(entries), files=files, journal=name, number=number, snapshot=False
    )
    write_state(folder, written)


def _write_array(path: Path, content: np.ndarray) -> dict[str, Any]:
    with synced_file(path) as stream:
        np.save(stream, content)
    return {"size": path.stat().st_size, "sha256": file_hash(path)}


class WritingCollection(OpenCollection):
    """An open collection that can be changed if it holds the writer's lock.

    It has three locks: `_maintaining` keeps compactions, loads and snapshots apart; `_writing`
    keeps the journal in order; `_applying` is held while the view changes.
    """

    def __init__(self, path: Path, opened: Opened, lock: BinaryIO | None):
        super().__init__(path, opened, lock)
        self._journal: JournalWriter | None = None
        self._maintaining, self._writing = threading.RLock(), threading.RLock()
        if lock is not None:
            self._start_writing(opened)

    def _writer(self) -> JournalWriter:
        if self._journal is None:
            raise StorageError(
                f"{self.path}: is open for reading only (or closed); open it for writing"
            )
        if self._journal.broken:
            self._journal = self._recovered(self._journal)
        return self._journal

    def _recovered(self, broken: JournalWriter) -> JournalWriter:
        """Takes up what is on the disk, after a write of which only the files tell how far it came.

        Raises StorageError while the disk does not allow it, for the reason that it has then.
        """
        with storage_errors(str(self.path)):
            opened = open_files(self.path, self._opened.segments)
            journal = JournalWriter(opened.journal)
        broken.close()
        self._install(opened)
        return journal

    def _journal_size(self) -> int:
        return self._journal.offset if self._journal is not None else self._opened.journal.offset

    def _record(self, operation: Operation) -> None:
        with self._writing:
            journal = self._writer()
            record = encode(operation, self._opened.journal.salt)
            with storage_errors(str(self.path)):
                journal.append(record)
            with self._applying:
                self._view = self._view.applied(operation)

    def _start_writing(self, opened: Opened) -> None:
        if opened.state.snapshot:
            raise ArtifactError(
                f"{self.path}: is a snapshot; restore it to a place of its own, or open it "
                f"with read_only=True"
            )
        with storage_errors(str(self.path)):
            remove_leftovers(self.path, opened.state)
            self._journal = JournalWriter(opened.journal)

    def _load(self, items: Iterable[Item], state: State, keep: bool) -> None:
        with self._maintaining, self._writing:
            begin = self._writer().offset
            new = self._write(_own(batches(items, state.dimension), state), state)
            kept: list[KeptSegment] = []
            if keep:
                parts = list(self._without(new, state).parts)
                tail = parts.pop()
                kept = [KeptSegment(cast(Segment, part.store), part.dead) for part in parts]
                new += self._write(living_batches([tail]), state)
            self._commit(state, kept, new, begin)

    def _without(self, new: list[NewSegment], state: State) -> View:
        """The view without the items that new segments replace."""
        view = self._view
        for segment in self._open_new(new, state).values():
            for begin in range(0, len(segment), 4096):
                rows = range(begin, min(begin + 4096, len(segment)))
                view = view.applied(Deleted([segment.id(row) for row in rows]))
        return view

    def _write(self, pieces: Iterable[Batch], state: State) -> list[NewSegment]:
        with storage_errors(str(self.path)):
            return write_segments(
                self.path / SEGMENTS, pieces, state.dimension, state.backend, state.settings
            )

    def _open_new(self, new: list[NewSegment], state: State) -> dict[str, Segment]:
        folder = self.path / SEGMENTS
        return {
            made.name: Segment(folder / made.name, state.dimension, made.files, state.settings)
            for made in new
        }

    def _commit(
        self, state: State, kept: list[KeptSegment], new: list[NewSegment], begin: int
    ) -> None:
        """Makes kept and new segments the collection; the journal from `begin` on stays."""
        try:
            known = {**self._opened.segments, **self._open_new(new, state)}
            with self._writing:
                old = self._writer()
                number = self._opened.state.number + 1
                with storage_errors(str(self.path)):
                    write_commit(self.path, state, number, kept, new, old, begin)
                opened = open_files(self.path, known)
                self._journal = JournalWriter(opened.journal)
                old.close()
                self._install(opened)
        except BaseException:
            self._give_up(new)
            raise
        remove_leftovers(self.path, self._opened.state)

    def _give_up(self, new: list[NewSegment]) -> None:
        """After a failed commit: removes its files, unless it may have happened."""
        current = self._opened.state.number
        try:
            content = json.loads((self.path / MANIFEST).read_bytes())
            undone = content["state"]["number"] == current
        except (OSError, ValueError, KeyError):
            undone = False
        if undone:
            for made in new:
                remove_quietly(self.path / SEGMENTS / made.name)
        elif self._journal is not None:
            self._journal.broken = True


def _own(pieces: Iterable[Batch], state: State) -> Iterator[Batch]:
    for batch in pieces:
        check_belongs(batch.ids, state.config)
        yield batch

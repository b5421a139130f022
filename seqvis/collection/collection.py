"""A crash-safe collection of items with vectors, searched by cosine similarity.

`Collection` stores `Item`s and returns `Match`es, best first. Additions and deletions take effect
at once. On disk, which must be local, a collection is a directory:

    manifest.json           the current state, replaced in one step (manifest.py)
    segments/NAME/          items that never change, each with a graph (segments.py)
    tombstones/NAME.npy     which rows of a segment are deleted or replaced
    journal-NUMBER          adds and deletes since the last compaction (journal.py)
    writer.lock             held by the one process that writes

Several processes may read while one writes; they see its changes when they call `refresh`.
"""

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

from seqvis import artifacts
from seqvis.artifacts import MANIFEST, Artifact
from seqvis.collection import manifest, writer
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Batch, Item, batches, check_belongs, check_ids, check_items
from seqvis.collection.journal import HEADING_SIZE, Added, Deleted, JournalWriter, Operation, encode
from seqvis.collection.manifest import State
from seqvis.collection.reader import (
    CollectionReader,
    Opened,
    create_directory,
    first_state,
    lock_for_writing,
    open_files,
)
from seqvis.collection.segments import SearchBy, Segment
from seqvis.collection.view import Part
from seqvis.collection.writer import NewSegment
from seqvis.disk import remove_quietly
from seqvis.errors import ArtifactError, ConfigError, StorageError
from seqvis.hub.onhub import OnHub
from seqvis.storage import local_path, storage_errors


class Collection(CollectionReader, OnHub):
    """An open collection. Any number of threads may search it while one thread changes it.

    Close it when done, or use it in a `with` block.
    """

    # `_maintaining` keeps compactions, loads and snapshots apart; `_writing` keeps the journal in
    # order; the reader's `_applying` is held while the view changes.

    def __init__(self, path: Path, opened: Opened, lock: BinaryIO | None):
        super().__init__(path, opened, lock)
        self._journal: JournalWriter | None = None
        self._maintaining, self._writing = threading.RLock(), threading.RLock()
        if lock is None:
            return
        if opened.state.snapshot:
            raise ArtifactError(
                f"{self.path}: is a snapshot; restore it to a place of its own, or open it "
                f"with read_only=True"
            )
        with storage_errors(str(self.path)):
            manifest.remove_leftovers(self.path, opened.state)
            self._journal = JournalWriter(opened.journal)

    @classmethod
    def create(
        cls,
        path: str | Path,
        dimension: int,
        backend: Backend = "nmslib",
        config: Mapping[str, Any] | None = None,
        settings: IndexSettings | None = None,
    ) -> Self:
        """Make an empty collection and open it. Raises ArtifactError if something is there."""
        return cls._make(local_path(path), first_state(dimension, backend, config, settings))

    @classmethod
    def build(
        cls,
        path: str | Path,
        dimension: int,
        items: Iterable[Item],
        backend: Backend = "nmslib",
        config: Mapping[str, Any] | None = None,
        settings: IndexSettings | None = None,
    ) -> Self:
        """Make a collection of a stream of items, with bounded memory, and open it.

        It appears whole at the end. A collection that is there already is replaced at that moment,
        also for those who have it open; if anything fails, it stays as it was.
        """
        path = local_path(path)
        state = first_state(dimension, backend, config, settings)
        if not (path / MANIFEST).exists():
            return cls._make(path, state, items)
        collection = cls.open(path)
        try:
            collection._load(items, state, keep=False)
        except BaseException:
            collection.close()
            raise
        return collection

    @classmethod
    def _make(cls, path: Path, state: State, items: Iterable[Item] | None = None) -> Self:
        manifest.check_free(path, "new collection")
        with manifest.appearing(path) as staging:
            create_directory(staging, state)
            if items is not None:
                with cls.open(staging) as collection:
                    collection.load(items)
        return cls.open(path)

    @classmethod
    def open(
        cls,
        path: str | Path,
        read_only: bool = False,
        verify: bool = False,
        wait: float = 0.0,
        device: str | None = None,
    ) -> Self:
        """Open a collection; `verify` checks the hash of every file (about 1 s per GB).

        `wait`: seconds to wait for another writer to end. `device` (read only): a torch device,
        such as "cuda", that holds the vectors and searches them exactly, whatever the backend;
        graphs are then not loaded. Raises ArtifactError if it is no collection or is damaged,
        StorageError if another process still writes to it and `read_only` is not given,
        ConfigError if the device cannot be used.
        """
        path = local_path(path)
        by = SearchBy(graphs=device is None, device=device)
        if device is not None and not read_only:
            raise ConfigError(f"{path}: is searched on a device only with read_only=True")
        reads = read_only or not (path / MANIFEST).exists()
        lock = None if reads else lock_for_writing(path, wait)
        try:
            return cls(path, open_files(path, {}, verify, by), lock)
        except BaseException:
            if lock is not None:
                lock.close()
            raise

    @classmethod
    def restore(cls, snapshot: str | Path, path: str | Path) -> Self:
        """Make a collection of a snapshot (a path or URI), checking all its hashes."""
        path = local_path(path)
        manifest.restore_snapshot(str(snapshot), path)
        return cls.open(path)

    @classmethod
    def _open_from_hub(cls, uri: str, **options: Any) -> Self:
        return cls.open(uri, read_only=True, **options)

    def _as_artifact(self, folder: Path) -> Artifact:
        self.snapshot(folder / "snapshot")
        return artifacts.load(folder / "snapshot", manifest.KIND, verify=False)

    def add(self, items: Iterable[Item]) -> None:
        """Add all items or none; durable when it returns. An item whose id exists is replaced.

        Raises DataError naming the first item that cannot be stored, StorageError if the disk
        does not take them; then the collection is as it was.
        """
        # Vectors are stored at length 1, and `get` returns them so. Each call waits for the disk
        # once: many items in one call are much faster than many calls.
        batch = check_items(items, self.dimension)
        check_belongs(batch.ids, self.config)
        if len(batch):
            self._record(Added(batch))

    def delete(self, ids: Iterable[str]) -> int:
        """Delete all these items; durable when it returns. Returns how many were there."""
        names = list(dict.fromkeys(check_ids([ids] if isinstance(ids, str) else list(ids))))
        with self._writing:
            self._writer()
            stored = [
                name for name, place in zip(names, self._view.find(names), strict=True) if place
            ]
            if stored:
                self._record(Deleted(stored))
        return len(stored)

    def load(self, items: Iterable[Item]) -> None:
        """Add a stream of any length past the journal, with bounded memory, all or nothing.

        For millions of items; other changes wait until it is done. Raises DataError as `add` does,
        and for an id that comes twice.
        """
        self._load(items, self._opened.state, keep=True)

    def compact(self, everything: bool = False) -> bool:
        """Merge the tail and small or much deleted segments; `everything` makes one of all.

        Searches, adds and deletes go on meanwhile, and the journal begins anew. Returns whether
        there was anything to do. Raises StorageError if the disk fills; then nothing has changed.
        """
        with self._maintaining:
            with self._writing:
                view, begin = self._view, self._writer().offset
            chosen = writer.choose_parts(view, everything, begin > HEADING_SIZE)
            if not chosen:
                return False
            parts = [view.parts[number] for number in chosen]
            new = self._write(writer.living_batches(parts), self._opened.state)
            kept = [part for number, part in enumerate(view.parts) if number not in chosen]
            self._commit(self._opened.state, kept, new, begin)
        return True

    def compaction_due(self) -> bool:
        """Tell whether a long-running writer should `compact` now (writer.py says why)."""
        with self._writing:
            return writer.is_due(self._view, self._writer())

    def snapshot(self, path: str | Path) -> None:
        """Copy the collection to `path`, which must be free; changes go on meanwhile."""
        target = local_path(path)
        with self._maintaining:
            for attempt in range(5):
                with self._writing:
                    self.refresh()
                    state = self._opened.state
                    size = (self._journal or self._opened.journal).offset
                try:
                    manifest.write_snapshot(self.path, state, size, target)
                    return
                except StorageError as error:
                    # Read-only, a writer elsewhere may have replaced the files meanwhile.
                    moved = isinstance(error.__cause__, FileNotFoundError)
                    if not (moved and self.read_only) or attempt == 4:
                        raise

    def close(self) -> None:
        """Let another process write. Further changes raise StorageError; searches still work."""
        with self._maintaining, self._writing:
            if self._journal is not None:
                self._journal.close()
            if self._lock is not None:
                self._lock.close()
            self._journal = self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _writer(self) -> JournalWriter:
        if self._journal is None:
            raise StorageError(
                f"{self.path}: is open for reading only (or closed); open it for writing"
            )
        if self._journal.broken:
            self._journal = self._recovered(self._journal)
        return self._journal

    def _recovered(self, broken: JournalWriter) -> JournalWriter:
        """Open the files again after a failed write: only they tell how far it got.

        Raises StorageError, with the present reason, as long as the disk does not allow it.
        """
        with storage_errors(str(self.path)):
            opened = open_files(self.path, self._opened.segments)
            journal = JournalWriter(opened.journal)
        broken.close()
        self._install(opened)
        return journal

    def _record(self, operation: Operation) -> None:
        with self._writing:
            journal = self._writer()
            record = encode(operation, self._opened.journal.salt)
            with storage_errors(str(self.path)):
                journal.append(record)
            with self._applying:
                self._view = self._view.applied(operation)

    def _load(self, items: Iterable[Item], state: State, keep: bool) -> None:
        def pieces() -> Iterator[Batch]:
            for batch in batches(items, state.dimension):
                check_belongs(batch.ids, state.config)
                yield batch

        with self._maintaining, self._writing:
            begin = self._writer().offset
            new = self._write(pieces(), state)
            kept: Sequence[Part] = ()
            if keep:
                view = self._view
                for segment in self._open_new(new, state).values():  # which replace what was there
                    for first in range(0, len(segment), 4096):
                        rows = range(first, min(first + 4096, len(segment)))
                        view = view.applied(Deleted([segment.id(row) for row in rows]))
                *kept, tail = view.parts
                new += self._write(writer.living_batches([tail]), state)
            self._commit(state, kept, new, begin)

    def _write(self, pieces: Iterable[Batch], state: State) -> list[NewSegment]:
        with storage_errors(str(self.path)):
            folder = self.path / manifest.SEGMENTS
            return writer.write_segments(folder, pieces, state)

    def _open_new(self, new: list[NewSegment], state: State) -> dict[str, Segment]:
        folder = self.path / manifest.SEGMENTS
        return {
            made.name: Segment(folder / made.name, state.dimension, made.files, state.settings)
            for made in new
        }

    def _commit(
        self, state: State, kept: Sequence[Part], new: list[NewSegment], begin: int
    ) -> None:
        """Make kept and new segments the collection; the journal from `begin` on stays."""
        try:
            known = {**self._opened.segments, **self._open_new(new, state)}
            with self._writing:
                old = self._writer()
                number = self._opened.state.number + 1
                with storage_errors(str(self.path)):
                    writer.write_commit(self.path, state, number, kept, new, old, begin)
                opened = open_files(self.path, known)
                self._journal = JournalWriter(opened.journal)
                old.close()
                self._install(opened)
        except BaseException:
            self._give_up(new)
            raise
        manifest.remove_leftovers(self.path, self._opened.state)

    def _give_up(self, new: list[NewSegment]) -> None:
        """Remove the files of a failed commit, unless it may have happened."""
        current = self._opened.state.number
        try:
            content = json.loads((self.path / MANIFEST).read_bytes())
            undone = content["state"]["number"] == current
        except (OSError, ValueError, KeyError):
            undone = False
        if undone:
            for made in new:
                remove_quietly(self.path / manifest.SEGMENTS / made.name)
        elif self._journal is not None:
            self._journal.broken = True

"""A collection: items with vectors that are found by cosine, added and deleted at once.

In: `Item`s. Out: `Match`es, best first. On disk (a local one) it is a directory:

    manifest.json           what it consists of now, replaced in one step (state.py)
    segments/NAME/          items that never change, each with a graph (segments.py)
    tombstones/NAME.npy     which rows of a segment are deleted or replaced
    journal-NUMBER          adds and deletes since the last compaction (journal.py)
    writer.lock             held by the one process that writes

What would surprise a reader: vectors are stored at length 1, and `get` returns them so. `add`
and `delete` return when the change is on the disk, so many items in one call are much faster
than many calls. Several processes may read while one writes; they see changes at `refresh`.
"""

import json
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, cast

from seqvis.artifacts import MANIFEST
from seqvis.errors import ArtifactError, StorageError
from seqvis.search.commits import KeptSegment, write_commit
from seqvis.search.compaction import NewSegment, choose_parts, living_batches, write_segments
from seqvis.search.disk import remove_quietly
from seqvis.search.index import Backend, IndexSettings
from seqvis.search.items import Batch, Item, batches, check_ids, check_items
from seqvis.search.journal import Added, Deleted, JournalWriter, Operation, encode
from seqvis.search.opening import Opened, WriterLock, create_directory, first_state, open_files
from seqvis.search.reading import OpenCollection
from seqvis.search.segments import Segment
from seqvis.search.snapshots import appearing, check_free, restore_snapshot, write_snapshot
from seqvis.search.state import SEGMENTS, State, remove_leftovers
from seqvis.search.view import View
from seqvis.storage import storage_errors


class Collection(OpenCollection):
    """Any threads may search while one changes it. Close it, or use it in a `with` block.

    Three locks: `_maintaining` keeps compactions, loads and snapshots apart; `_writing` keeps
    the journal in order; `_applying` is held while the view changes.
    """

    def __init__(self, path: Path, opened: Opened, lock: WriterLock | None):
        super().__init__(path, opened, lock)
        self._journal: JournalWriter | None = None
        self._maintaining, self._writing = threading.RLock(), threading.RLock()
        if lock is not None:
            self._start_writing(opened)

    @classmethod
    def create(
        cls,
        path: str | Path,
        dimension: int,
        backend: Backend = "nmslib",
        config: Mapping[str, Any] | None = None,
        settings: IndexSettings | None = None,
    ) -> Self:
        """Makes an empty collection and opens it. Raises ArtifactError if the place is taken."""
        path = Path(path).expanduser().absolute()
        check_free(path, "new collection")
        state = first_state(dimension, backend, config, settings)
        with appearing(path) as staging:
            create_directory(staging, state)
        return cls.open(path)

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
        """Makes a collection of a stream of items, with bounded memory, and opens it.

        It appears whole at the end. A collection that is there is replaced in that moment, also
        for those who have it open; if anything fails, it stays as it was.
        """
        path = Path(path).expanduser().absolute()
        state = first_state(dimension, backend, config, settings)
        if (path / MANIFEST).exists():
            collection = cls.open(path)
            try:
                collection._load(items, state, keep=False)
            except BaseException:
                collection.close()
                raise
            return collection
        check_free(path, "new collection")
        with appearing(path) as staging:
            create_directory(staging, state)
            with cls.open(staging) as collection:
                collection.load(items)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path, read_only: bool = False, verify: bool = False) -> Self:
        """Opens a collection; `verify` checks the hash of every file (about 1 s per GB).

        Raises ArtifactError if it is none or is damaged, StorageError if another process writes
        to it and `read_only` is not given.
        """
        path = Path(path).expanduser().absolute()
        if read_only or not (path / MANIFEST).exists():
            return cls(path, open_files(path, {}, verify), None)
        lock = WriterLock(path)
        try:
            return cls(path, open_files(path, {}, verify), lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def restore(cls, snapshot: str | Path, path: str | Path) -> Self:
        """Makes a collection of a snapshot (a path or URI), checking all its hashes."""
        path = Path(path).expanduser().absolute()
        restore_snapshot(str(snapshot), path)
        return cls.open(path)

    def add(self, items: Iterable[Item]) -> None:
        """Adds all items or none; durable when it returns. An id that is there is replaced.

        Raises DataError naming the first item that cannot be stored, StorageError if the disk
        does not take them; then the collection is as it was.
        """
        batch = check_items(items, self.dimension)
        if len(batch):
            self._record(Added(batch))

    def delete(self, ids: Iterable[str]) -> int:
        """Deletes all these items; durable when it returns. Returns how many were there."""
        wanted = list(dict.fromkeys(check_ids([ids] if isinstance(ids, str) else list(ids))))
        with self._writing:
            self._writer()
            places = self._view.find(wanted)
            there = [name for name, place in zip(wanted, places, strict=True) if place]
            if there:
                self._record(Deleted(there))
        return len(there)

    def load(self, items: Iterable[Item]) -> None:
        """Adds a stream of any length past the journal, with bounded memory, all or nothing.

        For millions of items; other changes wait until it is done. DataError as for `add`, and
        if an id comes twice.
        """
        self._load(items, self._opened.state, keep=True)

    def compact(self, everything: bool = False) -> bool:
        """Merges the tail and small or much deleted segments; `everything` makes one of all.

        Searches, adds and deletes go on meanwhile. Returns whether there was anything to do.
        Raises StorageError if the disk fills; then the collection is as it was.
        """
        with self._maintaining:
            with self._writing:
                view, begin = self._view, self._writer().offset
            chosen = choose_parts(view, everything)
            if not chosen:
                return False
            parts = [view.parts[number] for number in chosen]
            new = self._write(living_batches(parts), self._opened.state)
            kept = [
                KeptSegment(cast(Segment, part.store), part.dead)
                for number, part in enumerate(view.parts)
                if number not in chosen
            ]
            self._commit(self._opened.state, kept, new, begin)
        return True

    def snapshot(self, path: str | Path) -> None:
        """A consistent copy at `path`, which must be free; changes go on meanwhile."""
        target = Path(path).expanduser().absolute()
        with self._maintaining:
            for attempt in range(5):
                with self._writing:
                    self.refresh()
                    state, size = self._opened.state, self._journal_size()
                try:
                    write_snapshot(self.path, state, size, target)
                    return
                except StorageError as error:
                    # Read-only, a writer elsewhere may have replaced the files meanwhile.
                    moved = isinstance(error.__cause__, FileNotFoundError)
                    if not (moved and self.read_only) or attempt == 4:
                        raise

    def close(self) -> None:
        """Lets another process write. Further changes raise StorageError; searches still work."""
        with self._maintaining, self._writing:
            if self._journal is not None:
                self._journal.close()
            if self._lock is not None:
                self._lock.release()
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
        return self._journal

    def _journal_size(self) -> int:
        return self._journal.offset if self._journal is not None else self._opened.journal.offset

    def _record(self, operation: Operation) -> None:
        with self._writing:
            record = encode(operation, self._opened.journal.salt)
            with storage_errors(str(self.path)):
                self._writer().append(record)
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
            self._journal = JournalWriter(opened.journal.path, opened.journal.offset)

    def _load(self, items: Iterable[Item], state: State, keep: bool) -> None:
        with self._maintaining, self._writing:
            begin = self._writer().offset
            new = self._write(batches(items, state.dimension), state)
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
                    written = write_commit(self.path, state, number, kept, new, old, begin)
                opened = open_files(self.path, known)
                self._journal = JournalWriter(self.path / written.journal, opened.journal.offset)
                old.close()
                self._install(opened)
        except BaseException:
            self._give_up(new)
            raise
        remove_leftovers(self.path, self._opened.state)

    def _give_up(self, new: list[NewSegment]) -> None:
        """After a failed commit: removes its files, or stops writing if it may have happened."""
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
            self._journal.refuse()

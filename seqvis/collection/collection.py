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

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, cast

from seqvis.artifacts import MANIFEST
from seqvis.collection.compaction import choose_parts, is_due, living_batches
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Item, check_ids, check_items
from seqvis.collection.journal import HEADING_SIZE, Added, Deleted
from seqvis.collection.manifest import appearing, check_free, restore_snapshot, write_snapshot
from seqvis.collection.reader import create_directory, first_state, lock_for_writing, open_files
from seqvis.collection.segments import SearchBy, Segment
from seqvis.collection.shards import check_belongs
from seqvis.collection.writer import KeptSegment, WritingCollection
from seqvis.errors import ConfigError, StorageError
from seqvis.storage import local_path


class Collection(WritingCollection):
    """An open collection. Any number of threads may search it while one thread changes it.

    Close it when done, or use it in a `with` block.
    """

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
        path = local_path(path)
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
        path = local_path(path)
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
    def open(
        cls,
        path: str | Path,
        read_only: bool = False,
        verify: bool = False,
        wait: float = 0.0,
        device: str | None = None,
    ) -> Self:
        """Opens a collection; `verify` checks the hash of every file (about 1 s per GB).

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
        if read_only or not (path / MANIFEST).exists():
            return cls(path, open_files(path, {}, verify, by), None)
        lock = lock_for_writing(path, wait)
        try:
            return cls(path, open_files(path, {}, verify, by), lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def restore(cls, snapshot: str | Path, path: str | Path) -> Self:
        """Makes a collection of a snapshot (a path or URI), checking all its hashes."""
        path = local_path(path)
        restore_snapshot(str(snapshot), path)
        return cls.open(path)

    def add(self, items: Iterable[Item]) -> None:
        """Adds all items or none; durable when it returns. An id that is there is replaced.

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

        Searches, adds and deletes go on meanwhile, and the journal begins anew. Returns whether
        there was anything to do.
        Raises StorageError if the disk fills; then the collection is as it was.
        """
        with self._maintaining:
            with self._writing:
                view, begin = self._view, self._writer().offset
            chosen = choose_parts(view, everything, begin > HEADING_SIZE)
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

    def compaction_due(self) -> bool:
        """Whether a long-running writer should `compact` now (compaction.py says why)."""
        with self._writing:
            return is_due(self._view, self._writer())

    def snapshot(self, path: str | Path) -> None:
        """A consistent copy at `path`, which must be free; changes go on meanwhile."""
        target = local_path(path)
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
                self._lock.close()
            self._journal = self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

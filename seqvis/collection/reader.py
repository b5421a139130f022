"""Open a collection's directory, look things up in it, and follow its writer's changes.

A search uses the view that is current when it starts, and changes made meanwhile do not disturb it.
A reader sees new changes only after `refresh`. The one writer holds the lock on the directory.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np

from seqvis.artifacts import MANIFEST
from seqvis.collection.filters.conditions import Condition
from seqvis.collection.filters.where import Predicate, Where, check_where
from seqvis.collection.graphs import GRAPHS
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import SHARD, Item, check_ids, check_queries
from seqvis.collection.journal import JournalReader, heading
from seqvis.collection.manifest import SEGMENTS, TOMBSTONES, State, read_state, stamp, write_state
from seqvis.collection.recall import count_found, measure_recall
from seqvis.collection.scroll import Page, page_of
from seqvis.collection.segments import BY_GRAPHS, SearchBy, Segment, load_array
from seqvis.collection.view import Part, Tail, View, part_of
from seqvis.deadline import UNBOUNDED, Deadline
from seqvis.disk import sync_directory, take_lock, write_synced
from seqvis.errors import ArtifactError, ConfigError, DataError, StorageError, UnknownFieldError
from seqvis.storage import storage_errors

LOCK = "writer.lock"


def lock_for_writing(folder: Path, wait: float) -> BinaryIO:
    """Take the lock of a collection's one writer, which is held until it is closed.

    Raises StorageError if another process still holds it after `wait` seconds.
    """
    with storage_errors(str(folder)):
        text = (
            f"{folder}: another process is writing to this collection; wait for it or stop it, or "
            f"open the collection with read_only=True"
        )
        return take_lock(folder / LOCK, StorageError, text, wait)


@dataclass(frozen=True)
class Opened:
    """The content of a collection at the moment its files were read."""

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
    """Read state, segments and journal; segments that are in `known` are not opened again.

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
    """Write an empty collection's files; `state` names its journal."""
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
    """Return what an empty collection consists of. Raises ConfigError if it cannot be one."""
    if dimension < 1:
        raise ConfigError(f"a collection's dimension is {dimension}; it must be at least 1")
    if backend not in get_args(Backend):
        raise ConfigError(f"{backend}: no such backend; choose {', '.join(get_args(Backend))}")
    if backend in GRAPHS:
        GRAPHS[backend].require()
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


class CollectionReader:
    """The reading half of an open collection. Any number of threads may search at once."""

    def __init__(self, path: Path, opened: Opened, lock: BinaryIO | None):
        self.path = path
        self._opened = opened
        self._view = opened.view
        self._lock = lock
        self._applying = threading.RLock()  # held for microseconds while the view changes
        self._refreshing = threading.Lock()  # held for seconds where new segments are read

    @property
    def config(self) -> dict[str, Any]:
        """What the caller recorded at creation."""
        return self._opened.state.config

    @property
    def dimension(self) -> int:
        """Numbers of a vector."""
        return self._opened.state.dimension

    @property
    def backend(self) -> Backend:
        """What searches: "nmslib", "symphonyqg" or "exact"."""
        return self._opened.state.backend

    @property
    def read_only(self) -> bool:
        """Whether changes are refused, because it was opened so or is closed."""
        return self._lock is None

    def __len__(self) -> int:
        return len(self._view)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name) is not None

    def ids(self) -> Iterator[str]:
        """Return the ids of all items, in no particular order, as of this call."""
        parts = self._view.parts
        return (part.store.id(int(row)) for part in parts for row in part.living_rows())

    def get(self, name: str) -> Item | None:
        """Return the item with this id, its vector at length 1."""
        place = self._place(name)
        if place is None:
            return None
        view, part, row = place
        store = view.parts[part].store
        vector = np.array(view.parts[part].vectors[row])
        return Item(name, vector, store.metadata(row), store.thumbnail(row))

    def thumbnail(self, name: str) -> bytes | None:
        """Return the item's thumbnail; None if it has none, or there is no such item."""
        place = self._place(name)
        return place[0].parts[place[1]].store.thumbnail(place[2]) if place else None

    def search(
        self,
        vectors: np.ndarray,
        k: int = 10,
        where: Where | None = None,
        min_score: float | None = None,
        deadline: Deadline = UNBOUNDED,
    ) -> Any:
        """Return the `k` items with the greatest cosine, best first; fewer if there are fewer.

        `vectors` (dimension) gives list[Match], (q, dimension) gives list[list[Match]]. `where`
        is a filter (filters/where.py), `min_score` the least cosine. Raises DataError if a vector
        is of another dimension, not finite or zero, or `k` is below 1; FilterSyntaxError if the
        filter cannot be read; UnknownFieldError if it names a field that no item has (for a shard
        see `merge`); SearchTimeoutError at the deadline.
        """
        view = self._view
        queries = check_queries(vectors, view.dimension)
        if k < 1:
            raise DataError(f"k is {k}; ask for at least 1 match")
        if min_score is not None and min_score != min_score:
            raise DataError("min_score is NaN; give a cosine between -1 and 1")
        chosen = self._filter(view, where)

        def find(missing_ok: bool) -> Any:
            answers = view.search(queries, int(k), chosen, min_score, deadline, False, missing_ok)
            return answers[0] if np.ndim(vectors) == 1 else answers

        return self._find(find)

    def scroll(
        self,
        limit: int = 100,
        after: str | None = None,
        where: Where | None = None,
        deadline: Deadline = UNBOUNDED,
    ) -> Page:
        """Return a page of items with their metadata, in an order that changes do not disturb.

        `after` is the page before's `next` (scroll.py). Raises DataError for anything else, and as
        `search` does for a filter.
        """
        view = self._view
        chosen = self._filter(view, where)
        page: Page = self._find(partial(page_of, view, limit, after, chosen, deadline))
        return page

    def unread(self, where: Where) -> int:
        """Return how many items' metadata a search with this filter must parse: about 8 µs each."""
        return self._view.unread(where)

    def recall_report(self, k: int = 10, queries: int = 1000) -> dict[str, Any]:
        """Measure recall@k against exact search, and latencies in ms."""
        return measure_recall(self._view, self.search, k, queries) | {"backend": self.backend}

    def sample_recall(self, vector: np.ndarray, k: int = 10) -> float:
        """Return the share of the `k` true matches that a search for `vector` finds, 0 to 1.

        For one live query in a hundred or so: among 60,000 pictures of 50 numbers it takes 1.7 ms
        where a search takes 0.5. It is 1 where there is nothing to find. Raises DataError as
        `search` does.
        """
        view = self._view
        query = check_queries(vector, view.dimension)
        if len(query) != 1 or k < 1:
            raise DataError("recall is sampled for one vector and at least 1 match")
        truth = view.search(query, k, None, None, exact=True)[0]
        matches = view.search(query, k, None, None)[0]
        return count_found(matches, truth) / len(truth) if truth else 1.0

    def statistics(self) -> dict[str, int]:
        """Count items, items in the tail, segments, and dead rows that a compaction would drop."""
        parts = self._view.parts
        return {
            "items": len(self._view),
            "tail": parts[-1].alive,
            "segments": len(parts) - 1,
            "dead": sum(part.dead_count for part in parts),
        }

    def refresh(self) -> bool:
        """Load what another process has written, if anything, and return whether there was."""
        if self._lock is not None:
            return False
        with self._refreshing:
            journal = self._opened.journal
            try:
                size = journal.path.stat().st_size
                if stamp(self.path / MANIFEST) == self._opened.manifest:
                    if size == journal.offset:
                        return False
                    if size > journal.offset:
                        with self._applying:
                            return self._follow(journal)
            except (FileNotFoundError, ArtifactError):
                pass  # replaced or undone meanwhile: read all anew, which explains real damage
            opened = self._opened
            self._install(open_files(self.path, opened.segments, by=opened.by))
            return True

    def _filter(self, view: View, where: Where | None) -> Condition | Predicate | None:
        chosen = check_where(where)
        # An empty collection has no fields to compare with; an empty shard leaves that to `merge`.
        return chosen if len(view) or SHARD in self.config else None

    def _find(self, find: Callable[[bool], Any]) -> Any:
        """Return what `find` finds, told whether fields of the filter may be missing: they may not.

        The error of a shard where they are holds what is found if they may, for `merge`.
        """
        try:
            return find(False)
        except UnknownFieldError as error:
            if SHARD in self.config:
                error.answer = find(True)
            raise

    def _place(self, name: str) -> tuple[View, int, int] | None:
        with self._applying:
            view = self._view
            place = view.find(check_ids([name]))[0]
        return (view, *place) if place is not None else None

    def _follow(self, journal: Any) -> bool:
        view, before = self._view, journal.offset
        for operation in journal.new_records():
            view = view.applied(operation)
        self._view = view
        return bool(journal.offset != before)

    def _install(self, opened: Opened) -> None:
        with self._applying:
            self._opened, self._view = opened, opened.view

"""Write a collection's segments: choose what a compaction merges, write the new ones, commit them.

Compaction is size-tiered, as in log-structured merge trees (O'Neil et al. 1996): the tail is merged
with the smaller segments for as long as the next segment is not much larger than what has been
merged so far, so that an item is rewritten a logarithmic number of times. A segment with many dead
rows is rewritten too.

The threshold at which a long-running writer should compact (`is_due`) was measured on two cores.
The tail is searched exactly: 8,000 rows of 300 numbers make a search of 20,000 pictures take 2.1 ms
instead of 1.1; with 50 numbers, beside 60,000 pictures, the difference disappears in the noise.
Every process that opens the collection reads the journal, and 10,000 changes take 0.2 to 0.5 s.
Replaced rows count as well, so that a writer which keeps replacing the same few items has a bounded
tail and journal.

A commit syncs the tombstones and the new journal before it renames the manifest that names them: if
a crash comes earlier, the new files are leftovers.
"""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqvis.collection.items import Batch
from seqvis.collection.journal import HEADING_SIZE, JournalWriter
from seqvis.collection.manifest import SEGMENTS, TOMBSTONES, SegmentEntry, State, write_state
from seqvis.collection.segments import (
    HASH_ROWS,
    HASHES,
    Blobs,
    Segment,
    SegmentWriter,
    describe_file,
    describe_files,
    load_array,
    save_array,
)
from seqvis.collection.view import Part, View
from seqvis.disk import remove_quietly, sync_directory, write_synced
from seqvis.errors import DataError

TIER = 3  # a segment at most this many times as large as what is merged already is merged too
DEAD_SHARE = 0.2  # from here on a segment is rewritten
DEAD_ROWS = 1_000  # in such segments, above which it is due: a segment of one item is soon dead
MOST_SEGMENTS = 8
SEGMENT_BYTES = 512 << 20  # of vectors; building a graph takes about three times as much memory
TAIL_ROWS = 8_000  # dead ones included: they are scored and take memory as well
JOURNAL_RECORDS = 10_000
JOURNAL_BYTES = 64 << 20
_CHUNK = 2048


@dataclass(frozen=True)
class NewSegment:
    name: str
    files: dict[str, dict[str, Any]]


def is_due(view: View, journal: JournalWriter) -> bool:
    """Tell whether a compaction is worthwhile; right after one it is not."""
    *segments, tail = view.parts
    return (
        tail.rows >= TAIL_ROWS
        or journal.records >= JOURNAL_RECORDS
        or journal.offset >= JOURNAL_BYTES
        or sum(part.dead_count for part in segments if _spoiled(part)) >= DEAD_ROWS
    )


def choose_parts(view: View, everything: bool, journalled: bool) -> list[int]:
    """Return the numbers of the parts to merge, the tail's among them; empty if there is no need.

    `journalled`: the journal is not empty; after a few deletes only the journal is left to merge.
    """
    *segments, tail = view.parts
    last = len(segments)
    order = sorted(range(last), key=lambda number: segments[number].alive)
    spoiled = [number for number in order if _spoiled(segments[number])]
    if everything:
        clean = last <= 1 and not journalled and not any(part.dead_count for part in segments)
        return [] if clean else [*range(last), last]
    chosen = set(spoiled)
    merged = tail.alive + sum(segments[number].alive for number in spoiled)
    for number in order:
        crowded = last - len(chosen) >= MOST_SEGMENTS
        if number not in chosen and (crowded or 0 < segments[number].alive <= TIER * merged):
            chosen.add(number)
            merged += segments[number].alive
    return [*sorted(chosen), last] if chosen or journalled else []


def living_batches(parts: Iterable[Part]) -> Iterator[Batch]:
    """Yield the living rows of some parts, piece by piece."""
    for part in parts:
        rows = part.living_rows()
        for begin in range(0, len(rows), _CHUNK):
            yield part.store.batch(rows[begin : begin + _CHUNK].tolist())


def write_segments(folder: Path, batches: Iterable[Batch], state: State) -> list[NewSegment]:
    """Write new segments below `folder`, durably; nothing names them yet.

    Memory is bounded by the vectors of one segment, however many there are. Raises DataError if an
    id comes twice, before any graph is built. If it raises, what was written is removed.
    """
    most = max(1, SEGMENT_BYTES // (4 * state.dimension))
    writers: list[SegmentWriter] = []
    try:
        for batch in batches:
            if not writers or writers[-1].rows + len(batch) > most:
                writers.append(SegmentWriter(folder / uuid.uuid4().hex[:16], state.dimension))
            writers[-1].add(batch)
        _refuse_twice(writers, [writer.finish() for writer in writers])
        for writer in writers:
            writer.build_index(state.backend, state.settings)
        return [NewSegment(writer.folder.name, describe_files(writer.folder)) for writer in writers]
    except BaseException:
        for writer in writers:
            writer.abandon()
            remove_quietly(writer.folder)
        raise


def _spoiled(part: Part) -> bool:
    return part.dead_count > DEAD_SHARE * part.rows


def _refuse_twice(writers: Sequence[SegmentWriter], hashes: Sequence[np.ndarray]) -> None:
    every = np.sort(np.concatenate([np.empty(0, np.uint64), *hashes]))
    for suspect in np.unique(every[1:][every[1:] == every[:-1]]):
        seen: set[bytes] = set()
        for writer in writers:
            ids = Blobs(writer.folder, "ids")
            rows = load_array(writer.folder / HASH_ROWS)
            for place in np.flatnonzero(load_array(writer.folder / HASHES) == suspect):
                name = ids[int(rows[place])]
                if name in seen:
                    raise DataError(f"{name.decode()}: comes twice; give each id once")
                seen.add(name)


def write_commit(
    folder: Path,
    state: State,
    number: int,
    kept: Sequence[Part],
    new: list[NewSegment],
    journal: JournalWriter,
    begin: int,
) -> None:
    """Make these segments, with `journal` from byte `begin` on, the collection's content.

    `kept`: parts whose segments stay, each with the rows of it that are dead by now. The records of
    the journal apply to the new segments as they did to the old.
    """
    entries: list[SegmentEntry] = []
    files: dict[str, Any] = {}
    for part in kept:
        assert isinstance(part.store, Segment)
        name = part.store.name
        prefix = f"{SEGMENTS}/{name}/"
        files.update({k: v for k, v in state.files.items() if k.startswith(prefix)})
        tombstones = f"{number:08d}-{name}.npy" if part.dead.any() else None
        if tombstones:
            path = folder / TOMBSTONES / tombstones
            save_array(path, part.dead)
            files[f"{TOMBSTONES}/{tombstones}"] = describe_file(path)
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

"""Replacing what a collection consists of, in one step that a crash cannot split.

Order: the new segments are on the disk already; then tombstones and the new journal, each synced;
then the manifest that names them all. Until that last rename everything new is a leftover.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqvis.disk import file_hash, sync_directory, synced_file, write_synced
from seqvis.search.compaction import NewSegment
from seqvis.search.journal import HEADING_SIZE, JournalWriter
from seqvis.search.segments import Segment
from seqvis.search.state import SEGMENTS, TOMBSTONES, SegmentEntry, State, write_state


@dataclass(frozen=True)
class KeptSegment:
    """A segment that stays, and which of its rows are dead, bool (rows)."""

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

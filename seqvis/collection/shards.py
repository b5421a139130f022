"""Sharded collections: split one, and describe them.

A collection that is too large for the memory of one process is a directory of ordinary collections,
its shards. A hash of an item's id decides which shard it is in:

    manifest.json   kind "sharded collection", the original's config, the shards
    shard-000/ …    collections; their config also says which shard of how many each is

`describe` also accepts an ordinary collection, which counts as its own only shard.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqvis.artifacts import FORMAT_VERSION, MANIFEST
from seqvis.collection.collection import Collection
from seqvis.collection.index import Backend
from seqvis.collection.items import SHARD, Item, place_of, shard_of
from seqvis.collection.manifest import SHARDED, appearing, check_free, kind_of, read_state
from seqvis.collection.reader import open_files
from seqvis.collection.segments import SearchBy
from seqvis.collection.view import Part, View
from seqvis.disk import write_synced
from seqvis.errors import ArtifactError, ConfigError
from seqvis.storage import local_path

MOST_SHARDS = 1000
_CHUNK = 2048


@dataclass(frozen=True)
class Description:
    """The metadata of a collection, sharded or not, read without opening it."""

    path: Path
    config: dict[str, Any]  # what the caller recorded at creation
    dimension: int
    backend: Backend
    shards: tuple[Path, ...]  # ordinary collections; for an ordinary one, itself


def describe(path: str | Path) -> Description:
    """Read what stands at `path`.

    Raises ArtifactError if it is neither a collection nor a sharded one, or if a shard is missing.
    """
    path = local_path(path)
    if kind_of(path) != SHARDED:
        state = read_state(path)
        return Description(path, state.config, state.dimension, state.backend, (path,))
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {manifest['format_version']}")
        config, names = dict(manifest["config"]), [str(name) for name in manifest["shards"]]
        dimension, backend = int(manifest["dimension"]), manifest["backend"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path / MANIFEST}: does not describe shards that this seqvis reads ({error}); "
            f"split the collection anew with seqvis collection --split"
        ) from error
    shards = tuple(path / name for name in names)
    for number, shard in enumerate(shards):
        if read_state(shard).config.get(SHARD) != place_of(number, len(shards)):
            raise ArtifactError(
                f"{shard}: is not shard {number} of {len(shards)}; put the right one there, or "
                f"split the collection anew"
            )
    return Description(path, config, dimension, backend, shards)


def shard_paths(path: str | Path) -> list[Path]:
    """Return the shards' directories in order; for an ordinary collection its own.

    Raises ArtifactError if `path` is neither.
    """
    return list(describe(path).shards)


def split(collection: str | Path, count: int, out: str | Path) -> list[int]:
    """Copy a collection to a new sharded one at `out`, which appears whole or not at all.

    The collection may be in use: its state at this moment is copied. Memory is bounded by the size
    of one shard plus 2 bytes for each item, because the original's graphs are not loaded. The
    original is read once for every shard.

    Returns how many items each shard holds. Raises ConfigError for an impossible count,
    ArtifactError if `collection` is not one or something is at `out`, StorageError if the disk does
    not take it.
    """
    source, target = local_path(collection), local_path(out)
    if not 1 <= count <= MOST_SHARDS:
        raise ConfigError(f"a collection has 1 to {MOST_SHARDS} shards, not {count}")
    check_free(target, "sharded collection")
    opened = open_files(source, {}, by=SearchBy(graphs=False))
    state = opened.state
    of_rows = [_shards(part, count) for part in opened.view.parts]
    names = [f"shard-{number:03d}" for number in range(count)]
    with appearing(target) as staging:
        staging.mkdir(parents=True)
        for number, name in enumerate(names):
            Collection.build(
                staging / name,
                state.dimension,
                _items(opened.view, of_rows, number),
                state.backend,
                {**state.config, SHARD: place_of(number, count)},
                state.settings,
            ).close()
        manifest = {
            "kind": SHARDED,
            "format_version": FORMAT_VERSION,
            "config": state.config,
            "metrics": {"items": len(opened.view)},
            "files": {},
            "dimension": state.dimension,
            "backend": state.backend,
            "shards": names,
        }
        content = json.dumps(manifest, indent=1, ensure_ascii=False).encode()
        write_synced(staging / MANIFEST, content)
    return [sum(int((rows == number).sum()) for rows in of_rows) for number in range(count)]


def _shards(part: Part, count: int) -> np.ndarray:
    """Return the shard of each living row, uint16 (living rows)."""
    numbers = (shard_of(part.store.id(row), count) for row in part.living_rows().tolist())
    return np.fromiter(numbers, np.uint16, part.alive)


def _items(view: View, of_rows: list[np.ndarray], number: int) -> Iterator[Item]:
    for part, shards in zip(view.parts, of_rows, strict=True):
        rows = part.living_rows()[shards == number].tolist()
        for begin in range(0, len(rows), _CHUNK):
            chunk = rows[begin : begin + _CHUNK]
            vectors = part.vectors[chunk]
            for row, vector in zip(chunk, vectors, strict=True):
                store = part.store
                yield Item(store.id(row), vector, store.metadata(row), store.thumbnail(row))

"""Sharded collections: describe them, find the shard of an id, and merge the shards' answers.

A collection that is too large for the memory of one process is a directory of ordinary collections,
its shards. A hash of an item's id decides which shard it is in:

    manifest.json   kind "sharded collection", the original's config, the shards
    shard-000/ …    collections; their config also says which shard of how many each is

`describe` also accepts an ordinary collection, which counts as its own only shard. The gateway
imports this module, so it must not import torch, Ray or nmslib.
"""

import hashlib
import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from seqvis.artifacts import FORMAT_VERSION, MANIFEST
from seqvis.collection.index import Backend
from seqvis.collection.items import Match, best_first
from seqvis.collection.manifest import SHARDED, kind_of, read_state
from seqvis.errors import ArtifactError, DataError, UnknownFieldError
from seqvis.storage import local_path

SHARD = "shard"  # the key of a shard's config that says which it is


@dataclass(frozen=True)
class Description:
    """The metadata of a collection, sharded or not, read without opening it."""

    path: Path
    config: dict[str, Any]  # what the caller recorded at creation
    dimension: int
    backend: Backend
    shards: tuple[Path, ...]  # ordinary collections; of one that is not sharded, itself


def shard_of(name: str, shards: int) -> int:
    """Return the number of the shard, 0 to `shards` - 1, that an item with this id is in."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % shards


def merge(answers: Sequence[Sequence[Match] | UnknownFieldError], k: int) -> list[Match]:
    """Merge the answers of the shards, each best first, as `Collection.search` gives them.

    If each shard was asked for `k` matches and is searched exactly, it is the answer of the
    unsharded collection: the same ids and scores in the same order, ties included, since these are
    ordered by id everywhere. Shards searched by graphs find at least as much of the truth as one
    large graph (each looks at as many candidates), but not always the same.

    A shard whose items all lack a field of the filter raises UnknownFieldError; give the error as
    its answer. So does an empty shard. It is raised here if no shard has the field.
    """
    unknown = [answer for answer in answers if isinstance(answer, UnknownFieldError)]
    matches = [answer for answer in answers if not isinstance(answer, UnknownFieldError)]
    if unknown and not matches:
        nowhere = set.intersection(*(set(error.missing) for error in unknown))
        missing = tuple(field for field in unknown[0].missing if field in nowhere)
        fields = set[str]().union(*(error.fields for error in unknown))
        if missing and fields:  # without any, all shards are empty, and so is the answer
            raise UnknownFieldError(missing, tuple(sorted(fields)))
    return list(islice(heapq.merge(*matches, key=best_first), k))


def describe(path: str | Path) -> Description:
    """Read what stands at `path`.

    Raises ArtifactError if it is neither a collection nor a sharded one, or a shard lacks.
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
            f"split the collection anew with python -m jobs.collection --split"
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
    """Return the shards' directories in order; of a collection that is not sharded its own.

    Raises ArtifactError if `path` is neither.
    """
    return list(describe(path).shards)


def place_of(number: int, shards: int) -> dict[str, int]:
    """Return what a shard's config says under the key `SHARD`."""
    return {"number": number, "of": shards}


def check_belongs(ids: Iterable[str], config: Mapping[str, Any]) -> None:
    """Raise DataError if these are ids of another shard than the one that has this config.

    There an item would never be deleted or replaced, since nobody looks for it in this one.
    """
    place = config.get(SHARD)
    if not isinstance(place, Mapping) or place.keys() != {"number", "of"}:
        return
    for name in ids:
        if shard_of(name, place["of"]) != place["number"]:
            raise DataError(
                f"{name}: belongs in shard {shard_of(name, place['of'])}, this is shard "
                f"{place['number']} of {place['of']}; add it there"
            )

"""Change, copy, split or measure a collection."""

import re
import subprocess
import sys
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from pydantic import Field, model_validator

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.collection import view
from seqvis.collection.collection import Collection
from seqvis.collection.shards import split
from seqvis.devise.model import DeviseModel
from seqvis.errors import DataError
from seqvis.search.build import PictureItems
from seqvis.search.words import load_model_for
from seqvis.vision.feature_table import FeatureTable


class Keep(JobSettings):
    """Keeps a collection: adds and deletes pictures, compacts, copies, splits, measures its recall.

    Give one of the actions; without any, what the collection holds is printed.
    """

    collection: str | None = None
    """Directory that build_index wrote; for --restore, where to put the collection."""
    about: bool = False
    """Print the versions of nmslib and, if it is installed, SymphonyQG's rabitqlib, the processor's
    instructions that nmslib does not use, and what computes exact scores. Needs no collection."""
    add: str | None = None
    """Features that embed_images wrote: add their pictures; those with the same path are
    replaced."""
    delete: tuple[str, ...] = ()
    """Ids of pictures to delete. If one is not there, nothing is deleted."""
    missing_ok: bool = False
    """Pass over ids that are not there (for --delete)."""
    compact: bool = False
    """Merge all segments and recent changes into one; drop what was deleted."""
    recall: bool = False
    """Measure recall@10 and speed against exact search."""
    snapshot: str | None = None
    """Directory for a consistent copy, which may be moved anywhere."""
    restore: str | None = None
    """Directory or URI of a snapshot: make a collection of it."""
    split: int | None = Field(None, ge=1)
    """Copy it to this many shards, which --out names, each for a serving process of its own."""
    out: str | None = None
    """Directory for the shards (for --split)."""
    model: str | None = None
    """The collection's model, if it was moved (for --add)."""
    columns: tuple[str, ...] = ()
    """Further columns of the features to keep as metadata (for --add)."""
    queries: int = Field(1000, ge=1)
    """Searches by which recall is measured."""

    @model_validator(mode="after")
    def _one_action(self) -> "Keep":
        names = ("about", "add", "delete", "compact", "recall", "snapshot", "restore", "split")
        if sum(getattr(self, name) not in (None, False, ()) for name in names) > 1:
            raise ValueError(f"give one of --{', --'.join(names[:-1])} and --{names[-1]}")
        if self.collection is None and not self.about:
            raise ValueError("--collection is needed")
        if (self.split is None) != (self.out is None):
            raise ValueError("--split and --out go together")
        return self


def run(settings: Keep) -> dict[str, Any]:
    """Do what the flags ask for and return what the collection then holds."""
    if settings.about:
        return _about()
    assert settings.collection is not None
    if settings.restore is not None:
        with Collection.restore(settings.restore, settings.collection) as collection:
            return {"restored": settings.restore, **collection.statistics()}
    if settings.split is not None and settings.out is not None:
        return {"shards": split(settings.collection, settings.split, settings.out)}
    changes = settings.add is not None or bool(settings.delete) or settings.compact
    with Collection.open(settings.collection, read_only=not changes) as collection:
        return {**_act(collection, settings), **collection.statistics()}


def _about() -> dict[str, Any]:
    """Let nmslib tell what it was compiled for, which it does when it is imported."""
    code = "import nmslib; print(nmslib.__version__)"
    imported = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    unused = re.search(r"not compiled to use:(.*)", imported.stderr)
    return {
        "nmslib": imported.stdout.strip(),
        "unused_instructions": unused[1].split() if unused else [],
        "rabitqlib": version("rabitqlib") if find_spec("rabitqlib") else None,
        "exact_scores": "C++" if view.native is not None else "NumPy",
    }


def _act(collection: Collection, settings: Keep) -> dict[str, Any]:
    if settings.add is not None:
        return _add(collection, load_model_for(DeviseModel, collection, settings.model), settings)
    if settings.delete:
        return _delete(collection, settings)
    if settings.compact:
        return {"compacted": collection.compact(everything=True)}
    if settings.recall:
        return collection.recall_report(k=10, queries=settings.queries)
    if settings.snapshot is not None:
        collection.snapshot(settings.snapshot)
        return {"snapshot": settings.snapshot}
    return {"dimension": collection.dimension, "backend": collection.backend}


def _add(collection: Collection, model: DeviseModel, settings: Keep) -> dict[str, Any]:
    assert settings.add is not None
    table = FeatureTable.open(settings.add)
    items = PictureItems(model, table, settings.columns)
    collection.load(items)
    return {"added": len(table) - items.left_out, "left_out": items.left_out}


def _delete(collection: Collection, settings: Keep) -> dict[str, Any]:
    missing = [name for name in settings.delete if name not in collection]
    if missing and not settings.missing_ok:
        raise DataError(
            f"{settings.collection}: has no picture {', '.join(map(repr, missing))}, so nothing "
            f"was deleted; --missing-ok passes over such ids"
        )
    return {"deleted": collection.delete(settings.delete)}


main = partial(run_job, Keep, run)

if __name__ == "__main__":
    leave(main())

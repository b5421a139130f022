"""A collection whose writer is killed at any moment: a sample of what crash_collection.py does."""

import os
import random
from pathlib import Path

import pytest

from seqvis.search.collection import Collection
from tests.faults.crash_collection import (
    DIMENSION,
    SETTINGS,
    LostError,
    Model,
    apply,
    check_folder,
    crash,
    die_at_step,
    item,
    perform,
)


def test_killed_at_random_moments_no_acknowledged_change_is_lost(tmp_path: Path) -> None:
    result = crash(tmp_path, kills=6, seed=7, report=lambda text: None)
    assert result["faults"] == 0
    assert result["acknowledged"] > 0


@pytest.mark.parametrize("kind", ["add", "delete", "compact", "load", "snapshot"])
def test_dying_at_each_step_of_a_change_leaves_it_done_or_undone(tmp_path: Path, kind: str) -> None:
    """Forks a child for each step in turn, until the change gets through without dying."""
    before: Model = {f"item-{number}": 1 for number in range(40)}
    with Collection.create(tmp_path / "collection", DIMENSION, settings=SETTINGS) as collection:
        collection.add([item(name, 1) for name in before])
        collection.compact()
    survived, step = False, 0
    while not survived:
        step += 1
        names = [f"item-{number}" for number in range(step % 7, 60, 7)]
        change = {"kind": kind, "version": step + 1}
        if kind in ("add", "load"):
            change["add"] = names
        if kind == "delete":
            change["delete"] = names
        with Collection.open(tmp_path / "collection") as collection:
            collection.add([item(f"item-{step % 40}", 1000 + step)])
            before = {name: collection.get(name).metadata["version"] for name in collection.ids()}  # type: ignore[union-attr]
        survived = _dies_at(tmp_path / "collection", change, step) == 0
        check_folder(tmp_path, (before, apply(before, change)), random.Random(step))
    assert step > 3


def _dies_at(path: Path, change: dict[str, object], step: int) -> int:
    """Makes the change in a forked child that dies at `step`; its exit code, 0 if it lived."""
    process = os.fork()
    if process == 0:
        try:
            die_at_step(step, random.Random(step))
            perform(Collection.open(path), change)
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, 9)
    return code


def test_the_harness_sees_a_lost_change(tmp_path: Path) -> None:
    with Collection.create(tmp_path / "collection", DIMENSION, settings=SETTINGS) as collection:
        collection.add([item("item-1", 1)])
    model = {"item-1": 1, "item-2": 1}
    with pytest.raises(LostError, match="item-2"):
        check_folder(tmp_path, (model, model), random.Random(0))

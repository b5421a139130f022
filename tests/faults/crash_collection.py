"""Kills a process that changes a collection, again and again, and looks at what is left.

A child process adds, deletes, compacts, loads and takes snapshots at random. Before each change
it writes to a pipe what it intends, afterwards that it is done. It dies in one of two ways: by
SIGKILL after a random time, or by ending itself before or after the n-th call that touches the
disk (write, fsync, rename, link, unlink, mkdir, truncate; a write may be done by half). Then the
collection is opened: every acknowledged change must be there, the one that was under way wholly
there or wholly absent, and search and get must work. The next child goes on with the same
collection. The last line of standard output is JSON.

    python -m tests.faults.crash_collection --kills 200
    python -m tests.faults.crash_collection --each-step add

With `--each-step` a forked child dies at each step of one change in turn, until a child gets
through without dying.
"""

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from seqvis.collection.collection import Collection
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Item

DIMENSION = 6
SETTINGS = IndexSettings(exact_below=30, construction_width=20, build_threads=1)
Model = dict[str, int]  # id -> version
KINDS = ("add", "delete", "compact", "load", "snapshot")
STEPS = ("write", "fsync", "replace", "rename", "link", "unlink", "mkdir", "ftruncate", "rmdir")


class LostError(AssertionError):
    """The collection is not what it must be."""


def item(name: str, version: int) -> Item:
    """An item whose vector, metadata and thumbnail all follow from its name and version."""
    draw = np.random.default_rng([version, *name.encode()])
    vector = draw.standard_normal(DIMENSION).astype(np.float32)
    return Item(name, vector, {"version": version}, f"{name}/{version}".encode())


def apply(model: Model, change: dict[str, Any]) -> Model:
    """The model after a change; compactions and snapshots change nothing."""
    after = dict(model)
    for name in change.get("add", []):
        after[name] = change["version"]
    for name in change.get("delete", []):
        after.pop(name, None)
    return after


def draw_change(draw: random.Random, version: int) -> dict[str, Any]:
    names = [f"item-{draw.randrange(150)}" for _ in range(draw.randint(1, 25))]
    kind = draw.choices(
        ["add", "delete", "compact", "all", "load", "snapshot"], [10, 5, 3, 1, 1, 1]
    )[0]
    change: dict[str, Any] = {"kind": kind, "version": version}
    if kind in ("add", "load"):
        change["add"] = sorted(set(names))
    if kind == "delete":
        change["delete"] = sorted(set(names))
    return change


def perform(collection: Collection, change: dict[str, Any]) -> None:
    kind, version = change["kind"], change["version"]
    if kind == "add":
        collection.add([item(name, version) for name in change["add"]])
    elif kind == "load":
        collection.load(item(name, version) for name in change["add"])
    elif kind == "delete":
        collection.delete(change["delete"])
    elif kind == "snapshot":
        collection.snapshot(collection.path.with_name(f"snapshot-{version}"))
    else:
        collection.compact(everything=kind == "all")


def child(path: Path, seed: int, first_version: int, die_at: int | None) -> None:
    """Changes the collection until it is killed; speaks on standard output, unbuffered."""
    say = os.write
    if die_at is not None:
        die_at_step(die_at, random.Random(seed))
    draw = random.Random(seed)
    collection = Collection.open(path)
    for version in range(first_version, first_version + 10_000):
        change = draw_change(draw, version)
        say(1, f"{json.dumps(change)}\n".encode())
        perform(collection, change)
        say(1, b"done\n")


def die_at_step(number: int, draw: random.Random) -> None:
    """Ends this process before, amid or after the `number`-th call that changes the disk."""
    moment = draw.choice(["before", "amid", "after"])
    count = 0

    def guarded(call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and moment != "after":
                if moment == "amid" and name == "write":
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os._exit(9)
            try:
                return call(*arguments, **options)
            finally:  # also after a call that fails, as mkdir of what is there does
                if count == number:
                    os._exit(9)

        return step

    for name in STEPS:
        setattr(os, name, guarded(getattr(os, name), name))


def run_child(
    path: Path, seed: int, version: int, seconds: float | None, die_at: int | None
) -> list[str]:
    """Lets a child work until it dies; returns the lines it wrote."""
    command = [sys.executable, "-m", "tests.faults.crash_collection", "--child", str(path)]
    command += ["--seed", str(seed), "--version", str(version)]
    command += ["--die-at", str(die_at)] if die_at is not None else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    if seconds is not None:
        # Starting Python takes longer than the work: the time counts from the first word.
        select.select([process.stdout], [], [], 60)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    written, complaints = process.communicate(timeout=120)
    if process.returncode not in (9, -signal.SIGKILL):
        raise LostError(
            f"the child ended by itself ({process.returncode}): {complaints.decode()[-3000:]}"
        )
    return [line for line in written.decode().split("\n")[:-1] if line]


def follow(model: Model, lines: list[str]) -> tuple[Model, Model]:
    """The model with all acknowledged changes, and with the one under way done as well."""
    pending: dict[str, Any] | None = None
    for line in lines:
        if line == "done":
            assert pending is not None
            model, pending = apply(model, pending), None
        else:
            pending = json.loads(line)
    return model, apply(model, pending) if pending else model


def check(collection: Collection, allowed: tuple[Model, Model]) -> Model:
    """Which of the two allowed states the collection has. Raises LostError if neither."""
    versions: Model = {}
    for name in collection.ids():
        stored = collection.get(name)
        if stored is None:
            raise LostError(f"{name} is listed but cannot be had")
        version = stored.metadata["version"]
        wanted = item(name, version)
        unit = wanted.vector / np.linalg.norm(wanted.vector)
        if not np.allclose(stored.vector, unit, atol=1e-6) or stored.thumbnail != wanted.thumbnail:
            raise LostError(f"{name} of version {version} has another vector or thumbnail")
        if name in versions:
            raise LostError(f"{name} is there twice")
        versions[name] = version
    if versions not in allowed:
        missing = {k: v for k, v in allowed[0].items() if versions.get(k) != v}
        surplus = {k: v for k, v in versions.items() if allowed[0].get(k) != v}
        raise LostError(f"acknowledged but not there: {missing}; there but not so: {surplus}")
    for name in list(versions)[:5]:
        matches = collection.search(item(name, versions[name]).vector, 3)
        if matches[0].id != name or len(matches) != min(3, len(versions)):
            raise LostError(f"{name} is not found by its own vector, but {matches}")
    return versions


def check_folder(folder: Path, allowed: tuple[Model, Model], draw: random.Random) -> Model:
    """Opens as a reader, then as a writer, and checks both; then that no leftover remained."""
    path = folder / "collection"
    check(Collection.open(path, read_only=True), allowed)
    with Collection.open(path, verify=True) as collection:
        model = check(collection, allowed)
        state = json.loads((path / "manifest.json").read_bytes())["state"]
        named = {name for name, _ in state["segments"]}
        if {entry.name for entry in (path / "segments").iterdir()} != named:
            raise LostError("a segment that nothing names was left behind")
    for snapshot in folder.glob("snapshot-*"):
        restored = folder / f"restored-{draw.randrange(1 << 40)}"
        Collection.restore(snapshot, restored).close()
        for done in (snapshot, restored):
            subprocess.run(["rm", "-rf", str(done)], check=True)
    return model


def crash(
    folder: Path, kills: int, seed: int, report: Callable[[str], None], backend: Backend
) -> dict[str, Any]:
    """Kills children `kills` times in turn by signal and at a step. Raises LostError at a fault."""
    draw = random.Random(seed)
    Collection.create(folder / "collection", DIMENSION, backend, settings=SETTINGS).close()
    model: Model = {}
    version = changes = amid = 0
    for number in range(kills):
        by_signal = number % 2 == 0
        seconds = draw.expovariate(1 / 0.15) if by_signal else None
        die_at = None if by_signal else draw.randint(1, 120)
        child_seed = draw.randrange(1 << 40)
        lines = run_child(folder / "collection", child_seed, version, seconds, die_at)
        acknowledged, complete = follow(model, lines)
        try:
            model = check_folder(folder, (acknowledged, complete), draw)
        except Exception as error:
            how = f"{seconds:.3f} s" if by_signal else f"step {die_at}"
            raise LostError(f"kill {number} (seed {child_seed}, {how}): {error!r}") from error
        changes += lines.count("done")
        amid += bool(lines) and lines[-1] != "done"
        version += len(lines) + 1
        if number % 20 == 19:
            report(f"{number + 1} kills, {changes} acknowledged changes, {amid} killed amid one")
    return {"kills": kills, "acknowledged": changes, "killed_amid": amid, "faults": 0}


def die_at_each_step(folder: Path, kind: str, backend: Backend) -> dict[str, Any]:
    """Kills a change of a kind at its first step, its second, and so on. Raises LostError."""
    before: Model = {f"item-{number}": 1 for number in range(40)}
    path = folder / "collection"
    with Collection.create(path, DIMENSION, backend, settings=SETTINGS) as collection:
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
        with Collection.open(path) as collection:
            collection.add([item(f"item-{step % 40}", 1000 + step)])
            before = {name: _version(collection, name) for name in collection.ids()}
        survived = _dies_at(path, change, step) == 0
        check_folder(folder, (before, apply(before, change)), random.Random(step))
    return {"kind": kind, "steps": step, "faults": 0}


def _version(collection: Collection, name: str) -> int:
    stored = collection.get(name)
    assert stored is not None
    return int(stored.metadata["version"])


def _dies_at(path: Path, change: dict[str, Any], step: int) -> int:
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
    if code not in (0, 9):
        raise LostError(f"the child ended otherwise than by dying at step {step}: {code}")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="children to kill (200)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random (0)")
    parser.add_argument("--each-step", choices=KINDS, help="kill this change at each of its steps")
    parser.add_argument("--backend", choices=get_args(Backend), default="nmslib")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--version", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--die-at", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        child(flags.child, flags.seed, flags.version, flags.die_at)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if flags.each_step:
            result = die_at_each_step(Path(folder), flags.each_step, flags.backend)
        else:
            report = partial(print, file=sys.stderr)
            result = crash(Path(folder), flags.kills, flags.seed, report, flags.backend)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

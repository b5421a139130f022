"""A collection's files: one writer, many readers, full disks, torn and damaged files, snapshots."""

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqvis import artifacts, disk
from seqvis.collection.collection import Collection
from seqvis.collection.graphs import GRAPHS
from seqvis.collection.index import Backend, IndexSettings
from seqvis.collection.items import Item
from seqvis.errors import ArtifactError, StorageError

SETTINGS = IndexSettings(exact_below=20, build_threads=1)


def some(*names: str, version: int = 1) -> list[Item]:
    draw = np.random.default_rng(version)
    return [Item(n, draw.standard_normal(4), {"version": version}, n.encode()) for n in names]


def many(count: int) -> list[Item]:
    return some(*[f"item-{number}" for number in range(count)])


def make(path: Path, count: int = 40, backend: Backend = "nmslib") -> Collection:
    collection = Collection.create(path, 4, backend, {"model": "m"}, SETTINGS)
    collection.add(many(count))
    return collection


def content(collection: Collection) -> dict[str, Any]:
    stored = {}
    for name in sorted(collection.ids()):
        item = collection.get(name)
        assert item is not None
        stored[name] = (item.vector.tolist(), item.metadata, item.thumbnail)
    return stored


def journal_of(path: Path) -> Path:
    (journal,) = path.glob("journal-*")
    return journal


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A write beyond it fails as on a full disk (with EFBIG instead of ENOSPC)."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_second_writer_is_told_who_writes_and_how_to_read(tmp_path: Path) -> None:
    with make(tmp_path / "c"):
        with pytest.raises(StorageError, match=rf"read_only=True \(process {os.getpid()}\)"):
            Collection.open(tmp_path / "c")
        code = "import sys; from seqvis.collection.collection import Collection\n"
        code += "Collection.open(sys.argv[1])"
        command = [sys.executable, "-c", code, str(tmp_path / "c")]
        other = subprocess.run(command, capture_output=True, text=True)
        assert "read_only=True" in other.stderr
        assert len(Collection.open(tmp_path / "c", read_only=True)) == 40
    Collection.open(tmp_path / "c").close()


def test_a_writer_can_wait_until_another_ends(tmp_path: Path) -> None:
    first = make(tmp_path / "c")
    began = time.monotonic()
    with pytest.raises(StorageError, match=rf"\(process {os.getpid()}\)"):
        Collection.open(tmp_path / "c", wait=0.2)
    assert 0.2 <= time.monotonic() - began < 2
    ending = threading.Timer(0.3, lambda: (first.add(some("last")), first.close()))
    ending.start()
    with Collection.open(tmp_path / "c", wait=30) as second:
        assert "last" in second
        second.add(some("next"))
    ending.join()


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    make(tmp_path / "c").close()
    reader = Collection.open(tmp_path / "c", read_only=True)
    for change in (
        lambda: reader.add(some("x")),
        lambda: reader.delete(["item-1"]),
        lambda: reader.compact(),
        lambda: reader.load(some("x")),
    ):
        with pytest.raises(StorageError, match="open it for writing"):
            change()


def test_readers_in_other_processes_follow_the_writer(tmp_path: Path) -> None:
    collection = make(tmp_path / "c")
    reader = Collection.open(tmp_path / "c", read_only=True)
    assert not reader.refresh()
    collection.add(some("new", version=2))
    assert "new" not in reader
    assert reader.refresh()
    assert content(reader) == content(collection)
    collection.compact()
    collection.delete(["item-3", "new"])
    assert reader.refresh()
    assert not reader.refresh()
    assert content(reader) == content(collection)
    rebuilt = tmp_path / "c"
    collection.close()
    with Collection.build(rebuilt, 7, [Item("only", np.ones(7))], "exact", {"model": "n"}):
        assert reader.refresh()
        assert (len(reader), reader.dimension, reader.config) == (1, 7, {"model": "n"})


def _follow(path: Path, stop: Any, problems: Any) -> None:
    reader = Collection.open(path, read_only=True)
    while not stop.is_set():
        reader.refresh()
        if len(reader) != 40 or len(reader.search(np.ones(4), 40)) != 40:
            problems.put(len(reader))


def test_a_reader_that_refreshes_all_the_time_never_sees_half_a_change(tmp_path: Path) -> None:
    collection = make(tmp_path / "c")
    spawn = multiprocessing.get_context("spawn")
    stop, problems = spawn.Event(), spawn.Queue()
    process = spawn.Process(target=_follow, args=(tmp_path / "c", stop, problems))
    process.start()
    for version in range(60):
        collection.add(some(*[f"item-{number}" for number in range(40)], version=version))
        if version % 5 == 0:
            collection.compact(everything=version % 2 == 0)
    stop.set()
    process.join(60)
    assert process.exitcode == 0
    assert problems.empty()


@pytest.mark.parametrize("cut", [1, 5, 20, 200])
def test_a_torn_end_of_the_journal_is_cut_and_what_was_before_kept(
    tmp_path: Path, cut: int
) -> None:
    collection = make(tmp_path / "c")
    before = content(collection)
    collection.add(some("last"))
    collection.close()
    journal = journal_of(tmp_path / "c")
    os.truncate(journal, journal.stat().st_size - min(cut, 120))
    assert content(Collection.open(tmp_path / "c", read_only=True)) == before
    with Collection.open(tmp_path / "c") as opened:
        assert content(opened) == before
        opened.add(some("next"))
    assert "next" in Collection.open(tmp_path / "c")


def test_zeros_or_rubbish_after_the_journal_are_cut(tmp_path: Path) -> None:
    make(tmp_path / "c").close()
    for rubbish in (bytes(5000), b"\xf5SQJ" * 9, os.urandom(3000)):
        with journal_of(tmp_path / "c").open("ab") as stream:
            stream.write(rubbish)
        with Collection.open(tmp_path / "c") as opened:
            assert len(opened) == 40


@pytest.mark.parametrize("place", [25, 60, 300])
def test_damage_in_the_middle_of_the_journal_is_an_error(tmp_path: Path, place: int) -> None:
    collection = make(tmp_path / "c")
    collection.add(some("last"))
    collection.close()
    journal = journal_of(tmp_path / "c")
    damaged = bytearray(journal.read_bytes())
    damaged[place] ^= 0xFF
    journal.write_bytes(damaged)
    for read_only in (True, False):
        with pytest.raises(ArtifactError, match=r"journal.*damaged.*restore a snapshot"):
            Collection.open(tmp_path / "c", read_only=read_only)
    assert journal.read_bytes() == bytes(damaged)


def test_a_thumbnail_that_is_a_journal_does_not_mislead(tmp_path: Path) -> None:
    with make(tmp_path / "other") as other:
        other.add(some("x"))
    inner = journal_of(tmp_path / "other").read_bytes()
    collection = make(tmp_path / "c")
    collection.add([Item("tricky", np.ones(4), {}, inner + b"end")])
    collection.close()
    journal = journal_of(tmp_path / "c")
    os.truncate(journal, journal.stat().st_size - 2)
    assert len(Collection.open(tmp_path / "c")) == 40


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *[(name, "nmslib") for name in ("vectors.npy", "ids.bin", "metadata_ends.npy")],
        *[(graph.file, backend) for backend, graph in GRAPHS.items()],
    ],
)
def test_a_missing_shortened_or_altered_file_is_named(
    tmp_path: Path, name: str, backend: Backend
) -> None:
    collection = make(tmp_path / "c", backend=backend)
    collection.compact()
    collection.close()
    (path,) = (tmp_path / "c" / "segments").glob(f"*/{name}")
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(ArtifactError, match=f"{name}: has .* bytes"):
        Collection.open(tmp_path / "c")
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(ArtifactError, match=f"{name}: was altered"):
        Collection.open(tmp_path / "c", verify=not name.startswith("index."))
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name}: is missing"):
        Collection.open(tmp_path / "c")
    path.write_bytes(good)
    Collection.open(tmp_path / "c", verify=True).close()


def test_the_manifest_is_that_of_an_artifact(tmp_path: Path) -> None:
    collection = make(tmp_path / "c")
    collection.compact()
    collection.delete(["item-0"])
    artifact = artifacts.load(str(tmp_path / "c"), "collection")
    assert artifact.config == {"model": "m"}
    assert any(name.endswith("index.nmslib") for name in artifact.files)


def test_leftovers_of_a_crash_are_removed_by_the_next_writer_only(tmp_path: Path) -> None:
    make(tmp_path / "c").close()
    leftovers = [
        tmp_path / "c" / name
        for name in (
            "segments/unnamed/vectors.npy",
            "tombstones/x.npy",
            "journal-00000099",
            ".manifest.json.partial",
        )
    ]
    for path in leftovers:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"rubbish")
    Collection.open(tmp_path / "c", read_only=True)
    assert all(path.exists() for path in leftovers)
    with Collection.open(tmp_path / "c") as opened:
        assert len(opened) == 40
    assert not any(path.exists() for path in leftovers)
    assert not (tmp_path / "c" / "segments" / "unnamed").exists()


def test_an_add_that_does_not_fit_on_the_disk_changes_nothing(tmp_path: Path) -> None:
    collection = make(tmp_path / "c")
    before, size = content(collection), journal_of(tmp_path / "c").stat().st_size
    with files_no_larger_than(size + 100):
        with pytest.raises(StorageError, match=str(tmp_path / "c")):
            collection.add(some("a", "b", "c", "d"))
    assert content(collection) == before
    assert journal_of(tmp_path / "c").stat().st_size == size
    collection.add(some("later"))
    collection.close()
    assert content(Collection.open(tmp_path / "c")).keys() == before.keys() | {"later"}


@pytest.mark.parametrize(
    ("size", "backend"),
    [*[(size, "nmslib") for size in (100, 700, 2000, 3000)], (3000, "symphonyqg")],
)
def test_a_disk_that_fills_during_compaction_leaves_the_earlier_state(
    tmp_path: Path, size: int, backend: Backend
) -> None:
    collection = make(tmp_path / "c", backend=backend)
    before = content(collection)
    with files_no_larger_than(size):
        with pytest.raises(StorageError, match=str(tmp_path / "c")):
            collection.compact()
    assert content(collection) == before
    assert list((tmp_path / "c" / "segments").iterdir()) == []
    collection.add(some("later"))
    assert collection.compact()
    collection.close()
    assert content(Collection.open(tmp_path / "c")).keys() == before.keys() | {"later"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a small disk")
def test_on_a_really_full_disk_the_message_says_so(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not allow mounting")
    try:
        collection = Collection.create(small / "c", 64, settings=SETTINGS)
        vectors = np.random.default_rng(0).standard_normal((2000, 64))
        for begin in range(0, 600, 100):
            batch = [Item(str(n), vectors[n]) for n in range(begin, begin + 100)]
            collection.add(batch)
        (small / "something else").write_bytes(bytes(150_000))
        for change in (
            lambda: collection.compact(),
            lambda: collection.load(Item(f"l{n}", v) for n, v in enumerate(vectors)),
            lambda: collection.add([Item(f"a{n}", v) for n, v in enumerate(vectors)]),
            lambda: collection.snapshot(small / "snapshot"),
        ):
            with pytest.raises(StorageError, match="the disk is full: free some space"):
                change()
            assert len(collection) == 600
        collection.delete(["0"])
        collection.close()
        with Collection.open(small / "c") as opened:
            assert len(opened) == 599
        assert sorted(path.name for path in small.iterdir()) == ["c", "something else"]
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_after_a_commit_that_failed_half_way_the_files_tell_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new manifest has its name already when the disk fails."""
    collection = make(tmp_path / "c")
    before = content(collection)
    replace = os.replace

    def replace_and_fail(*arguments: Any) -> None:
        replace(*arguments)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk.os, "replace", replace_and_fail)
    with pytest.raises(StorageError, match="Input/output error"):
        collection.compact()
    monkeypatch.undo()
    assert content(collection) == before
    collection.add(some("later"))
    after = content(collection)
    assert after.keys() == before.keys() | {"later"}
    collection.compact()
    collection.close()
    assert content(Collection.open(tmp_path / "c")) == after
    assert len(list((tmp_path / "c").glob("journal-*"))) == 1


def test_a_disk_that_cannot_even_undo_a_write_is_tried_again_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems notice only when data is synced that there is no space."""
    collection = make(tmp_path / "c")
    before = content(collection)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(3):
            with pytest.raises(StorageError, match="the disk is full"):
                collection.add(some("lost"))
            with pytest.raises(StorageError, match="the disk is full"):
                collection.delete([next(iter(before))])
            assert content(collection) == before
    collection.add(some("later"))
    collection.delete([next(iter(before))])
    after = content(collection)
    assert after.keys() == (before.keys() | {"later"}) - {next(iter(before))}
    collection.close()
    assert content(Collection.open(tmp_path / "c")) == after


def test_a_build_replaces_a_collection_whole_or_not_at_all(tmp_path: Path) -> None:
    make(tmp_path / "c").close()

    def broken_stream() -> Iterator[Item]:
        yield from some("x", "y")
        raise RuntimeError("the source ended early")

    for path in (tmp_path / "c", tmp_path / "new"):
        with pytest.raises(RuntimeError, match="ended early"):
            Collection.build(path, 4, broken_stream())
    assert len(Collection.open(tmp_path / "c")) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_stream_larger_than_a_segment_makes_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seqvis.collection import writer

    monkeypatch.setattr(writer, "SEGMENT_BYTES", 4 * 4 * 3000)
    with Collection.build(tmp_path / "c", 4, many(7000), "exact") as collection:
        assert collection.statistics()["segments"] == 3
        assert len(collection) == 7000
        assert journal_of(tmp_path / "c").stat().st_size < 100


@pytest.mark.parametrize("links", [True, False])
def test_a_snapshot_stays_what_it_was_and_is_checked_when_restored(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(disk.os, "link", _refuse)
    collection = make(tmp_path / "c")
    collection.compact()
    collection.delete(["item-1"])
    collection.compact()
    collection.add(some("tail"))
    before = content(collection)
    collection.snapshot(tmp_path / "s")
    collection.add(some("later", "item-2", version=3))
    collection.compact(everything=True)
    collection.close()
    with pytest.raises(ArtifactError, match="restore it"):
        Collection.open(tmp_path / "s")
    assert content(Collection.open(tmp_path / "s", read_only=True)) == before
    shutil.copytree(tmp_path / "s", tmp_path / "carried away")
    with Collection.restore(tmp_path / "carried away", tmp_path / "r") as restored:
        assert content(restored) == before
        restored.add(some("more"))
    Collection.restore(tmp_path / "carried away", tmp_path / "r2").close()
    with pytest.raises(ArtifactError, match="is there already"):
        Collection.restore(tmp_path / "s", tmp_path / "r")
    with journal_of(tmp_path / "s").open("rb+") as stream:
        stream.seek(30)
        stream.write(b"x")
    with pytest.raises(ArtifactError, match="was altered"):
        Collection.restore(tmp_path / "s", tmp_path / "r3")
    assert not (tmp_path / "r3").exists()


def _refuse(*_: Any) -> None:
    raise OSError(18, "Invalid cross-device link")


def test_a_collection_in_use_is_no_snapshot(tmp_path: Path) -> None:
    make(tmp_path / "c").close()
    with pytest.raises(ArtifactError, match="not a snapshot"):
        Collection.restore(tmp_path / "c", tmp_path / "r")


def test_a_reader_can_take_a_snapshot(tmp_path: Path) -> None:
    with make(tmp_path / "c") as collection:
        reader = Collection.open(tmp_path / "c", read_only=True)
        collection.add(some("new"))
        collection.compact()
        reader.snapshot(tmp_path / "s")
        with Collection.restore(tmp_path / "s", tmp_path / "r") as restored:
            assert content(restored) == content(collection)


def test_a_manifest_without_a_state_is_one_clear_error(tmp_path: Path) -> None:
    make(tmp_path / "c").close()
    path = tmp_path / "c" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["state"]["journal"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="does not describe a collection's state"):
        Collection.open(tmp_path / "c")
    journal_of(tmp_path / "c").unlink()
    manifest["state"]["journal"] = "journal-00000001"
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="journal-00000001: is missing"):
        Collection.open(tmp_path / "c")

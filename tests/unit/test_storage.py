"""Locations on a local disk, and on a file system that is none (pyarrow's in-memory mock)."""

import os
from pathlib import Path

import pytest
from pyarrow import fs

from seqvis.artifacts import MANIFEST, create, load
from seqvis.errors import ArtifactError, DataError, StorageError
from seqvis.storage import Location, locate, storage_errors


def test_a_path_and_its_uri_are_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "été.txt").write_text("œuf", encoding="utf-8")
    by_path, by_uri = locate(tmp_path / "été.txt"), locate(tmp_path.as_uri()) / "été.txt"
    assert by_path.read_bytes() == by_uri.read_bytes() == "œuf".encode()
    assert by_path.is_local
    assert by_uri.is_local
    assert by_path.size() == 4
    assert by_path.name == "été.txt"


def test_a_relative_path_and_a_tilde_are_understood(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("a/b").local_path() == tmp_path / "a" / "b"
    assert locate("~/b").local_path() == tmp_path / "b"
    assert locate("a/b").uri == "a/b"  # messages quote what the user wrote


@pytest.mark.parametrize("uri", ["ftq://bucket/file", "no-scheme://"])
def test_an_unknown_scheme_is_named(uri: str) -> None:
    with pytest.raises(DataError, match=uri):
        locate(uri)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    missing = locate(tmp_path / "corpus.fr")
    assert not missing.exists()
    for read in (missing.read_bytes, missing.size):
        with pytest.raises(DataError, match=r"corpus\.fr: no such file"):
            read()


def test_a_directory_is_listed_by_name(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.txt", "a.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")
    assert locate(tmp_path).files_below() == ["a.txt", "b/1.txt", "b/2.txt"]
    assert [child.name for child in locate(tmp_path).children()] == ["a.txt", "b"]
    assert locate(tmp_path / "nothing").files_below() == []
    assert locate(tmp_path).is_directory()


def test_deleting_takes_files_and_folders_and_minds_neither_missing(tmp_path: Path) -> None:
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"x")
    for name in ("folder", "file", "nothing"):
        locate(tmp_path / name).delete()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"^/dev/full: the disk is full: free some space"):
        locate("/dev/full").write_bytes(b"x" * 100_000)
    with pytest.raises(StorageError, match="weights: the disk is full"), storage_errors("weights"):
        raise OSError(28, os.strerror(28))


def test_other_errors_of_the_disk_keep_their_reason() -> None:
    with pytest.raises(StorageError, match="no permission"), storage_errors("weights"):
        raise PermissionError(13, "Permission denied")
    with pytest.raises(StorageError, match=r"cannot be written.*Input/output"):
        with storage_errors("weights"):
            raise OSError(5, "Input/output error")
    with pytest.raises(KeyError), storage_errors("weights"):
        raise KeyError("a defect stays a defect")


def test_a_file_in_the_way_of_a_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"x")
    with pytest.raises(StorageError, match="out"):
        (locate(tmp_path / "out") / "below").make_directory()


@pytest.fixture
def store() -> Location:
    filesystem = fs._MockFileSystem()
    filesystem.create_dir("bucket")
    return Location(filesystem, "bucket/corpus", "mock://bucket/corpus")


def test_an_object_store_is_not_local(store: Location) -> None:
    assert not store.is_local
    with pytest.raises(DataError, match="mock://bucket/corpus: this input must be on a local disk"):
        store.local_path()


def test_an_artifact_in_an_object_store_is_written_and_copied_back(
    store: Location, tmp_path: Path
) -> None:
    with create(store, "corpus", {}) as writer:
        with writer.local_file("train/part-00000.parquet") as path:
            path.write_bytes(b"rows")
        assert not (store / MANIFEST).exists()
    artifact = load(store, "corpus")
    folder = artifact.local_copy(tmp_path / "copy")
    assert (folder / "train" / "part-00000.parquet").read_bytes() == b"rows"
    assert load(str(folder), "corpus").fingerprint() == artifact.fingerprint()


def test_a_broken_rewrite_in_an_object_store_is_never_mistaken_for_an_artifact(
    store: Location,
) -> None:
    with create(store, "corpus", {}) as writer:
        writer.path("a").write_bytes(b"old")

    def fail_half_way() -> None:
        with create(store, "corpus", {}) as writer:
            writer.path("a").write_bytes(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    with pytest.raises(ArtifactError):
        load(store, "corpus")

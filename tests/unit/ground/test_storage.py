"""Locations on a local disk, and on a file system that is none (pyarrow's in-memory mock)."""

import json
import os
from pathlib import Path

import pytest
from pyarrow import fs

from seqvis.artifacts import MANIFEST, ArtifactWriter, create, load
from seqvis.errors import ArtifactError, DataError, StorageError
from seqvis.storage import Location, local_path, locate, storage_errors


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
    assert local_path("a/b") == tmp_path / "a" / "b"
    assert local_path("~/b") == tmp_path / "b"
    assert local_path(tmp_path.as_uri()) == tmp_path
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
    with pytest.raises(DataError, match="s3://bucket/collection: must be on a local disk"):
        local_path("s3://bucket/collection")


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


def test_a_broken_rewrite_in_an_object_store_leaves_the_artifact_before_whole(
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
    assert load(store, "corpus").file("a").read_bytes() == b"old"
    assert len(store.files_below()) == 2, "the broken one is gone"


def test_what_a_killed_job_left_in_an_object_store_is_replaced(store: Location) -> None:
    """A kill runs no `finally`: half of the files stand there, and no manifest."""
    killed = ArtifactWriter(store, "corpus", {})
    killed.path("train/part").write_bytes(b"half")
    with pytest.raises(ArtifactError, match="holds no manifest"):
        load(store, "corpus")
    with create(store, "corpus", {}) as writer:
        writer.path("a").write_bytes(b"new")
    assert set(load(store, "corpus").files) == {"a"}
    assert len(store.files_below()) == 2, "the killed one's files are gone"


def test_an_artifact_copied_to_an_object_store_as_it_is_is_read_and_replaced(
    store: Location,
) -> None:
    with create(store, "corpus", {}) as writer:
        writer.path("a").write_bytes(b"old")
    manifest = json.loads((store / MANIFEST).read_bytes())
    folder = manifest.pop("folder")
    (store / "a").write_bytes((store / folder / "a").read_bytes())
    (store / folder).delete()
    (store / MANIFEST).write_bytes(json.dumps(manifest).encode())
    assert load(store, "corpus").file("a").read_bytes() == b"old"
    with create(store, "corpus", {}) as writer:
        writer.path("b").write_bytes(b"new")
    assert set(load(store, "corpus").files) == {"b"}
    assert not (store / "a").exists()


def test_a_manifest_that_names_a_folder_elsewhere_is_distrusted(store: Location) -> None:
    with create(store, "corpus", {}) as writer:
        writer.path("a").write_bytes(b"x")
    manifest = json.loads((store / MANIFEST).read_bytes())
    (store / MANIFEST).write_bytes(json.dumps(manifest | {"folder": "../other"}).encode())
    with pytest.raises(ArtifactError, match="do not trust it"):
        load(store, "corpus")


def test_the_query_of_a_uri_stays_at_its_end(store: Location) -> None:
    place = Location(store.filesystem, "bucket/out", "s3://bucket/out?region=eu-west-1")
    assert (place / "manifest.json").uri == "s3://bucket/out/manifest.json?region=eu-west-1"
    assert place.beside(".run").uri == "s3://bucket/out.run?region=eu-west-1"
    assert place.parent().uri == "s3://bucket?region=eu-west-1"
    assert place.parent().path == "bucket"
    strange = Location(fs.LocalFileSystem(), "/a/what?", "/a/what?")
    assert (strange / "b").uri == "/a/what?/b", "in a path a question mark is a letter"

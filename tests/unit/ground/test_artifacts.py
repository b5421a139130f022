"""Artifacts: whole or not at all, and nothing is loaded that is not what it says it is."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from seqvis.artifacts import MANIFEST, create, load
from seqvis.errors import ArtifactError, StorageError
from seqvis.storage import locate


def make(folder: Path, content: bytes = b"old", kind: str = "corpus") -> None:
    with create(str(folder), kind, {"source_lang": "fr"}) as writer:
        writer.path("train/part-00000.parquet").write_bytes(content)
        writer.write_json("report.json", {"kept": 3, "word": "sœur"})
        writer.metrics["train_pairs"] = 3


def content(folder: Path) -> bytes:
    return load(str(folder), "corpus").file("train/part-00000.parquet").read_bytes()


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run_and_die(tmp_path: Path, body: str) -> subprocess.Popen[str]:
    """Runs `body` in a process of its own, with `make` at hand; returns it when it has ended."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    code += "import os, signal, time\nfrom pathlib import Path\nfrom test_artifacts import *\n"
    code += f"folder = Path({str(tmp_path)!r}) / 'corpus'\n" + textwrap.dedent(body)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    process.wait(timeout=60)
    return process


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    make(tmp_path / "corpus", b"rows")
    artifact = load(str(tmp_path / "corpus"), "corpus")
    assert artifact.config == {"source_lang": "fr"}
    assert artifact.metrics == {"train_pairs": 3}
    assert json.loads(artifact.file("report.json").read_bytes())["word"] == "sœur"
    assert artifact.names_below("train") == ["train/part-00000.parquet"]
    assert content(tmp_path / "corpus") == b"rows"


def test_the_manifest_has_the_size_and_sha256_of_every_file(tmp_path: Path) -> None:
    make(tmp_path / "corpus", b"rows")
    entry = json.loads((tmp_path / "corpus" / MANIFEST).read_text())["files"]
    assert set(entry) == {"train/part-00000.parquet", "report.json"}
    for name, described in entry.items():
        path = tmp_path / "corpus" / name
        command = ["sha256sum", str(path)]
        reference = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert described["sha256"] == reference.split()[0]
        assert described["size"] == path.stat().st_size


def test_equal_content_has_an_equal_fingerprint(tmp_path: Path) -> None:
    for name, rows in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        make(tmp_path / name, rows)
    first, second, third = (
        load(str(tmp_path / name), "corpus").fingerprint() for name in ("a", "b", "c")
    )
    assert first == second != third


def test_nothing_is_seen_until_it_is_complete(tmp_path: Path) -> None:
    with create(str(tmp_path / "corpus"), "corpus", {}) as writer:
        writer.path("a").write_bytes(b"x")
        assert not (tmp_path / "corpus").exists()
    assert everything_in(tmp_path) == ["corpus"]


def test_a_failure_leaves_the_old_one_and_no_litter(tmp_path: Path) -> None:
    make(tmp_path / "corpus")

    def fail_half_way() -> None:
        with create(str(tmp_path / "corpus"), "corpus", {}) as writer:
            writer.path("train/part-00000.parquet").write_bytes(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert content(tmp_path / "corpus") == b"old"
    assert everything_in(tmp_path) == ["corpus"]


def test_a_new_one_of_the_same_kind_replaces_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "corpus")
    (tmp_path / "corpus" / "note.txt").write_text("of the old one")
    make(tmp_path / "corpus", b"new")
    assert content(tmp_path / "corpus") == b"new"
    assert everything_in(tmp_path) == ["corpus"]
    assert not (tmp_path / "corpus" / "note.txt").exists()


def test_kill_9_before_the_end_leaves_the_old_one(tmp_path: Path) -> None:
    make(tmp_path / "corpus")
    process = run_and_die(
        tmp_path,
        """
        with create(str(folder), "corpus", {}) as writer:
            writer.path("train/part-00000.parquet").write_bytes(b"new")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    assert process.returncode == -signal.SIGKILL
    assert content(tmp_path / "corpus") == b"old"
    make(tmp_path / "corpus", b"new")  # what the killed one left behind is in nobody's way
    assert content(tmp_path / "corpus") == b"new"


@pytest.mark.parametrize("call", [1, 2, 3])
def test_kill_9_around_any_rename_leaves_a_whole_one(tmp_path: Path, call: int) -> None:
    """The process dies before the call-th time it renames, exchanges or deletes a directory."""
    make(tmp_path / "corpus")
    process = run_and_die(
        tmp_path,
        f"""
        import shutil, seqvis.artifacts as artifacts
        calls = 0
        def deadly(function):
            def wrapped(*arguments, **keywords):
                global calls
                calls += 1
                if calls == {call}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **keywords)
            return wrapped
        os.rename, shutil.rmtree = deadly(os.rename), deadly(shutil.rmtree)
        artifacts._exchange = deadly(artifacts._exchange)
        make(folder, b"new")
        """,
    )
    assert process.returncode in (-signal.SIGKILL, 0)
    assert content(tmp_path / "corpus") in (b"old", b"new")


def test_without_an_atomic_exchange_two_renames_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("seqvis.artifacts._exchange", lambda first, second: False)
    make(tmp_path / "corpus")
    make(tmp_path / "corpus", b"new")
    assert content(tmp_path / "corpus") == b"new"
    assert everything_in(tmp_path) == ["corpus"]


def test_a_missing_one_names_the_job_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"nowhere: no such corpus.*seqvis prepare-corpus"):
        load(str(tmp_path / "nowhere"), "corpus")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ArtifactError, match=f"photos: holds no {MANIFEST}"):
        load(str(tmp_path / "photos"), "corpus")


def test_the_wrong_kind_is_named(tmp_path: Path) -> None:
    make(tmp_path / "x", kind="vectors")
    with pytest.raises(ArtifactError, match="is a vectors, but a corpus is needed"):
        load(str(tmp_path / "x"), "corpus")


def test_an_altered_file_is_named_although_its_size_is_right(tmp_path: Path) -> None:
    make(tmp_path / "corpus", b"old")
    (tmp_path / "corpus" / "train" / "part-00000.parquet").write_bytes(b"odd")
    with pytest.raises(ArtifactError, match=r"train/part-00000\.parquet: was altered.*make it"):
        load(str(tmp_path / "corpus"), "corpus")
    load(str(tmp_path / "corpus"), "corpus", verify=False)  # sizes only: said in its docstring


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_file_is_named_with_both_sizes(tmp_path: Path, verify: bool) -> None:
    make(tmp_path / "corpus", b"x" * 1000)
    os.truncate(tmp_path / "corpus" / "train" / "part-00000.parquet", 123)
    with pytest.raises(ArtifactError, match=r"part-00000\.parquet: has 123 bytes.* 1000"):
        load(str(tmp_path / "corpus"), "corpus", verify=verify)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    make(tmp_path / "corpus")
    (tmp_path / "corpus" / "report.json").unlink()
    with pytest.raises(ArtifactError, match=r"report\.json: is missing"):
        load(str(tmp_path / "corpus"), "corpus")


def test_a_file_that_never_was_in_it_is_named(tmp_path: Path) -> None:
    make(tmp_path / "corpus")
    with pytest.raises(ArtifactError, match=r"holds no source\.vocab"):
        load(str(tmp_path / "corpus"), "corpus").file("source.vocab")


def rewrite_manifest(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_a_newer_version_asks_for_an_upgrade(tmp_path: Path) -> None:
    make(tmp_path / "corpus")
    rewrite_manifest(tmp_path / "corpus", format_version=99)
    with pytest.raises(ArtifactError, match=r"format version 99.*upgrade seqvis"):
        load(str(tmp_path / "corpus"), "corpus")


@pytest.mark.parametrize("text", ["", '{"kind": "corp', "[1, 2]", "\x00\x01"])
def test_a_manifest_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    make(tmp_path / "corpus")
    (tmp_path / "corpus" / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError, match=MANIFEST):
        load(str(tmp_path / "corpus"), "corpus")


@pytest.mark.parametrize("where", ["../secret.txt", "train/../../secret.txt", "{absolute}"])
def test_a_stranger_s_manifest_cannot_reach_out_of_its_folder(tmp_path: Path, where: str) -> None:
    make(tmp_path / "corpus")
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"secret")
    described = {"size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    name = where.format(absolute=secret)
    rewrite_manifest(tmp_path / "corpus", files={name: described})
    with pytest.raises(ArtifactError, match="outside its directory"):
        load(str(tmp_path / "corpus"), "corpus")


@pytest.mark.parametrize(
    "change",
    [
        {"files": ["report.json"]},
        {"files": {"report.json": {"size": 1}}},
        {"files": {"report.json": None}},
        {"config": None},
        {"metrics": 3},
    ],
)
def test_a_manifest_with_a_broken_entry_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    make(tmp_path / "corpus")
    rewrite_manifest(tmp_path / "corpus", **change)
    with pytest.raises(ArtifactError, match=MANIFEST):
        load(str(tmp_path / "corpus"), "corpus")


def test_other_kinds_and_foreign_folders_are_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "vectors", kind="vectors")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    (tmp_path / "file").write_bytes(b"text")
    for name, reason in (("vectors", "a vectors"), ("photos", "not empty"), ("file", "a file")):
        with pytest.raises(ArtifactError, match=reason):
            make(tmp_path / name)
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"cat"
    assert (tmp_path / "file").read_bytes() == b"text"
    load(str(tmp_path / "vectors"), "vectors")
    assert everything_in(tmp_path) == ["file", "photos", "vectors"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    make(tmp_path / "corpus", b"new")
    assert content(tmp_path / "corpus") == b"new"


def test_a_full_disk_is_one_clear_error_and_the_old_one_stands(tmp_path: Path) -> None:
    make(tmp_path / "corpus")

    def write_too_much() -> None:
        with create(str(tmp_path / "corpus"), "corpus", {}) as writer:
            location = writer.path("weights.safetensors")
            os.symlink("/dev/full", location.path)  # the kernel's own full disk
            location.write_bytes(b"x" * 100_000)

    with pytest.raises(StorageError, match="disk is full: free some space"):
        write_too_much()
    assert content(tmp_path / "corpus") == b"old"
    assert everything_in(tmp_path) == ["corpus"]


def test_a_limit_on_file_size_is_a_storage_error_too(tmp_path: Path) -> None:
    process = run_and_die(
        tmp_path,
        """
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            make(folder, b"x" * 100_000)
        except StorageError as error:
            sys.exit(str(error))
        """,
    )
    assert process.stderr is not None
    assert str(tmp_path / ".corpus") in (message := process.stderr.read())
    assert "cannot be written" in message
    assert process.returncode == 1
    assert everything_in(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="no permission"):
        make(tmp_path / "corpus")
    tmp_path.chmod(0o700)


def test_an_artifact_is_found_by_uri_and_by_path(tmp_path: Path) -> None:
    make(tmp_path / "corpus", b"rows")
    for name in (str(tmp_path / "corpus"), (tmp_path / "corpus").as_uri()):
        assert load(locate(name), "corpus").local_copy(tmp_path / "unused") == tmp_path / "corpus"

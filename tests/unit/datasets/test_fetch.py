"""Data sets: what each becomes, resuming, damaged archives, places that are taken."""

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from jobs import fetch_data
from seqvis.datasets.fetch import (
    Dataset,
    Options,
    RemoteFile,
    fetch_dataset,
    read_catalogue,
    unpack,
)
from seqvis.errors import DataError
from tests.support.site import CONTENT, HURRY, Site

# --- data sets --------------------------------------------------------------------------------

PAIRS = {"fr": "Où ?\nLà !\n".encode(), "en": b"Where?\nThere!\n"}


def packed_tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def packed_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def publish(site: Site) -> None:
    """Small data sets of the published form at the published paths."""
    task1 = "/multi30k/dataset/master/data/task1/raw"
    giga = "giga-fren.release2.fixed"
    site.files |= {
        "/OPUS-Tatoeba/v2023-04-12/moses/en-fr.txt.zip": packed_zip(
            {f"Tatoeba.en-fr.{side}": text for side, text in PAIRS.items()} | {"README": b"x"}
        ),
        "/wmt10/training-giga-fren.tar": packed_tar(
            {f"{giga}.{side}.gz": gzip.compress(text) for side, text in PAIRS.items()}
        ),
        "/fasttext/vectors-wiki/wiki.fr.zip": packed_zip(
            {"wiki.fr.bin": b"bin", "wiki.fr.vec": b"vec"}
        ),
        "/fasttext/vectors-wiki/wiki.en.zip": packed_zip(
            {"wiki.en.bin": b"bin", "wiki.en.vec": b"vec"}
        ),
        "/models/imagenet_class_index.json": b"{}",
        "/data/classids.txt": b"n01440764 tench\n",
        "/fast-ai-imageclas/imagenette2-320.tgz": packed_tar(
            {"imagenette2-320/train/n01440764/a.JPEG": b"jpeg", "imagenette2-320/val/b": b""},
            "w:gz",
        ),
        **{
            f"{task1}/{split}.{side}.gz": gzip.compress(PAIRS[side])
            for split in ("train", "val")
            for side in PAIRS
        },
    }


Job = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def job(site: Site, capsys: pytest.CaptureFixture[str]) -> Job:
    """Runs the job against the server and returns its exit code, result and error text."""

    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        code = fetch_data.main([str(part) for part in (*arguments, "--base-url", site.url)])
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        return code, json.loads(lines[-1]) if lines else {}, captured.err

    return run


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("giga-fren", {"train.fr", "train.en"}),
        ("tatoeba", {"train.fr", "train.en"}),
        ("multi30k", {"train.fr", "train.en", "val.fr", "val.en"}),
        ("fasttext-wiki-en", {"wiki.en.bin", "wiki.en.vec"}),
        ("fasttext-wiki-fr", {"wiki.fr.bin", "wiki.fr.vec"}),
        ("imagenet-classes", {"imagenet_class_index.json", "classids.txt"}),
        ("imagenette", {"train/n01440764/a.JPEG", "val/b"}),
    ],
)
def test_each_data_set_arrives_in_its_form_and_a_rerun_does_nothing(
    name: str, expected: set[str], site: Site, tmp_path: Path, job: Job
) -> None:
    publish(site)
    arguments = ["--dataset", name, "--out", tmp_path / "out", "--no-verify"]
    code, result, errors = job(*arguments)
    assert code == 0, errors
    out = tmp_path / "out"
    files = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert files == expected | {"fetched.json"}
    assert result["files"] == len(expected)
    assert result["bytes"] > 0
    if "train.fr" in expected:
        assert (out / "train.fr").read_bytes() == PAIRS["fr"]
        assert (out / "train.en").read_bytes() == PAIRS["en"]
    site.requests.clear()
    code, result, _ = job(*arguments)
    assert (code, result["bytes"], site.requests) == (0, 0, [])
    (out / sorted(expected)[0]).unlink()
    code, result, _ = job(*arguments)
    assert code == 0
    assert (out / sorted(expected)[0]).exists()


def test_the_jobs_choices_are_the_data_sets_there_are() -> None:
    assert set(get_args(fetch_data.Name)) == set(read_catalogue())


def test_the_job_resumes_a_data_set_that_broke_off(site: Site, tmp_path: Path, job: Job) -> None:
    path = "/OPUS-Tatoeba/v2023-04-12/moses/en-fr.txt.zip"
    text = {"fr": os.urandom(300_000), "en": os.urandom(300_000)}
    site.files[path] = packed_zip({f"Tatoeba.en-fr.{side}": text[side] for side in text})
    site.tags[path], site.cuts = '"one"', [250_000]
    code, result, _ = job("--dataset", "tatoeba", "--out", tmp_path / "out")
    assert (code, result["files"], result["resumed_bytes"]) == (0, 2, 250_000)
    assert (tmp_path / "out/train.fr").read_bytes() == text["fr"]


def test_a_wrong_checksum_leaves_no_data_behind(site: Site, tmp_path: Path, job: Job) -> None:
    publish(site)
    code, _, errors = job("--dataset", "multi30k", "--out", tmp_path / "out")
    assert code == 1
    assert "train.fr.gz: has md5" in errors
    assert not (tmp_path / "out/train.fr").exists()


def test_an_archive_that_is_damaged_or_lacks_a_member_says_so(
    site: Site, tmp_path: Path, job: Job
) -> None:
    path = "/OPUS-Tatoeba/v2023-04-12/moses/en-fr.txt.zip"
    arguments = ["--dataset", "tatoeba", "--out", tmp_path / "out"]
    site.files[path] = b"not a zip"
    code, _, errors = job(*arguments)
    assert code == 1
    assert "en-fr.txt.zip: cannot be unpacked" in errors
    site.files[path] = packed_zip({"other": b""})
    code, _, errors = job(*arguments)
    assert code == 1
    assert "lacks" in errors
    publish(site)
    assert job(*arguments)[0] == 0


def test_a_folder_with_other_things_in_it_is_left_alone(
    site: Site, tmp_path: Path, job: Job
) -> None:
    publish(site)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train.fr").write_text("mine")
    code, _, errors = job("--dataset", "tatoeba", "--out", tmp_path / "out")
    assert code == 2
    assert "is not empty" in errors
    assert (tmp_path / "out/train.fr").read_text() == "mine"
    assert job("--dataset", "tatoeba", "--out", tmp_path / "new")[0] == 0
    code, _, errors = job("--dataset", "multi30k", "--out", tmp_path / "new", "--no-verify")
    assert code == 1
    assert "holds the data set tatoeba" in errors


@pytest.mark.parametrize("name", ["../escaped", "../../escaped", "top/link"])
def test_an_archive_cannot_write_outside_its_folder(name: str, tmp_path: Path) -> None:
    entry = tarfile.TarInfo(name)
    if name == "top/link":
        entry.type, entry.linkname = tarfile.SYMTYPE, str(tmp_path / "escaped")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        archive.addfile(entry, io.BytesIO())
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"evil\.tar: cannot be unpacked"):
        unpack(tmp_path / "evil.tar", "tar", {}, tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_an_absolute_name_in_an_archive_stays_below_the_folder(tmp_path: Path) -> None:
    content = packed_tar({f"{tmp_path}/escaped": b"x"})
    (tmp_path / "odd.tar").write_bytes(content)
    written = unpack(tmp_path / "odd.tar", "tar", {}, tmp_path / "out")
    assert not (tmp_path / "escaped").exists()
    assert all((tmp_path / "out" / path).is_file() for path in written)


def test_two_runs_into_one_folder_do_not_mix(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.slow = CONTENT, True
    dataset = Dataset((RemoteFile("http://example.org/big"),), "test")
    options = Options(site.url, patience=HURRY)
    first = threading.Thread(
        target=fetch_dataset, args=("x", dataset, tmp_path / "out", options), daemon=True
    )
    first.start()
    while not site.requests:
        time.sleep(0.01)
    with pytest.raises(DataError, match="another fetch_data"):
        fetch_dataset("x", dataset, tmp_path / "out", options)
    site.slow = False
    first.join(30)
    assert (tmp_path / "out/big").read_bytes() == CONTENT


def test_a_job_that_is_killed_goes_on_when_it_is_run_again(site: Site, tmp_path: Path) -> None:
    path = "/OPUS-Tatoeba/v2023-04-12/moses/en-fr.txt.zip"
    text = {"fr": os.urandom(1_000_000), "en": os.urandom(1_000_000)}
    site.files[path] = packed_zip({f"Tatoeba.en-fr.{side}": text[side] for side in text})
    site.tags[path], site.slow = '"one"', True
    command = [sys.executable, "-m", "jobs.fetch_data", "--dataset", "tatoeba"]
    command += ["--out", str(tmp_path / "out"), "--base-url", site.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "out/.downloads/en-fr.txt.zip.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143, errors
    assert "the same command goes on" in errors
    site.slow = False
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout)["resumed_bytes"] > 0
    assert (tmp_path / "out/train.en").read_bytes() == text["en"]

"""Fetching data sets from a server on this machine that behaves as badly as real ones do."""

import gzip
import hashlib
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import pytest

from jobs import fetch_data
from seqvis.datasets import download as downloading
from seqvis.datasets.download import Patience, download
from seqvis.datasets.fetch import (
    Dataset,
    Options,
    RemoteFile,
    fetch_dataset,
    read_catalogue,
    unpack,
)
from seqvis.errors import DataError, StorageError

HURRY = Patience(attempts=3, first_wait=0.01, longest_wait=0.02, timeout=5)
CONTENT = os.urandom(3_000_000)


@dataclass
class Site:
    """What the server serves, how it misbehaves, and what was asked of it."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # path -> ETag
    cuts: list[int] = field(default_factory=list)  # the next answers end after so many bytes
    states: list[int] = field(default_factory=list)  # the next answers have these states
    ranges: bool = True
    chunked: bool = False
    slow: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


def make_handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            span = self.headers.get("Range")
            site.asked.append((self.path, span))
            state = site.states.pop(0) if site.states else 200
            content = site.files.get(self.path)
            if state != 200 or content is None:
                self.send_error(state if state != 200 else 404)
                return
            begin = int(span[6:-1]) if span and site.ranges else 0
            tag = site.tags.get(self.path, "")
            if self.headers.get("If-Range", tag) != tag:
                begin = 0
            if begin and begin >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            if begin:
                last = f"{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", f"bytes {begin}-{last}")
            if tag:
                self.send_header("ETag", tag)
            self.answer(content[begin:])

        def answer(self, body: bytes) -> None:
            sent = body[: site.cuts.pop(0)] if site.cuts else body
            self.close_connection = True
            if site.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(sent), sent))
                if len(sent) == len(body):
                    self.wfile.write(b"0\r\n\r\n")
                return
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            step = 20_000 if site.slow else len(sent) or 1
            for begin in range(0, len(sent), step):
                self.wfile.write(sent[begin : begin + step])
                time.sleep(0.05 if site.slow else 0)

    return Handler


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), make_handler(site))
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def get(site: Site, target: Path, **options: Any) -> downloading.Transfer:
    return download(f"{site.url}/big", target, patience=HURRY, **options)


def test_a_transfer_that_breaks_off_mid_file_goes_on_where_it_stopped(
    site: Site, tmp_path: Path
) -> None:
    site.files["/big"], site.tags["/big"] = CONTENT, '"one"'
    site.cuts = [1_000_000, 500_000]
    transfer = get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert [span for _, span in site.asked] == [None, "bytes=1000000-", "bytes=1500000-"]
    assert transfer.fetched == len(CONTENT)
    assert transfer.resumed == 1_500_000
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


def test_a_second_run_goes_on_from_the_first_ones_part(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.tags["/big"] = CONTENT, '"one"'
    site.cuts, site.states = [1_000_000], [200, 503, 503, 503]
    with pytest.raises(DataError, match=r"big: cannot be fetched .*503.* 1,000,000 bytes"):
        get(site, tmp_path / "big")
    assert not (tmp_path / "big").exists()
    transfer = get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert (transfer.fetched, transfer.resumed) == (2_000_000, 1_000_000)


@pytest.mark.parametrize("tagged", [True, False])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    tagged: bool, site: Site, tmp_path: Path
) -> None:
    site.files["/big"], site.tags["/big"] = CONTENT, '"one"' if tagged else ""
    site.cuts, site.states = [1_000_000], [200, 503, 503, 503]
    with pytest.raises(DataError):
        get(site, tmp_path / "big")
    changed = CONTENT[::-1] if tagged else CONTENT[::-1] + b"longer"  # the tag alone must do
    site.files["/big"], site.tags["/big"] = changed, '"two"' if tagged else ""
    get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == changed


def test_a_file_that_shrank_meanwhile_is_fetched_from_its_start(site: Site, tmp_path: Path) -> None:
    site.files["/big"] = CONTENT
    site.cuts, site.states = [1_000_000], [200, 503, 503, 503]
    with pytest.raises(DataError):
        get(site, tmp_path / "big")
    site.files["/big"] = b"short"
    get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == b"short"


def test_a_server_without_ranges_starts_again_and_never_doubles_bytes(
    site: Site, tmp_path: Path
) -> None:
    site.files["/big"], site.tags["/big"], site.ranges = CONTENT, '"one"', False
    site.cuts = [1_000_000]
    transfer = get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT
    assert (transfer.fetched, transfer.resumed) == (4_000_000, 0)


def test_a_server_that_never_gets_further_is_given_up(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.ranges, site.cuts = CONTENT, False, [1000] * 50
    with pytest.raises(DataError, match="ended after 1,000 of 3,000,000 bytes"):
        get(site, tmp_path / "big")
    assert len(site.asked) <= 4


def test_a_broken_transfer_of_unknown_length_is_noticed(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.tags["/big"], site.chunked = CONTENT, '"one"', True
    site.cuts = [1_000_000]
    get(site, tmp_path / "big")
    assert (tmp_path / "big").read_bytes() == CONTENT


def test_errors_that_pass_are_waited_for_and_others_are_not(site: Site, tmp_path: Path) -> None:
    site.files["/big"], site.states = CONTENT, [500, 429]
    get(site, tmp_path / "big")
    assert len(site.asked) == 3
    site.asked.clear()
    with pytest.raises(DataError, match="/gone: the server answers 404"):
        download(f"{site.url}/gone", tmp_path / "gone", patience=HURRY)
    assert len(site.asked) == 1


@pytest.mark.parametrize("method", ["md5", "sha256"])
def test_a_published_checksum_is_compared(method: str, site: Site, tmp_path: Path) -> None:
    site.files["/big"] = CONTENT
    right = f"{method}:{hashlib.new(method, CONTENT).hexdigest()}"
    with pytest.raises(DataError, match=rf"/big: has {method} .* was published"):
        get(site, tmp_path / "big", checksum=right[:-1] + ("0" if right[-1] != "0" else "1"))
    assert list(tmp_path.iterdir()) == []  # what is wrong is not kept to go on from
    get(site, tmp_path / "big", checksum=right)
    assert (tmp_path / "big").stat().st_size == len(CONTENT)


def test_a_published_size_is_compared_before_gigabytes_are_fetched(
    site: Site, tmp_path: Path
) -> None:
    site.files["/big"] = CONTENT
    with pytest.raises(DataError, match="is 3,000,000 bytes, but 5 were published"):
        get(site, tmp_path / "big", size=5)
    assert not (tmp_path / "big").exists()


def test_without_a_connection_one_error_names_the_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(Patience, "wait", lambda self, failures, asked_for: None)
    code = fetch_data.main(
        ["--dataset", "tatoeba", "--out", str(tmp_path / "x"), "--base-url", "http://127.0.0.1:9"]
    )
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert code == 1
    assert len(lines) == 1
    assert "http://127.0.0.1:9/OPUS-Tatoeba" in lines[0]
    assert "check the network" in lines[0]


def test_a_full_disk_is_said_before_and_while_writing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.files["/big"] = CONTENT
    usage = downloading.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(downloading.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(StorageError, match=r"needs 3,000,000 bytes .* has 1,000"):
            get(site, tmp_path / "big")
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    (tmp_path / "big.part").symlink_to("/dev/full")
    (tmp_path / "big.part.json").unlink(missing_ok=True)
    monkeypatch.setattr(downloading._Download, "_write_notes", lambda self, version: None)
    with pytest.raises(StorageError, match="the disk is full"):
        get(site, tmp_path / "big")


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
    site.asked.clear()
    code, result, _ = job(*arguments)
    assert (code, result["bytes"], site.asked) == (0, 0, [])
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
    while not site.asked:
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

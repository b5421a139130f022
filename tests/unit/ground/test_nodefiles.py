"""What all processes of a node map is made once, whole, or not at all."""

import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from seqvis.errors import StorageError
from seqvis.nodefiles import made_once

KILLED = """
import sys, time
from seqvis.nodefiles import made_once

def write(folder):
    (folder / "content").write_text("ha")
    print("half", flush=True)
    time.sleep(60)

made_once("data-1", 4, write)
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def write_whole(folder: Path) -> None:
    (folder / "content").write_text("half and the rest")


def refuse(folder: Path) -> None:
    raise AssertionError("is there already")


def test_of_many_that_ask_at_once_one_writes_and_the_others_wait() -> None:
    written, contents = [], []
    ready = threading.Barrier(4)

    def write(folder: Path) -> None:
        written.append(folder)
        threading.Event().wait(0.1)
        write_whole(folder)

    def ask() -> None:
        ready.wait()
        contents.append((made_once("data-1", 4, write) / "content").read_text())

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(written) == 1
    assert contents == ["half and the rest"] * 4


def test_what_a_killed_process_left_is_made_anew(scratch: Path) -> None:
    command = [sys.executable, "-c", KILLED]
    environment = {"TMPDIR": str(scratch), "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    folder = made_once("data-1", 4, write_whole)
    assert (folder / "content").read_text() == "half and the rest"
    assert made_once("data-1", 4, refuse) == folder


@pytest.mark.parametrize("tidied", ["content", "sizes.json"])
def test_what_was_tidied_away_is_made_anew(tidied: str) -> None:
    (made_once("data-1", 4, write_whole) / tidied).unlink()
    assert (made_once("data-1", 4, write_whole) / "content").exists()


def test_a_full_disk_is_said_before_and_while_it_is_written(scratch: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "content").write_text("half")
        Path("/dev/full").write_text("the rest")

    for size, write in ((10**18, refuse), (4, fill)):
        with pytest.raises(StorageError) as caught:
            made_once("data-1", size, write)
        for part in (f"{scratch}/seqvis-", "/data-1: needs", "free; delete folders", "set TMPDIR"):
            assert part in str(caught.value)
        assert not list(scratch.rglob("content")), "nothing of it stays on the full disk"

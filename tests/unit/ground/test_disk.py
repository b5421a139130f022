"""What is said to be on the disk is there, on Linux and on macOS."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seqvis.disk import replace_synced

FULL = 51  # F_FULLFSYNC of macOS


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls that sync a file."""
    calls: list[str] = []
    fsync = os.fsync

    def usual(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", usual)
    return calls


def macos(
    monkeypatch: pytest.MonkeyPatch, calls: list[str], fail: Callable[[], None] = lambda: None
) -> None:
    def control(descriptor: int, command: int) -> None:
        assert command == FULL
        calls.append("F_FULLFSYNC")
        fail()

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)


def test_linux_syncs_by_fsync(synced: list[str], tmp_path: Path) -> None:
    replace_synced(tmp_path / "file", b"x")
    assert synced == ["fsync"] * 3  # the file, its folder, the folder after the renaming


def test_macos_waits_until_the_disk_has_emptied_its_cache(
    synced: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    macos(monkeypatch, synced)
    replace_synced(tmp_path / "file", b"x")
    assert synced == ["F_FULLFSYNC"] * 3


def test_a_disk_that_cannot_do_so_is_synced_as_usual(
    synced: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown() -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    macos(monkeypatch, synced, unknown)
    replace_synced(tmp_path / "file", b"x")
    assert synced == ["F_FULLFSYNC", "fsync"] * 3


def test_an_error_of_the_disk_is_not_passed_over(
    synced: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError(errno.EIO, "input/output error")

    macos(monkeypatch, synced, broken)
    with pytest.raises(OSError, match="input/output"):
        replace_synced(tmp_path / "file", b"x")


def test_no_other_code_syncs() -> None:
    root = Path(__file__).parents[3]
    syncing = [
        path.relative_to(root).as_posix()
        for folder in ("seqvis", "jobs", "serve", "tune")
        for path in (root / folder).rglob("*.py")
        if "os.fsync" in path.read_text(encoding="utf-8")
    ]
    assert syncing == ["seqvis/disk.py"]

"""Ray's token file: only its owner reads it, in a fresh home and where others could before."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.ray_token import main
from seqvis.cluster import _make, keep_token_private, token_file
from seqvis.errors import ConfigError

WITH_RAY = "import ray; from ray._raylet import AuthenticationTokenLoader as L; "
READ_BY_RAY = WITH_RAY + "print(L.instance().get_raw_token(ignore_auth_mode=True))"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh home, for a user who lets everybody read what he writes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(variable, raising=False)
    before = os.umask(0)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_token_of_a_fresh_home_is_its_owners_alone(home: Path) -> None:
    keep_token_private()
    file = home / ".ray" / "auth_token"
    assert mode(file) == 0o600
    assert mode(file.parent) == 0o700
    assert list(file.parent.iterdir()) == [file]


def test_it_is_the_token_that_ray_uses(home: Path) -> None:
    keep_token_private()
    token = (home / ".ray" / "auth_token").read_text()
    assert len(token) == 64
    read = subprocess.run(
        [sys.executable, "-c", READ_BY_RAY], capture_output=True, text=True, check=True
    )
    assert read.stdout.split() == [token]


def test_a_token_that_others_could_read_is_kept_and_made_private(home: Path) -> None:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("before")
    file.chmod(0o644)
    keep_token_private()
    assert mode(file) == 0o600
    assert file.read_text() == "before"


def test_of_two_that_make_it_at_once_both_have_the_same(home: Path) -> None:
    file = home / ".ray" / "auth_token"

    def make(_: int) -> str:
        _make(file)
        return file.read_text()

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(32)))) == 1


def test_a_file_that_is_not_there_is_refused_with_its_name(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "elsewhere"))
    with pytest.raises(ConfigError, match="elsewhere: holds Ray's token"):
        keep_token_private()


def test_a_token_that_cannot_be_made_private_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "shared"
    file.write_text("everybody's")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))

    def refuse(*_: object, **__: object) -> None:  # as for another user's file
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(ConfigError, match="you alone may read"):
        token_file()


@pytest.mark.parametrize("settings", [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "secret")])
def test_no_file_is_made_where_ray_needs_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, str]
) -> None:
    monkeypatch.setenv(*settings)
    keep_token_private()
    assert list(home.iterdir()) == []


def test_the_command_says_where_the_token_is_and_not_what(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([]) == 0
    said = capsys.readouterr()
    file = home / ".ray" / "auth_token"
    assert json.loads(said.out) == {"file": str(file)}
    assert file.read_text() not in said.out + said.err

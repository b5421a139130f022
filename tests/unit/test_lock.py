"""The lock files: what `make setup` and every node install, by version and hash."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKS = ("requirements.lock", "dev.lock", "build.lock")


def entries(lock: str) -> dict[str, str]:
    """The text of each entry of a lock file, continued lines joined, by the package's name."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(line.partition("==")[0]): line for line in lines}


def pinned(lock: str) -> dict[str, str]:
    versions = {}
    for name, entry in entries(lock).items():
        match = re.match(r"\S+==(\S+)", entry)
        assert match, entry
        versions[name] = match[1]
    return versions


@pytest.mark.parametrize(
    ("lock", "asked_for"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        *(("requirements.lock", EXTRAS[extra]) for extra in EXTRAS if extra != "peers"),
        ("dev.lock", PROJECT["dependency-groups"]["dev"]),
        ("build.lock", PROJECT["build-system"]["requires"]),
    ],
)
def test_a_lock_pins_what_the_project_asks_for(lock: str, asked_for: list[str]) -> None:
    pins = pinned(lock)
    packages = [named for named in map(Requirement, asked_for) if named.name != "seqvis"]
    for requirement in packages:
        version = pins.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} is not in {lock}: make lock"
        assert requirement.specifier.contains(version), f"{requirement}: {lock} has {version}"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_its_hashes_and_no_place(lock: str) -> None:
    for entry in entries(lock).values():
        requirement, *hashes = re.split(r"\s+--hash=", entry)
        assert hashes, entry
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", digest) for digest in hashes), entry
        assert "//" not in requirement


def test_what_two_locks_pin_is_the_same() -> None:
    requirements = pinned("requirements.lock")
    for lock in ("dev.lock", "build.lock"):
        shared = {name: pin for name, pin in pinned(lock).items() if name in requirements}
        assert shared.items() <= requirements.items()


def test_nothing_is_installed_without_a_hash_but_the_project_itself(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    python.chmod(0o755)
    subprocess.run(["sh", ROOT / "install.sh", python, "--requirement", "dev.lock"], check=True)
    lines = calls.read_text().splitlines()
    (compiling,) = (line for line in lines if not line.startswith("-m pip install "))
    assert compiling.startswith("build_nmslib.py ")  # which takes its source by the lock's hash
    *packages, project = (line for line in lines if line != compiling)
    files = re.findall(r"--requirement (\S+)", " ".join(packages))
    assert files == ["build.lock", "requirements.lock", "dev.lock"]
    assert all("--require-hashes" in call for call in packages)
    assert "--no-deps --no-build-isolation --editable ." in project

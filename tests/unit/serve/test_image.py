"""The image: the steps of the Dockerfile, carried out without Docker as far as that goes.

Its commands run in a folder that is laid as its COPY steps lay it, with a Python that notes what it
is asked to install.
"""

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from serve.environment import ENVIRONMENT
from serve.environment import main as print_environment
from serve.proxy.haproxy import BINARY, SCRIPT, SWITCHES

ROOT = Path(__file__).parents[3]
PLACE = "/home/ray/seqvis"
PYTHON = "/home/ray/anaconda3/bin"  # of rayproject/ray, where pip puts scripts
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
NOTING = """#!/bin/sh
echo "$@" >>"$NOTES/calls"
while [ $# -gt 0 ]; do
    if [ "$1" = --requirement ]; then cat "$2" >>"$NOTES/asked_for"; fi
    shift
done
"""


def steps() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with what follows each, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def copy(sources: list[str], target: Path) -> None:
    """What COPY does: without what .dockerignore names, and of a folder its content."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    leave_out = shutil.ignore_patterns(*(pattern.removeprefix("**/") for pattern in ignored))
    target.mkdir(exist_ok=True)
    for source in sources:
        assert source not in ignored
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=leave_out, dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, target)


def build(folder: Path, **chosen: str) -> tuple[Path, list[list[str]]]:
    """Carry out each COPY and each RUN but that of apt-get.

    Returns the project's folder, and for each RUN the calls of Python, without the one that
    compiles nmslib beside the others. What was to be installed is in `asked_for`.
    """
    place, commands = folder / "seqvis", folder / "bin"
    commands.mkdir()
    (commands / "python").write_text(NOTING, encoding="utf-8")
    (commands / "python").chmod(0o755)
    arguments = dict(rest.split("=", 1) for name, rest in steps() if name == "ARG") | chosen
    environment = {**arguments, "PATH": f"{commands}:{os.environ['PATH']}", "NOTES": str(folder)}
    calls = []
    for name, rest in steps():
        if name == "COPY":
            *sources, target = [word for word in rest.split() if not word.startswith("--")]
            assert target == f"{PLACE}/"
            copy(sources, place)
        elif name == "RUN" and "apt-get" not in rest:
            subprocess.run(rest.replace(PLACE, str(place)), shell=True, env=environment, check=True)
            noted = (folder / "calls").read_text().splitlines()
            (folder / "calls").unlink()
            beside = [call for call in noted if call.startswith("build_nmslib.py ")]
            assert len(beside) == 1
            calls.append([call for call in noted if call not in beside])
    return place, calls


def entries(text: str) -> dict[str, str]:
    """The entries of lock files, hashes included, by the package's name."""
    pairs = re.findall(r"^([a-z][^=]*)==((?:.*\\\n)*.*)$", text, re.MULTILINE)
    return dict(pairs)


def test_the_image_is_of_the_pinned_ray() -> None:
    (ray,) = re.findall(r"^ray==(\S+)", LOCK, re.MULTILINE)
    bases = re.findall(r"rayproject/ray:(\S+)", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert sorted(bases) == [f"{ray}-py311", f"{ray}-py311-gpu"]
    assert ("FROM", "${BASE}") in steps()


def test_packages_are_a_layer_that_a_change_of_the_project_leaves_alone(tmp_path: Path) -> None:
    place, (first, second) = build(tmp_path)
    assert re.findall(r"--requirement (\S+)", " ".join(first)) == [
        "build.lock",
        "requirements.lock",
    ]
    assert second[:-1] == first
    assert second[-1].endswith("--no-deps --no-build-isolation --editable .")
    project = tomllib.loads((place / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    there = {path.name for path in place.iterdir()}
    assert {"README.md", "LICENSE", *(name.rstrip("*") for name in packages)} <= there
    assert not {".git", ".venv", ".mypy_cache", "tests", "docs", "runs"} & there


def test_without_cuda_everything_but_torch_is_installed_by_its_hash(tmp_path: Path) -> None:
    _, (first, _) = build(tmp_path, TORCH_INDEX="https://packages.example.org/cpu")
    torch, *_ = first
    for name in ("torch", "torchvision"):
        assert f" {name}=={entries(LOCK)[name].split()[0]}" in torch
    assert "--no-deps --index-url https://packages.example.org/cpu" in torch
    asked_for = entries((tmp_path / "asked_for").read_text())
    locked = entries((ROOT / "build.lock").read_text(encoding="utf-8")) | entries(LOCK)
    assert asked_for.items() <= locked.items()
    left_out = locked.keys() - asked_for.keys()
    assert {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"} <= left_out
    only_cuda = re.compile(r"torch|torchvision|triton|cuda-.*|nvidia-.*")
    assert all(only_cuda.fullmatch(name) for name in left_out)


def test_the_image_has_the_environment_of_serving() -> None:
    (variables,) = [rest for name, rest in steps() if name == "ENV"]
    there = dict(word.split("=", 1) for word in shlex.split(variables))
    assert there == {**ENVIRONMENT, **SWITCHES, BINARY: f"{PYTHON}/{SCRIPT}"}


def test_the_document_has_the_environment_with_its_values() -> None:
    text = (ROOT / "docs" / "operate" / "server.md").read_text(encoding="utf-8")
    for name, value in ENVIRONMENT.items():
        assert f"`{name}" in text
        assert set(re.findall(rf"`{name}=([^`]*)`", text)) <= {value}


def test_the_environment_is_printed_for_a_shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {**ENVIRONMENT, **SWITCHES, BINARY: ""}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "7")
    assert print_environment([]) == 0
    show = (
        'eval "$COMMANDS" && printf "%s\\n" "$RAY_SERVE_USE_GRPC_BY_DEFAULT" "$RAY_worker_niceness"'
    )
    shown = subprocess.run(
        ["sh", "-c", show],
        env={**os.environ, "COMMANDS": capsys.readouterr().out},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["1", "7"]

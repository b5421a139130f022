"""The extensions are there wherever they can be built, so that no test skips unnoticed."""

import importlib
import os
import shlex
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import setuptools  # noqa: F401  brings distutils, which Python 3.12 lacks

ROOT = Path(__file__).parents[3]


def _extensions(monkeypatch: pytest.MonkeyPatch, command: str) -> list[Any]:
    """What setup.py builds at a command."""
    from distutils.core import run_setup

    monkeypatch.chdir(ROOT)
    return run_setup("setup.py", [command], stop_after="init").ext_modules


def test_what_can_be_compiled_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
    source = tmp_path / "needed.cpp"
    source.write_text("#include <Python.h>\n#include <span>\nstd::span<int> numbers;\n")
    flags = ["-std=c++20", "-fsyntax-only", f"-I{sysconfig.get_path('include')}"]
    try:
        subprocess.run([*compiler, *flags, str(source)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no compiler for C++20, or it has no headers of Python")
    names = {extension.name for extension in _extensions(monkeypatch, "editable_wheel")}
    loaded = set()
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
            loaded.add(name)
    assert names == loaded, "an extension was not built, or does not load: make native"


@pytest.mark.parametrize(("command", "optional"), [("editable_wheel", True), ("build_ext", False)])
def test_only_an_installation_goes_on_without_what_does_not_compile(
    command: str, optional: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By pip; `make native` does not."""
    extensions = _extensions(monkeypatch, command)
    assert extensions
    assert {extension.optional for extension in extensions} == {optional}

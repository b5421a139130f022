"""The extensions are there wherever they can be built, so that no test skips unnoticed."""

import importlib
import os
import shlex
import subprocess
import sysconfig
from contextlib import suppress
from pathlib import Path

import pytest
import setuptools  # noqa: F401  brings distutils, which Python 3.12 lacks

ROOT = Path(__file__).parents[3]


def test_what_can_be_compiled_was_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distutils.core import run_setup

    compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")
    source = tmp_path / "needed.cpp"
    source.write_text("#include <Python.h>\n#include <span>\nstd::span<int> numbers;\n")
    flags = ["-std=c++20", "-fsyntax-only", f"-I{sysconfig.get_path('include')}"]
    try:
        subprocess.run([*compiler, *flags, str(source)], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no compiler for C++20, or it has no headers of Python")
    monkeypatch.chdir(ROOT)
    names = {extension.name for extension in run_setup("setup.py", stop_after="init").ext_modules}
    loaded = set()
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
            loaded.add(name)
    assert names == loaded, "an extension was not built, or does not load: make native"

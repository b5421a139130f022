"""The wheel: all that it should hold is in it, and a stranger's path works with it alone."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest

from tests.support.tour import check_tour

ROOT = Path(__file__).parents[2]
EXTENSIONS = ("seqvis/native", "seqvis/collection")
SMALL_DEMO = "--pairs 1500 --epochs 1 --num-workers 0 --image-size 48"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git has, as setup.py does it; what was compiled is used again."""
    copy = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    built = f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    for folder in EXTENSIONS:
        (copy / "build" / built / folder).mkdir(parents=True)
        for library in (ROOT / folder).glob(f"*{sysconfig.get_config_var('EXT_SUFFIX')}"):
            shutil.copyfile(library, copy / "build" / built / folder / library.name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", copy / "dist", copy], check=True)
    (path,) = (copy / "dist").iterdir()
    return path


def test_the_wheel_holds_all_files_of_the_packages(wheel: Path) -> None:
    listed = ["git", "ls-files", "seqvis", "jobs", "serve", "tune"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    there = set(zipfile.ZipFile(wheel).namelist())
    needed = {name for name in names.split() if not name.startswith("serve/testing/")}
    assert not needed - there
    assert not {name for name in there if name.startswith(("tests/", "benchmarks/"))}


def test_a_strangers_path_works_with_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    """With the packages of this environment, so that nothing is fetched; but not its checkout."""
    done = subprocess.run(
        ["sh", ROOT / "tests" / "stranger.sh", wheel, tmp_path / "empty"],
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHON": sys.executable,
            "PACKAGES": sysconfig.get_path("purelib"),
            "DEMO_FLAGS": SMALL_DEMO,
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert done.stdout.rstrip().endswith("== done")
    check_tour(nbformat.read(tmp_path / "empty" / "tour.ipynb", as_version=4))

"""The wheel: all that it should hold is in it, and a stranger's path works with it alone."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import nbformat
import pytest

from jobs.__main__ import MODULES
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


@pytest.fixture(scope="module")
def stranger(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The stranger's folder, and what the script said.

    With the packages of this environment, so that nothing is fetched; but not its checkout.
    """
    folder = tmp_path_factory.mktemp("stranger") / "empty"
    done = subprocess.run(
        ["sh", ROOT / "tests" / "stranger.sh", wheel, folder],
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHON": sys.executable,
            "PACKAGES": sysconfig.get_path("purelib"),
            "DEMO_FLAGS": SMALL_DEMO,
        },
        cwd=folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return folder, done.stdout


def test_a_strangers_path_works_with_the_wheel_alone(stranger: tuple[Path, str]) -> None:
    assert stranger[1].rstrip().endswith("== done")


def test_the_tour_runs(stranger: tuple[Path, str]) -> None:
    check_tour(nbformat.read(stranger[0] / "tour.ipynb", as_version=4))


def test_the_demo_runs_from_the_generator_to_the_picture(stranger: tuple[Path, str]) -> None:
    """It is small here, and learns little; `make demo` is checked by hand to translate well."""
    folder, messages = stranger
    result = json.loads((folder / "demo.json").read_text())
    assert 0 <= result["bleu"] <= 100
    assert (folder / "runs/demo/attention.png").read_bytes().startswith(b"\x89PNG")
    assert " translate --model" in messages
    assert set(result["typed"]) == {"apostrophes", "capitals", "accents", "names"}
    for kind, right in result["typed"].items():
        assert f"{kind}: {right} right" in messages


def test_the_demo_finds_drawings_whose_names_it_never_saw(stranger: tuple[Path, str]) -> None:
    folder, messages = stranger
    pictures = json.loads((folder / "demo.json").read_text())["pictures"]
    assert pictures["drawings"] > 1300
    held_out = (folder / "runs/demo/drawings/heldout.txt").read_text("utf-8").splitlines()
    assert len(held_out) - 5 <= pictures["held_out"] <= len(held_out)  # a few have no word vector
    guessing = 10 / pictures["held_out"]
    assert 2 * guessing < pictures["hit@10"] <= 1
    assert pictures["hit@1"] <= pictures["hit@5"] <= pictures["hit@10"]
    assert len(pictures["sheets"]) == 10
    for sheet in pictures["sheets"]:
        assert sheet in messages
        assert (folder / sheet).read_bytes().startswith(b"\x89PNG")
    assert pictures["page"] in messages
    assert (folder / pictures["page"]).read_text("utf-8").count("<article") == 30
    assert "CC BY-SA 4.0" in messages


@pytest.mark.usefixtures("ray_cluster")
def test_what_the_demo_says_to_run_next_runs(
    stranger: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, messages = stranger
    monkeypatch.chdir(folder)
    shutil.copyfile("runs/demo/drawings/pictures/bell.png", "my-drawing.png")
    commands = re.findall(r"seqvis (.*)", messages.partition("Next:")[2].partition("\n== ")[0])
    assert len(commands) == 5
    for command in commands:
        name, *words = shlex.split(command.partition("   ")[0])
        job = importlib.import_module(MODULES[name])
        if "--help" not in words:
            assert job.main(words) == 0, command
    assert Path("runs/demo/pictures/mine.png").exists()

"""The demo, and what make does of it; test_snippets.py types what the README says."""

import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from jobs.__main__ import MODULES
from jobs.demo import PRESETS
from jobs.demo import main as demo

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_make_runs_what_the_readme_says() -> None:
    assert [line.split("#")[0].strip() for line in COMMANDS if line.startswith("make")] == [
        "make demo",
        "make test",
    ]
    for target, module in (("demo", "jobs.demo"), ("test", "pytest"), ("lint", "mypy")):
        flags = ["make", "--dry-run", "--always-make", "-C", str(ROOT), target]
        shown = subprocess.run(flags, capture_output=True, text=True, check=True).stdout
        assert f"-m {module}" in shown


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Where a demo left its work, its result, and what it told. Small, so it learns little:
    `make demo` is checked by hand to translate and to find well. Its training is in one process;
    the README's command above trains on Ray's workers. The head has fewer epochs than its preset
    says."""
    out, messages, printed = tmp_path_factory.mktemp("demo"), io.StringIO(), io.StringIO()
    presets = Path(shutil.copytree(PRESETS, tmp_path_factory.mktemp("presets") / "copy"))
    head = presets / "demo-devise.yaml"
    head.write_text(head.read_text().replace("epochs: 40\n", "epochs: 8\n"))
    flags = ["--out", str(out), "--pairs", "1500", "--epochs", "1", "--num-workers", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.demo.PRESETS", presets)
        with redirect_stdout(printed), redirect_stderr(messages):
            assert demo([*flags, "--image-size", "48", "--no-serve"]) == 0
    return out, json.loads(printed.getvalue().splitlines()[-1]), messages.getvalue()


def test_the_demo_runs_from_the_generator_to_the_picture(
    demo_run: tuple[Path, dict[str, Any], str],
) -> None:
    out, result, messages = demo_run
    assert 0 <= result["bleu"] <= 100
    assert (out / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert " translate --model" in messages
    assert set(result["typed"]) == {"apostrophes", "capitals", "accents", "names"}
    for kind, right in result["typed"].items():
        assert f"{kind}: {right} right" in messages


def test_the_demo_finds_drawings_whose_names_it_never_saw(
    demo_run: tuple[Path, dict[str, Any], str],
) -> None:
    out, result, messages = demo_run
    pictures = result["pictures"]
    assert pictures["drawings"] > 1300
    held_out = (out / "drawings" / "heldout.txt").read_text(encoding="utf-8").splitlines()
    assert len(held_out) - 5 <= pictures["held_out"] <= len(held_out)  # a few have no word vector
    guessing = 10 / pictures["held_out"]
    assert 2 * guessing < pictures["hit@10"] <= 1
    assert pictures["hit@1"] <= pictures["hit@5"] <= pictures["hit@10"]
    assert len(pictures["sheets"]) == 10
    for sheet in pictures["sheets"]:
        assert sheet in messages
        assert Path(sheet).read_bytes().startswith(b"\x89PNG")
    assert pictures["page"] in messages
    assert Path(pictures["page"]).read_text(encoding="utf-8").count("<article") == 30
    assert "CC BY-SA 4.0" in messages


def test_what_the_demo_says_to_run_next_runs(
    demo_run: tuple[Path, dict[str, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, _, messages = demo_run
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-drawing.png").write_bytes((out / "drawings/pictures/bell.png").read_bytes())
    commands = re.findall(r"(?:seqvis|-m jobs) (.*)", messages.partition("Next:")[2])
    assert len(commands) == 5
    for command in commands:
        name, *words = shlex.split(command.partition("   ")[0])
        job = importlib.import_module(MODULES[name])
        if "--help" not in words:
            assert job.main(words) == 0, command
    assert (out / "pictures" / "mine.png").exists()

"""Every command of the README, run as it stands there."""

import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from jobs.demo import main as demo
from seqvis.samples.questions import generate_pairs

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's reader has: my.fr and my.en."""
    place = tmp_path_factory.mktemp("readme")
    pairs = generate_pairs(400, seed=1)
    for side, language in enumerate(("fr", "en")):
        lines = "".join(pair[side] + "\n" for pair in pairs)
        (place / f"my.{language}").write_text(lines, encoding="utf-8")
    return place


def test_the_commands_for_a_corpus_of_ones_own_run_in_their_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = [line for line in COMMANDS if line.startswith("python -m jobs.")]
    assert len(commands) >= 8
    monkeypatch.chdir(folder)
    for command in commands:
        words = shlex.split(command)
        job = importlib.import_module(words[2])
        assert job.main(words[3:]) == 0, f"{command}\n{capsys.readouterr().err}"
        last = capsys.readouterr().out.splitlines()[-1]
        if words[2] != "jobs.translate":
            assert json.loads(last), command
    assert len((folder / "runs/translations.en").read_text().splitlines()) == 400
    assert (folder / "runs/attention.png").exists()


def test_make_runs_what_the_readme_says() -> None:
    assert [line.split("#")[0].strip() for line in COMMANDS if line.startswith("make")] == [
        "make demo",
        "make test",
    ]
    for target, module in (("demo", "jobs.demo"), ("test", "pytest"), ("lint", "mypy")):
        flags = ["make", "--dry-run", "--always-make", "-C", str(ROOT), target]
        shown = subprocess.run(flags, capture_output=True, text=True, check=True).stdout
        assert f"-m {module}" in shown


def test_the_demo_runs_from_the_generator_to_the_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Small, so it learns little; `make demo` is checked by hand to translate well."""
    flags = ["--out", str(tmp_path), "--pairs", "2500", "--epochs", "1", "--num-workers", "2"]
    assert demo(flags) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out.splitlines()[-1])
    assert 0 <= result["bleu"] <= 100
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert "python -m jobs.translate --model" in captured.err


def test_links_in_the_documents_lead_to_files() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"

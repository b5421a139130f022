"""Links in the documents lead somewhere, and what they name exists."""

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from jobs.__main__ import MODULES
from seqvis.cli.job import parser_for

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@cache
def prose(document: Path) -> str:
    """The text of a document without its blocks of code."""
    return re.sub(r"(?ms)^ *```.*?^ *```$", "", document.read_text(encoding="utf-8"))


@cache
def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(document))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.exists(), target
            assert not anchor or anchor in anchors(file.resolve()), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for module in set(re.findall(r"python -m ((?:jobs|tune|serve|benchmarks|tests)[\w.]+)", text)):
        assert find_spec(module.rstrip(".")), module
    for path in set(re.findall(r"`((?:seqvis|jobs|tune|serve|benchmarks|tests)/[\w./-]+)`", text)):
        assert (ROOT / path).exists(), path


def code(document: Path) -> Iterator[str]:
    """The lines of a document's blocks of code, and what stands between backticks."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    for block in re.findall(r"(?ms)^ *```\w*\n(.*?)^ *```$", text):
        yield from block.splitlines()
    for span in re.findall(r"`([^`]+)`", prose(document)):
        yield " ".join(span.split())


@cache
def flags_of(module: str) -> set[str]:
    return set(parser_for(import_module(module).main.args[0])._option_string_actions)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_jobs_have_the_names_and_flags_that_a_document_gives_them(document: Path) -> None:
    for line in code(document):
        command = re.search(r"(?:^|\$\()\s*seqvis ([a-z][\w-]*)(.*)", line)
        module = re.search(r"python -m ((?:jobs|tune|serve)\.[\w.]+)(.*)", line)
        if command:
            assert command[1] in MODULES, line
        elif not module:
            continue
        name, rest = (MODULES[command[1]], command[2]) if command else (module[1], module[2])
        name = {"tune.report": "tune.report.__main__"}.get(name, name)
        if name in MODULES.values():
            given = set(re.findall(r"(?<!\S)--[a-z][^\s=]*", rest.partition(" # ")[0]))
            assert given <= flags_of(name), line


def test_make_runs_what_the_readme_says() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first = text.partition("```sh\n")[2].partition("```")[0]
    shown = [line.split("#")[0].strip() for line in first.splitlines()]
    assert shown == ["make demo", "make test"]
    for target, module in (("demo", "jobs.demo"), ("test", "pytest"), ("lint", "mypy")):
        flags = ["make", "--dry-run", "--always-make", "-C", str(ROOT), target]
        shown = subprocess.run(flags, capture_output=True, text=True, check=True).stdout
        assert f"-m {module}" in shown


def test_documents_that_the_code_names_exist() -> None:
    named = subprocess.run(
        ["git", "grep", "-hoE", r"docs/([a-z-]+/)*[a-z-]+\.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in set(named.stdout.split()):
        assert (ROOT / name).exists(), name


def test_the_walks_through_the_code_count_their_files() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    walks = re.findall(r"^\*\*.*: (\d+) files\*\*\n\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert len(walks) == 2
    for count, table in walks:
        assert int(count) == len(re.findall("`", table)) // 2
        assert int(count) == sum(map(int, re.findall(r"\((\d+)\) \|", table)))

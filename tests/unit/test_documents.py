"""Links in the documents lead somewhere, and what they name exists."""

import re
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

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

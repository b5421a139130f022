"""The tour, docs/tour.ipynb: run in a kernel of its own, and kept as it ran."""

import copy
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(TOUR, as_version=4)


def outputs(notebook: Any, source: str) -> list[Any]:
    """What the cell that begins with this text has put out."""
    cells = [cell for cell in notebook.cells if source in cell.source]
    assert len(cells) == 1, source
    return cells[0].outputs


def shown(notebook: Any, source: str, kind: str) -> str:
    """The last thing of a kind, such as text/html, that a cell shows."""
    values = [output["data"].get(kind) for output in outputs(notebook, source) if "data" in output]
    assert any(values), source
    return str([value for value in values if value][-1])


def check(notebook: Any) -> None:
    """The translations are right, the searches find, and nothing is a warning."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
    progress = shown(notebook, "train_translator(", "text/plain")
    assert re.search(r"epoch +train loss", progress)
    assert "\x1b" not in progress
    assert (
        outputs(notebook, "translator.translate(french)")[0].data["text/html"].count("rgba(") > 20
    )
    told = re.search(r"(\d+) of (\d+) are right", shown(notebook, "right = sum", "text/plain"))
    assert told
    right, of_all = told.groups()
    assert int(right) > 0.9 * int(of_all)
    assert "image/png" in outputs(notebook, "attention_figure()")[0].data
    for query, names in (('"vehicle"', ("car", "truck", "bus")), ("sailboat.png", ("sailboat",))):
        sheet = shown(notebook, query, "text/html")
        assert sheet.count("<img") == 5
        assert any(name in sheet for name in names), sheet[:200]


def test_the_tour_is_stored_with_the_outputs_of_its_present_code(stored: Any) -> None:
    assert TOUR.stat().st_size < 1 << 20
    check(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not re.search(r"/(home|root|work|tmp)/", TOUR.read_text(encoding="utf-8"))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tour_runs(stored: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    notebook = copy.deepcopy(stored)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": os.fspath(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    check(notebook)

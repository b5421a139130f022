"""What the cells of the tour, docs/tour.ipynb, should have put out."""

import re
from typing import Any


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


def check_tour(notebook: Any) -> None:
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

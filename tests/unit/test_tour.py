"""The tour, docs/tour.ipynb, as it is kept; test_stranger.py runs it."""

import re
from pathlib import Path

import nbformat

from tests.support.tour import check_tour

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"


def test_the_tour_is_stored_with_the_outputs_of_its_present_code() -> None:
    assert TOUR.stat().st_size < 1 << 20
    stored = nbformat.read(TOUR, as_version=4)
    check_tour(stored)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not re.search(r"/(home|root|work|tmp)/", TOUR.read_text(encoding="utf-8"))

"""The report of a search in a real browser, on a wide and on a narrow screen."""

from pathlib import Path

import pytest

from benchmarks.chromium import set_viewport
from tests.browser.page import Page
from tests.searches import QUICK, translator, write_search
from tune.report import write_report


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_fits_the_screen_and_shows_every_picture(
    page: Page, tmp_path: Path, width: int
) -> None:
    folder = write_search(tmp_path, translator(30))
    forest = QUICK.forest.model_copy(update={"trees": 20, "repeats": 4, "refits": 5})
    quick = QUICK.model_copy(update={"forest": forest})
    write_report(folder, folder, metric="loss", mode="min", title="A search", settings=quick)
    chrome = page.chrome
    set_viewport(chrome, width, 800)
    chrome.get((folder / "report.html").as_uri())
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    broken = "return [...document.images].filter((one) => !one.naturalWidth).length"
    assert chrome.execute_script(broken) == 0
    chosen = "return document.querySelector('picture img').getBoundingClientRect().width"
    assert chrome.execute_script(chosen) <= width

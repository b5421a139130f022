"""The report of a search in a real browser, on a wide and on a narrow screen."""

import pytest

from seqvis.storage import locate
from serve.testing.browser import set_viewport
from tests.browser.page import Page
from tests.support.searches import QUICK, translator, write_search
from tune.report.writing import write_report


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the page of a report that ranks is."""
    folder = write_search(tmp_path_factory.mktemp("search"), translator(60))
    place = locate(folder)
    done = write_report(place, place, metric="loss", mode="min", title="A search", settings=QUICK)
    assert done["important"]
    return (folder / "report.html").as_uri()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_fits_the_screen_and_shows_every_picture(
    page: Page, address: str, width: int
) -> None:
    chrome = page.chrome
    set_viewport(chrome, width, 800)
    chrome.get(address)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    scrolled = "return [...document.querySelectorAll('.scroll')].map((box) => box.scrollWidth)"
    boxes = "return [...document.querySelectorAll('.scroll')].map((box) => box.clientWidth)"
    if width == 1280:
        assert chrome.execute_script(scrolled) == chrome.execute_script(boxes)
    broken = "return [...document.images].filter((one) => !one.naturalWidth).length"
    assert chrome.execute_script(broken) == 0
    widths = "return [...document.querySelectorAll('svg')].map((one) => one.clientWidth)"
    assert all(100 <= drawn <= width for drawn in chrome.execute_script(widths))

"""The documentation of the interface, on a server with keys, in a browser that has none."""

from collections.abc import Iterator

import pytest

from serve.common.keys import KeyHolder, Keys, sha256_of
from serve.common.settings import GatewaySettings
from serve.gateway.live import LiveModels
from serve.gateway.routes import build_api
from tests.browser.page import Page
from tests.support.serving import MemoryStore, listening


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    keys = Keys([KeyHolder(name="a", sha256=sha256_of("right"), scopes=("search",))])
    settings = GatewaySettings(translator=False, search=False)
    api = build_api(LiveModels(MemoryStore(), None, None), settings, keys, lambda _: None)
    with listening(api) as url:
        yield url


def test_the_documentation_shows_every_route_without_a_key(
    session_page: Page, address: str
) -> None:
    chrome = session_page.chrome
    chrome.get_log("browser")
    chrome.get(f"{address}/docs")
    session_page.until(lambda: session_page.all(".opblock"))
    assert {"/v1/translate", "/v1/search/text", "/v1/images"} <= {
        path.get_attribute("data-path") for path in session_page.all(".opblock-summary-path")
    }
    assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []

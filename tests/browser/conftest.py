"""Headless Chromium and the page before it, served with a stub of the interface."""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from serve.testing.browser import NoChromiumError, find_chromium, open_chromium, set_viewport
from tests.browser.page import Page
from tests.browser.stub import Stub, build_app
from tests.support.serving import listening


@pytest.fixture(scope="package")
def session_stub() -> Stub:
    return Stub()


@pytest.fixture(scope="package")
def page_address(session_stub: Stub) -> Iterator[str]:
    """Where the page is served, with the stub behind it, on a free port of loopback."""
    with listening(build_app(session_stub)) as address:
        yield address + "/"


@pytest.fixture(scope="package")
def session_page(page_address: str) -> Iterator[Page]:
    try:
        find_chromium()
    except NoChromiumError as error:
        pytest.skip(str(error))
    with open_chromium() as chrome:
        chrome.set_script_timeout(30)
        yield Page(chrome, page_address)


@pytest.fixture
def stub(session_stub: Stub) -> Stub:
    session_stub.reset()
    return session_stub


@pytest.fixture
def page(session_page: Page, stub: Stub) -> Iterator[Page]:
    """The page, not yet opened. Afterwards: no error on its console, no request to another host.

    A test that provokes a refusal names its status in `page.expected`; Chromium logs each.
    """
    chrome = session_page.chrome
    set_viewport(chrome, 1440, 900)
    chrome.get(session_page.address + "page/base.css")
    chrome.execute_script("sessionStorage.clear()")
    chrome.get("about:blank")
    for log in ("browser", "performance"):
        chrome.get_log(log)
    session_page.expected.clear()
    yield session_page
    errors = [entry["message"] for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    statuses = [f"status of {status} " for status in session_page.expected]
    assert [e for e in errors if not any(status in e for status in statuses)] == []
    assert _hosts(chrome.get_log("performance")) <= {urlsplit(session_page.address).netloc}


def _hosts(log: list[dict[str, str]]) -> set[str]:
    """Hosts that a performance log's requests went to; blob:, data: and file: are none."""
    messages = [json.loads(entry["message"])["message"] for entry in log]
    urls = [
        urlsplit(message["params"]["request"]["url"])
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    return {url.netloc for url in urls if url.scheme not in ("blob", "data", "file")}

"""What the page says and does when the server refuses, is busy, or cannot be reached."""

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.browser.stub import Stub, jpeg


def test_an_unknown_word_has_suggestions_to_click(page: Page) -> None:
    page.open_ready()
    page.expected.append(422)
    page.search("engine + baot")
    page.until(lambda: "\u201cbaot\u201d is not known" in page.text("#search-message"))
    page.click("boat", "#search-message")
    page.until(lambda: page.text("#found").endswith("\u201cengine + boat\u201d"))
    assert page.text("#search-message") == ""


def test_a_busy_server_is_asked_again(page: Page, stub: Stub) -> None:
    page.open_ready()
    page.expected.append(503)
    for path in ("/v1/search/text", "/v1/translate"):
        stub.refuse(path, 503, "overloaded", "too much to do", retry_after="1")
    page.search("boat")
    page.until(lambda: "Trying again in a second" in page.text("#search-message"))
    page.until(lambda: page.names()[:1] == ["ship"])
    assert page.text("#search-message") == ""
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: "Trying again in a second" in page.text("#translator-message"))
    page.until(lambda: page.text("#translation") == "Where works sister your ?")


def test_a_server_that_stays_busy_is_given_up_with_its_message(page: Page, stub: Stub) -> None:
    page.open_ready()
    page.expected.append(503)
    for _ in range(3):
        stub.refuse("/v1/search/text", 503, "overloaded", "too much to do", retry_after="0")
    page.search("boat")
    page.until(lambda: page.text("#search-message").startswith("too much to do"))
    page.click("Try again", "#search-message")
    page.until(lambda: page.names()[:1] == ["ship"])


def test_an_unreachable_server_is_said_in_words(page: Page) -> None:
    page.open_ready()
    page.chrome.execute_cdp_cmd("Network.enable", {})
    page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/v1/*"]})
    try:
        page.search("boat")
        page.until(lambda: "cannot be reached" in page.text("#search-message"))
    finally:
        page.chrome.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    page.chrome.get_log("browser")  # the blocked request, which Chromium logs as an error
    page.click("Try again", "#search-message")
    page.until(lambda: page.names()[:1] == ["ship"])


def test_a_key_is_asked_for_and_then_used(page: Page, stub: Stub) -> None:
    stub.key = "secret"
    page.expected.append(401)
    page.chrome.get(page.address)
    page.until(lambda: page.one("#key").is_displayed())
    page.one("#key").send_keys("wrong", Keys.ENTER)
    page.until(lambda: page.text("#key-note") == "That key was not accepted.")
    page.one("#key").send_keys("secret", Keys.ENTER)
    page.until(lambda: page.names() and page.text("#translation"))
    assert not page.one("#key-form").is_displayed()
    image = "return document.querySelector('#gallery img')"
    page.until(lambda: page.run(f"{image}.naturalWidth") == 64)
    assert page.run(f"{image}.src").startswith("blob:")
    page.chrome.refresh()
    page.until(lambda: page.names() and page.text("#translation"))


def test_a_key_that_may_only_ask_uses_the_page_and_is_told_what_it_lacks(
    page: Page, stub: Stub, tmp_path: Path
) -> None:
    stub.scopes = ("translate", "search")
    page.expected.append(403)
    page.open_ready()
    page.search("boat")
    page.until(lambda: page.names()[:1] == ["ship"])
    page.hover(page.one("#gallery .remove"))
    page.one("#gallery .remove").click()
    page.click("Delete it", "#confirm")
    page.until(lambda: "lacks the scope write" in page.text("#search-message"))
    assert page.names()[:1] == ["ship"]
    (tmp_path / "mine.jpg").write_bytes(jpeg((20, 30, 240)))
    page.one("#file").send_keys(str(tmp_path / "mine.jpg"))
    page.until(lambda: page.names()[:1] == ["carrot"])
    assert page.text("#search-message") == ""
    page.click("Add to the collection")
    page.until(lambda: "lacks the scope write" in page.text("#search-message"))
    assert "mine" not in page.names()


@pytest.mark.parametrize(
    ("absent", "message"),
    [("translator", "No translator is served here."), ("search", "No pictures are served here.")],
)
def test_what_is_not_served_is_said(page: Page, stub: Stub, absent: str, message: str) -> None:
    stub.absent.add(absent)
    page.chrome.get(page.address)
    page.until(lambda: page.text(f"#{absent} .absent") == message)
    assert not page.one(f"#{absent} .content").is_displayed()
    other = "#search" if absent == "translator" else "#translator"
    page.until(lambda: page.one(f"{other} .content").is_displayed())

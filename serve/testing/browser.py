"""Headless Chromium for the page's tests and screenshots, driven through Debian's chromedriver.

In: nothing; the executables are found on PATH or where CHROMIUM and CHROMEDRIVER say. Out: a
selenium driver with an empty profile. What may surprise: selenium would download a driver, or a
browser, that it does not find; it is told both places, so it never does.

Screenshots of the page for the documentation, from a server that runs.

Types a sentence and a query into headless Chromium, waits until both are answered, marks a word so
that its partners show, and writes `page-wide.png` (1440x900) and `page-narrow.png` (390 wide, as
long as the page but at most 2600). Exits with a message where there is no Chromium, no server, or
an answer does not come.

    python -m serve.testing.browser --address http://127.0.0.1:8000 --out docs
"""

import argparse
import base64
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
)


class NoChromiumError(RuntimeError):
    """Chromium or its driver is not installed; the message says how to install both."""


def find_chromium() -> tuple[str, str]:
    """Paths of the browser and of its driver. Raises NoChromiumError if one is missing."""
    browser = os.environ.get("CHROMIUM") or _first("chromium", "chromium-browser", "google-chrome")
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if not browser or not driver:
        missing = "Chromium" if not browser else "chromedriver"
        raise NoChromiumError(
            f"{missing} is not on PATH; on Debian: apt-get install chromium chromium-driver"
        )
    return browser, driver


def _first(*names: str) -> str | None:
    return next((found for name in names if (found := shutil.which(name))), None)


@contextmanager
def open_chromium(width: int = 1440, height: int = 900) -> Iterator[Chrome]:
    """A driver of a fresh browser, closed and its profile removed in the end."""
    browser, driver = find_chromium()
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        chrome = Chrome(options, Service(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


def set_viewport(
    chrome: Chrome, width: int, height: int, dark: bool = False, still: bool = False
) -> None:
    """The page's own width and height in CSS pixels, which may be narrower than a window.

    `dark` and `still` are the reader's wishes for a dark scheme and for no motion.
    """
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
    ]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


PATIENCE = 60  # seconds; the first translation and the first search load what they need
WIDE, NARROW, LONGEST = (1440, 900), (390, 844), 2600

_ANSWERED = """
const pictures = [...document.querySelectorAll("#gallery img")];
return document.querySelector("#translation").textContent !== ""
  && document.querySelector(".writing, .stale, #gallery[aria-busy=true]") === null
  && arguments[0] === document.querySelector("#source").value
  && document.querySelector("#found").textContent.includes(arguments[1])
  && pictures.length > 0
  && pictures.filter((one) => one.getBoundingClientRect().top < innerHeight)
    .every((one) => one.complete && one.naturalWidth > 0);
"""
_MARK = """
const word = [...document.querySelectorAll("#stage [data-side=target]")]
  .find((one) => one.firstChild.textContent === arguments[0]);
(word ?? document.querySelector("#stage [data-side=target]"))
  ?.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
"""


def take(chrome: Chrome, address: str, sentence: str, query: str, word: str, out: Path) -> None:
    """Writes both pictures into the folder `out`."""
    set_viewport(chrome, *WIDE, still=True)
    chrome.get(address)
    _wait(chrome, lambda: chrome.find_element(By.ID, "source").is_displayed(), "the page")
    _wait(chrome, lambda: chrome.find_element(By.ID, "words").is_displayed(), "its search")
    for field, text in (("source", sentence), ("words", query)):
        chrome.find_element(By.ID, field).send_keys(Keys.CONTROL, "a")
        chrome.find_element(By.ID, field).send_keys(text, Keys.ENTER)
    _wait(chrome, lambda: chrome.execute_script(_ANSWERED, sentence, query), "the answers")
    chrome.execute_script("document.activeElement.blur()")
    chrome.execute_script(_MARK, word)
    _write(chrome, out / "page-wide.png")

    set_viewport(chrome, *NARROW, still=True)
    height = chrome.execute_script("return document.documentElement.scrollHeight")
    set_viewport(chrome, NARROW[0], min(height, LONGEST), still=True)
    _wait(chrome, lambda: chrome.execute_script(_ANSWERED, sentence, query), "the pictures")
    chrome.execute_script(_MARK, word)
    _write(chrome, out / "page-narrow.png")


def _wait(chrome: Chrome, condition: Callable[[], bool], what: str) -> None:
    try:
        WebDriverWait(chrome, PATIENCE, 0.1).until(lambda _: condition())
    except TimeoutException:
        told = chrome.find_element(By.TAG_NAME, "body").text
        raise SystemExit(f"waited {PATIENCE} s for {what}; the page says:\n{told}") from None


def _write(chrome: Chrome, path: Path) -> None:
    shot = chrome.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(shot["data"]))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--address", default="http://127.0.0.1:8000", help="where the page is")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for the pictures")
    parser.add_argument("--sentence", default="Quelle boîte préfère le boulanger timide ?")
    parser.add_argument("--query", default="engine + boat")
    parser.add_argument("--word", default="prefer", help="word of the translation to mark")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        with open_chromium(*WIDE) as chrome:
            take(chrome, given.address, given.sentence, given.query, given.word, given.out)
    except NoChromiumError as error:
        sys.exit(str(error))
    except WebDriverException as error:
        sys.exit(f"{given.address}: {error.msg}")


if __name__ == "__main__":
    main()

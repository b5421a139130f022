"""Headless Chromium, driven through Debian's chromedriver; as a program, the README's screenshot.

    python -m serve.testing.browser --address http://127.0.0.1:8000 --out docs/images

types a sentence and a query into the page of a running server, waits until both are answered, and
marks a word so that its partners show. Selenium would download a browser or a driver that it does
not find; it is given both paths, so it never does.
"""

import argparse
import base64
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selenium.common.exceptions import WebDriverException
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
_LOADED = 'return ["#source", "#words"].every((id) => document.querySelector(id)?.offsetParent);'
_ANSWERED = """
const images = [...document.querySelectorAll("#gallery img")];
return document.querySelector("#translation").textContent !== ""
  && document.querySelector(".writing, .stale, #gallery[aria-busy=true]") === null
  && document.querySelector("#found").textContent.includes(arguments[0])
  && images.length > 0
  && images.every((image) => image.naturalWidth || image.getBoundingClientRect().top > innerHeight);
"""
_MARK = """
document.activeElement.blur();
const word = [...document.querySelectorAll("#stage [data-side=target]")]
  .find((each) => each.firstChild.textContent === arguments[0]);
(word ?? document.querySelector("#stage [data-side=target]"))
  ?.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
"""


class NoChromiumError(RuntimeError):
    """Chromium or its driver is not installed; the message says how to install both."""


def find_chromium() -> tuple[str, str]:
    """Return the paths of browser and driver. Raises NoChromiumError if one is missing."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    driver = os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")
    if not browser or not driver:
        missing = "Chromium" if not browser else "chromedriver"
        raise NoChromiumError(
            f"{missing} is not on PATH; on Debian: apt-get install chromium chromium-driver"
        )
    return browser, driver


@contextmanager
def open_chromium(width: int = 1440, height: int = 900) -> Iterator[Chrome]:
    """Open a fresh browser, whose profile is removed in the end."""
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
    """Set the page's size in CSS pixels, which may be narrower than a window.

    `dark` and `still` are the reader's wishes for a dark scheme and for no motion.
    """
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
    ]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def main() -> None:
    """Write page-wide.png."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:8000", help="of the server")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for the picture")
    parser.add_argument("--sentence", default="Quelle boîte préfère le boulanger timide ?")
    parser.add_argument("--query", default="engine + boat")
    parser.add_argument("--word", default="prefer", help="word of the translation to mark")
    flags = parser.parse_args()
    try:
        with open_chromium() as chrome:
            set_viewport(chrome, 1440, 900, still=True)
            chrome.get(flags.address)
            wait = WebDriverWait(chrome, 60, 0.1)
            wait.until(lambda _: chrome.execute_script(_LOADED), "the page does not load")
            for field, text in (("source", flags.sentence), ("words", flags.query)):
                chrome.find_element(By.ID, field).send_keys(Keys.CONTROL, "a")
                chrome.find_element(By.ID, field).send_keys(text, Keys.ENTER)
            answered = (_ANSWERED, flags.query)
            wait.until(lambda _: chrome.execute_script(*answered), "no answer within a minute")
            chrome.execute_script(_MARK, flags.word)
            shot = chrome.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    except (NoChromiumError, WebDriverException) as error:
        sys.exit(f"{flags.address}: {error}")
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "page-wide.png").write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main()

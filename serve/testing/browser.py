"""Headless Chromium for the page's tests and screenshots, driven through Debian's chromedriver.

In: nothing; the executables are found on PATH or where CHROMIUM and CHROMEDRIVER say. Out: a
selenium driver with an empty profile. What may surprise: selenium would download a driver, or a
browser, that it does not find; it is told both places, so it never does.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

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

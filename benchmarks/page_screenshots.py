"""Screenshots of the page for the documentation, from a server that runs.

Types a sentence and a query into headless Chromium, waits until both are answered, marks a word so
that its partners show, and writes `page-wide.png` (1440x900) and `page-narrow.png` (390 wide, as
long as the page but at most 2600). Exits with a message where there is no Chromium, no server, or
an answer does not come.

    python -m benchmarks.page_screenshots --address http://127.0.0.1:8000 --out docs
"""

import argparse
import base64
import sys
from collections.abc import Callable
from pathlib import Path

from selenium.common.exceptions import TimeoutException, WebDriverException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from serve.testing.browser import NoChromiumError, open_chromium, set_viewport

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

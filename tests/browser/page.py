"""The page as a user has it: find, click, type, press, and wait until something is seen."""

from collections.abc import Callable
from typing import Any

from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PATIENCE = 20  # seconds


class Page:
    """One browser, used by one test at a time."""

    def __init__(self, chrome: Chrome, address: str):
        self.chrome = chrome
        self.address = address
        self.expected: list[int] = []

    def open(self, fragment: str = "") -> None:
        """Loads the page and waits until its panels are there and its first answers shown."""
        self.chrome.get(self.address + fragment)
        self.until(lambda: self.one("#translator h2").text != "")

    def open_ready(self) -> None:
        self.open()
        self.until(lambda: self.text("#translation") and self.names() and self.all("#stage .word"))

    def until(self, condition: Callable[[], Any]) -> Any:
        """The condition's first true value. Elements that vanish meanwhile do not matter."""
        ignored = (NoSuchElementException, StaleElementReferenceException)
        try:
            return WebDriverWait(self.chrome, PATIENCE, 0.05, ignored).until(lambda _: condition())
        except TimeoutException:
            raise AssertionError(f"waited in vain; the page says: {self.text('body')}") from None

    def one(self, selector: str) -> WebElement:
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        return self.one(selector).text

    def has_class(self, target: str | WebElement, name: str) -> bool:
        element = self.one(target) if isinstance(target, str) else target
        return name in (element.get_attribute("class") or "").split()

    def run(self, script: str, *given: Any) -> Any:
        return self.chrome.execute_script(script, *given)

    def button(self, text: str, within: str = "body") -> WebElement:
        """The button with exactly this text (or this accessible name)."""
        for button in self.all(f"{within} button"):
            if text in (button.text, button.get_attribute("aria-label")):
                return button
        raise NoSuchElementException(f"no button {text!r} in {within}")

    def click(self, text: str, within: str = "body") -> None:
        self.until(lambda: self.button(text, within)).click()

    def press(self, *keys: str) -> None:
        ActionChains(self.chrome).send_keys(*keys).perform()

    def press_select_all(self) -> None:
        ActionChains(self.chrome).key_down(Keys.CONTROL).send_keys("a").key_up(
            Keys.CONTROL
        ).perform()

    def hover(self, element: WebElement) -> None:
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.chrome).move_to_element(element).perform()

    def type_sentence(self, text: str) -> None:
        self.one("#source").send_keys(Keys.CONTROL, "a")
        self.one("#source").send_keys(text)

    def search(self, words: str) -> None:
        self.one("#words").clear()
        self.one("#words").send_keys(words, Keys.ENTER)

    def word(self, side: str, text: str) -> WebElement:
        """A word of the attention."""
        selector = f"#stage [data-side={side}]"
        return next(word for word in self.all(selector) if word.text.split("\n")[0] == text)

    def names(self) -> list[str]:
        """Names in the gallery, in order."""
        return self.run(
            "return [...document.querySelectorAll('#gallery .name')].map(one => one.textContent)"
        )

    def scores(self) -> list[float]:
        figures = self.run(
            "return [...document.querySelectorAll('#gallery .figure')].map(one => one.textContent)"
        )
        return [float(figure.replace("\u2212", "-")) for figure in figures]

    def slide(self, selector: str, value: float) -> None:
        """Moves a slider as a drag does: its value, then an input event."""
        self.run(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            self.one(selector),
            value,
        )

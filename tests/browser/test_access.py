"""The page by keyboard, by screen reader, on a narrow screen, in both colour schemes."""

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from serve.testing.browser import set_viewport
from tests.browser.page import Page
from tests.browser.stub import jpeg

CONTROLS = {"button", "link", "textbox", "searchbox", "slider", "radio", "combobox", "checkbox"}
LONG = "Où travaille ta sœur le " + "anticonstitutionnellement le " * 4 + "?"

# Ratio of contrast (WCAG 2.2, 1.4.3) of each piece of text, where it is too low for its size. A
# canvas turns every form of colour into bytes; backgrounds are laid over one another.
LOW_CONTRAST = """
const context = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
  .getContext("2d", {willReadFrequently: true});
const paint = (colours) => {
  context.clearRect(0, 0, 1, 1);
  for (const colour of colours) {
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
  }
  return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
const luminance = (rgb) => rgb
  .map((one) => one / 255)
  .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
  .reduce((sum, one, place) => sum + one * [0.2126, 0.7152, 0.0722][place], 0);
const low = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const visible = element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const hidden = element.closest(".visually-hidden, .marks, noscript, option");
  if (!walker.currentNode.data.trim() || !visible || hidden) continue;
  const layers = [];
  for (let at = element; at; at = at.parentElement) {
    layers.unshift(getComputedStyle(at).backgroundColor);
  }
  const style = getComputedStyle(element);
  const under = luminance(paint(layers));
  const over = luminance(paint([...layers, style.color]));
  const ratio = (Math.max(over, under) + 0.05) / (Math.min(over, under) + 0.05);
  const size = parseFloat(style.fontSize);
  const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if (ratio < (large ? 3 : 4.5)) low.push(`${walker.currentNode.data.trim()}: ${ratio.toFixed(2)}`);
}
return low;
"""


@pytest.fixture
def full(page: Page, tmp_path: Path) -> Page:
    """The page with all that it can show at once: a picture given, words marked, a message."""
    (tmp_path / "blue.jpg").write_bytes(jpeg((20, 30, 240)))
    page.open_ready()
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    page.one("#file").send_keys(str(tmp_path / "blue.jpg"))
    page.until(lambda: page.button("vegetable", "#picture"))
    page.click("Add to the collection")
    page.until(lambda: "in the collection" in page.text("#search-message"))
    page.run("document.querySelector('#stage [data-side=target]').focus()")
    page.until(lambda: page.all("#stage .partner"))
    return page


def focused(page: Page) -> str:
    """The accessible name of what has the focus."""
    name: str = page.chrome.switch_to.active_element.accessible_name
    return name


def tab_to(page: Page, name: str) -> None:
    """Presses Tab until the control of this name has the focus."""
    passed = []
    for _ in range(60):
        page.press(Keys.TAB)
        passed.append(focused(page))
        if passed[-1] == name:
            return
    raise AssertionError(f"Tab does not come to {name!r}, only to {passed}")


def test_everything_can_be_done_by_keyboard(page: Page) -> None:
    page.open_ready()
    page.press(Keys.TAB)
    assert focused(page) == "Sentence to translate"
    page.press_select_all()
    page.press("Où travaille ta sœur ?", Keys.ENTER)
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    tab_to(page, "Lines")
    tab_to(page, "Où")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    page.until(lambda: page.text("#partners").startswith("sœur: to sister 90"))
    page.press(Keys.HOME)
    page.until(lambda: page.text("#partners").startswith("Où: to Where"))
    page.press(Keys.TAB)
    assert focused(page) == "Where"
    page.press(Keys.TAB, Keys.ARROW_DOWN)
    page.until(lambda: page.text("#translation") == "Where works sister your !")
    tab_to(page, "Words, or a sum of words")
    page.press_select_all()
    page.press("boat", Keys.ENTER)
    page.until(lambda: page.names()[:1] == ["ship"])
    tab_to(page, "Least score")
    page.press(Keys.END)
    page.until(lambda: page.text("#found").startswith("No picture"))
    page.press(Keys.HOME)
    page.until(lambda: page.names()[:1] == ["ship"])
    tab_to(page, "Delete ship")
    page.press(Keys.ENTER)
    page.until(lambda: focused(page) == "Keep it")
    page.press(Keys.TAB, Keys.ENTER)
    page.until(lambda: page.text("#search-message").endswith("is deleted."))
    assert page.chrome.switch_to.active_element.get_attribute("id") == "found"
    tab_to(page, "raft 0.93 : more like this")
    page.press(Keys.ENTER)
    page.until(lambda: page.text("#found").endswith("most like \u201craft\u201d"))
    page.until(lambda: page.chrome.switch_to.active_element.get_attribute("id") == "found")


def test_whatever_has_the_focus_is_seen_to_have_it(page: Page) -> None:
    page.open_ready()
    unseen = []
    for _ in range(24):
        page.press(Keys.TAB)
        shown = page.run(
            """
            const one = document.activeElement;
            const unseen = one.matches(".switch input, .choose input");
            const drawn = unseen ? one.nextElementSibling : one;
            const style = getComputedStyle(drawn);
            const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
            return outlined || style.boxShadow !== "none";
            """
        )
        if not shown:
            unseen.append(focused(page))
    assert unseen == []


def test_every_control_has_a_name_and_every_picture_a_description(full: Page) -> None:
    nodes = full.chrome.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    controls = [node for node in nodes if node["role"]["value"] in CONTROLS and not node["ignored"]]
    assert len(controls) > 40
    nameless = [node for node in controls if not node.get("name", {}).get("value", "").strip()]
    assert nameless == []
    assert full.run("return document.querySelectorAll('img:not([alt])').length") == 0
    headings = [node["name"]["value"] for node in nodes if node["role"]["value"] == "heading"]
    assert headings[:2] == ["seqvis", "French into English"]


def test_foreign_words_are_marked_with_their_language(page: Page) -> None:
    page.open_ready()
    for selector, code in {
        "#source": "fr",
        "#translation": "en",
        "#sentence-examples button": "fr",
        ".words-source": "fr",
        ".words-target": "en",
    }.items():
        assert page.one(selector).get_attribute("lang") == code


def test_text_has_enough_contrast_in_both_schemes(full: Page) -> None:
    for dark in (False, True):
        set_viewport(full.chrome, 390, 844, dark, still=True)
        assert full.run("return matchMedia('(prefers-color-scheme: dark)').matches") == dark
        assert full.run(LOW_CONTRAST) == [], "dark" if dark else "light"


def test_nothing_is_wider_than_the_screen(full: Page) -> None:
    full.expected.append(422)
    full.type_sentence(LONG)
    full.search("anticonstitutionnellement" * 4)
    full.until(lambda: len(full.all("#stage [data-side=source]")) > 10)
    full.until(lambda: "is not known" in full.text("#search-message"))
    for view in ("heat", "lines"):
        full.run("document.querySelector(`input[value=${arguments[0]}]`).click()", view)
        for width in (360, 390, 768, 1440):
            set_viewport(full.chrome, width, 800)
            assert full.run("return document.documentElement.scrollWidth") <= width, (view, width)


def test_a_given_picture_and_its_form_fit_a_narrow_screen(full: Page) -> None:
    set_viewport(full.chrome, 360, 800)
    assert full.one("#picture").is_displayed()
    assert full.run("return document.documentElement.scrollWidth") <= 360


def test_lines_become_columns_on_a_narrow_screen(page: Page) -> None:
    page.open_ready()
    page.until(lambda: not page.has_class("#stage .lines", "tall"))
    set_viewport(page.chrome, 240, 800)
    page.until(lambda: page.has_class("#stage .lines", "tall"))
    set_viewport(page.chrome, 1440, 900)
    page.until(lambda: not page.has_class("#stage .lines", "tall"))


def test_who_wants_less_motion_gets_none(page: Page) -> None:
    page.open_ready()
    moves = "return getComputedStyle(document.querySelector('button')).transitionDuration"
    assert page.run(moves) != "0s"
    set_viewport(page.chrome, 1440, 900, still=True)
    page.until(lambda: page.run(moves) == "0s")

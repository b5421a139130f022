"""The page in a real browser: translating and searching as a reader does them."""

from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.page import Page
from tests.browser.stub import PICTURES, Stub, jpeg

RED = (250, 20, 20)  # near to the ship


@pytest.fixture
def red_picture(tmp_path: Path) -> Path:
    path = tmp_path / "my-ship.jpg"
    path.write_bytes(jpeg(RED))
    return path


def test_a_translation_appears_as_it_is_written(page: Page, stub: Stub) -> None:
    page.open_ready()
    stub.hold.clear()
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#translation") == "Where works")
    assert page.has_class("#alignment", "stale")
    stub.hold.set()
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    page.until(lambda: not page.has_class("#alignment", "stale"))
    said = page.one("#translation-said").get_attribute("textContent")
    assert said == "Translation: Where works sister your ?"


def test_typing_on_gives_the_older_request_up(page: Page, stub: Stub) -> None:
    page.open_ready()
    stub.hold.clear()
    page.type_sentence("le le le le le")
    page.until(lambda: page.text("#translation") == "The the")
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#translation") == "Where works")
    page.until(lambda: stub.given_up == 1)
    stub.hold.set()
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    assert page.text("#translator-message") == ""


def test_words_that_the_model_does_not_know_are_named(page: Page) -> None:
    page.open_ready()
    page.type_sentence("Où travaille Zbigniew ?")
    page.until(lambda: page.text("#unknown-words").endswith(": Zbigniew"))
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    assert not page.one("#unknown-words").is_displayed()


def test_unknown_words_are_marked_and_the_page_says_how_sure_the_model_is(
    page: Page, stub: Stub
) -> None:
    page.open_ready()
    page.type_sentence("Bonjour le monde")
    page.until(lambda: page.all("#source-marks mark"))
    marks = page.all("#source-marks mark")
    assert [mark.get_attribute("textContent") for mark in marks] == ["Bonjour", "monde"]
    # Each mark lies under its word: both texts have the same place and measures.
    styles = [
        [page.one(box).value_of_css_property(name) for name in ("font", "padding", "width")]
        for box in ("#source", "#source-marks")
    ]
    assert styles[0] == styles[1]
    assert page.one("#source").location == page.one("#source-marks").location
    said = page.one("#confidence")
    assert said.text.startswith("Unsure: 2 words unknown (8")
    assert said.get_attribute("role") == "status"
    assert page.one("#source").get_attribute("aria-describedby") == "unknown-words"
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#confidence").startswith("Fairly sure (72"))
    assert page.all("#source-marks mark") == []


def test_a_refused_translation_is_not_shown_and_the_page_says_why(page: Page, stub: Stub) -> None:
    page.open_ready()
    stub.min_confidence = 0.5
    page.type_sentence("Bonjour le monde")
    page.until(lambda: page.text("#confidence").startswith("Not translated, too unsure: 2 words"))
    assert page.text("#translation") == ""
    assert page.one("#translation-said").get_attribute("textContent") == ""
    assert not page.one("#alignment").is_displayed()
    assert len(page.all("#source-marks mark")) == 2


def test_an_emptied_field_shows_no_translation(page: Page) -> None:
    page.open_ready()
    page.one("#source").send_keys(Keys.CONTROL, "a")
    page.one("#source").send_keys(Keys.BACKSPACE)
    page.until(lambda: page.text("#translation") == "")
    assert not page.one("#alignment").is_displayed()
    assert not page.one("#candidates").is_displayed()


@pytest.mark.parametrize("view", ["lines", "heat"])
def test_hovering_over_a_word_shows_its_partners_and_weights(page: Page, view: str) -> None:
    page.open_ready()
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    page.one(f"input[value={view}]").click()
    page.hover(page.word("target", "sister"))
    page.until(lambda: page.text("#partners").startswith("sister: from sœur 90"))
    assert page.has_class(page.word("source", "sœur"), "partner")
    assert page.one("#stage .lit").is_displayed()
    page.hover(page.word("source", "Où"))
    page.until(lambda: page.text("#partners").startswith("Où: to Where 9"))
    page.hover(page.one("#translator-title"))
    page.until(lambda: page.text("#partners").startswith("Point at a word"))
    assert page.all("#stage .partner") == []


def test_hovering_over_a_cell_of_the_heat_map_tells_its_weight(page: Page) -> None:
    page.open_ready()
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    page.one("input[value=heat]").click()
    page.hover(page.one("#stage [data-row='1'][data-column='1']"))
    page.until(lambda: page.text("#partners") == "works: from travaille 90\u202f%")


def test_each_drawn_line_has_its_weight(page: Page) -> None:
    page.open_ready()
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: len(page.all("#stage path")) == 5)
    pairs = page.run(
        "return [...document.querySelectorAll('#stage path')]"
        ".map(one => [Number(one.dataset.source), Number(one.dataset.target)]).sort()"
    )
    assert pairs == [[0, 0], [1, 1], [2, 3], [3, 2], [4, 4]]


def test_choosing_a_candidate_shows_it_and_its_attention(page: Page) -> None:
    page.open_ready()
    page.type_sentence("Où travaille ta sœur ?")
    page.until(lambda: page.text("#translation") == "Where works sister your ?")
    choices = page.all("#candidates .candidate")
    assert [choice.text.split("\n")[-1] for choice in choices] == ["0.90", "0.33", "0.12"]
    page.hover(page.word("target", "Where"))
    page.until(lambda: page.text("#partners").startswith("Where: from Où"))
    assert page.one("#confidence").is_displayed()
    choices[1].click()
    page.until(lambda: page.text("#translation") == "Where works sister your !")
    assert not page.one("#confidence").is_displayed(), "it is of the best translation"
    page.hover(page.word("target", "Where"))
    page.until(lambda: page.text("#partners").startswith("Where: from ta 90"))
    choices[0].click()
    page.until(lambda: page.one("#confidence").is_displayed())


def test_words_find_a_gallery_in_the_order_of_scores(page: Page) -> None:
    page.open_ready()
    page.search("boat")
    page.until(lambda: page.text("#found") == "8 pictures nearest to \u201cboat\u201d")
    assert page.names()[:3] == ["ship", "raft", "motor boat"]
    assert page.scores() == sorted(page.scores(), reverse=True)
    page.until(lambda: page.run("return document.querySelector('#gallery img').naturalWidth") == 64)


def test_a_sum_of_words_is_an_example_to_click(page: Page) -> None:
    page.open_ready()
    page.click("boat", "#word-examples")
    page.until(lambda: page.names()[0] == "ship")
    page.click("engine + boat", "#word-examples")
    page.until(lambda: page.names()[0] == "motor boat")
    assert page.one("#words").get_attribute("value") == "engine + boat"


def test_how_words_were_read_is_shown_where_it_differs(page: Page) -> None:
    page.open_ready()
    page.search("a photo of a boat")
    page.until(lambda: page.text("#read-as") == "Read as: boat")
    page.search("boat")
    page.until(lambda: page.text("#found").endswith("\u201cboat\u201d"))
    assert page.text("#read-as") == ""


def test_sliders_bound_the_number_and_the_scores(page: Page) -> None:
    page.open_ready()
    page.search("boat")
    page.until(lambda: page.names()[:1] == ["ship"])
    kept = sum(score >= 0.7 for score in page.scores())
    assert 0 < kept < len(PICTURES)
    page.slide("#cutoff", 0.7)
    page.until(lambda: len(page.names()) == kept)
    assert page.text("#cutoff-value") == "0.70"
    page.slide("#k", 2)
    page.until(lambda: page.names() == ["ship", "raft"])
    page.slide("#cutoff", -0.2)
    page.slide("#k", 60)
    page.until(lambda: len(page.names()) == len(PICTURES))
    assert page.text("#cutoff-value") == "off"


def test_clicking_a_picture_searches_by_it_and_back_returns(page: Page) -> None:
    page.open_ready()
    page.search("boat")
    page.until(lambda: page.names()[:1] == ["ship"])
    page.one("#gallery .like").click()
    page.until(lambda: page.text("#found") == "7 pictures most like \u201cship\u201d")
    assert "ship" not in page.names()
    page.until(lambda: page.button("boat", "#picture"))
    page.chrome.back()
    page.until(lambda: page.names()[:1] == ["ship"])
    assert page.one("#words").get_attribute("value") == "boat"
    assert not page.one("#picture").is_displayed()


def test_an_address_holds_its_search(page: Page) -> None:
    page.open("#q=engine%20%2B%20boat")
    page.until(lambda: page.text("#found").endswith("\u201cengine + boat\u201d"))


def test_a_chosen_file_is_searched_by_and_named(page: Page, red_picture: Path) -> None:
    page.open_ready()
    page.one("#file").send_keys(str(red_picture))
    page.until(lambda: page.text("#found") == "8 pictures most like yours")
    assert page.names()[0] == "ship"
    page.click("boat", "#picture")
    page.until(lambda: page.text("#found").endswith("\u201cboat\u201d"))


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_dropped_or_pasted_picture_is_searched_by(page: Page, event: str) -> None:
    page.open_ready()
    page.chrome.execute_async_script(
        """
        const [event, colour, done] = arguments;
        const canvas = Object.assign(document.createElement("canvas"), {width: 32, height: 32});
        const context = canvas.getContext("2d");
        context.fillStyle = `rgb(${colour})`;
        context.fillRect(0, 0, 32, 32);
        canvas.toBlob((blob) => {
          const data = new DataTransfer();
          data.items.add(new File([blob], "red.png", {type: "image/png"}));
          const gallery = document.querySelector("#gallery");
          const made = event === "drop"
            ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
            : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
          gallery.dispatchEvent(made);
          done();
        });
        """,
        event,
        ", ".join(map(str, RED)),
    )
    page.until(lambda: page.text("#found").endswith("most like yours"))
    assert page.names()[0] == "ship"
    page.until(lambda: page.button("boat", "#picture"))


def test_a_file_that_is_no_picture_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.jpg").write_text("no picture either")
    page.open_ready()
    page.one("#file").send_keys(str(tmp_path / "notes.txt"))
    page.until(lambda: page.text("#search-message") == "notes.txt is not a picture.")
    page.expected.append(422)
    page.one("#file").send_keys(str(tmp_path / "broken.jpg"))
    page.until(lambda: "it is damaged" in page.text("#search-message"))


def test_a_picture_is_added_deleted_and_put_back(page: Page, red_picture: Path) -> None:
    page.open_ready()
    page.one("#file").send_keys(str(red_picture))
    name = page.until(lambda: page.one("#picture .adder input"))
    assert name.get_attribute("value") == "my ship"
    page.click("Add to the collection")
    page.until(lambda: "my ship" in page.names())
    assert page.text("#search-message").startswith("\u201cmy ship\u201d is in the collection.")

    remove = page.button("Delete my ship", "#gallery")
    page.hover(remove)
    remove.click()
    page.click("Keep it", "#confirm")
    assert "my ship" in page.names()
    page.button("Delete my ship", "#gallery").click()
    page.click("Delete it", "#confirm")
    page.until(lambda: page.text("#search-message").startswith("\u201cmy ship\u201d is deleted."))
    assert "my ship" not in page.names()
    page.click("Undo", "#search-message")
    page.until(lambda: "my ship" in page.names())


def test_deleting_a_picture_of_others_says_that_it_is_for_good(page: Page, stub: Stub) -> None:
    page.open_ready()
    page.search("boat")
    page.until(lambda: page.names()[:1] == ["ship"])
    page.hover(page.one("#gallery .remove"))
    page.one("#gallery .remove").click()
    page.until(lambda: "cannot bring it back" in page.text("#confirm"))
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.one("#confirm").is_displayed())
    assert stub.requests_of("DELETE", "/v1/images") == 0
    page.one("#gallery .remove").click()
    page.click("Delete it", "#confirm")
    page.until(lambda: page.text("#search-message") == "\u201cship\u201d is deleted.")
    assert "squares/ship.jpg" not in stub.pictures


def test_languages_and_attribution_come_from_the_server(page: Page) -> None:
    page.open_ready()
    assert page.text("#translator-title") == "French into English"
    assert page.text("#attribution") == "Squares: nobody, CC0"
    assert page.one("footer a").get_attribute("href") == f"{page.address}docs"

"""What a translator gives to Python: its choices as keywords, and results that a notebook shows."""

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seqvis.decoding.beam import DecodingSettings
from seqvis.errors import ConfigError
from seqvis.translation.results import Alternative, Translation, Translations
from seqvis.translation.translator import Translator

TEXT = "Où est-ce que Zbigniew habite ?"


class Texts(HTMLParser):
    """The texts and the tags of a piece of HTML, and the style of its cells."""

    def __init__(self, html: str):
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.weights: list[float] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        shade = re.search(
            r"background:rgba\(\d+,\d+,\d+,([\d.]+)\)", dict(attrs).get("style") or ""
        )
        if shade:
            self.weights.append(float(shade[1]))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_beam_and_n_best_are_those_of_the_settings(translator: Translator) -> None:
    by_settings = translator.translate(TEXT, DecodingSettings(beam=5, n_best=3))
    texts = [each.text for each in by_settings.alternatives]
    assert len(texts) == 3
    for given in ({"beam": 5, "n_best": 3}, {"settings": DecodingSettings(beam=5), "n_best": 3}):
        alternatives = translator.translate(TEXT, **given).alternatives
        assert [each.text for each in alternatives] == texts
    assert len(translator.translate([TEXT], n_best=4)[0].alternatives) == 4
    greedy = translator.translate(TEXT, DecodingSettings(beam=5), beam=1)
    assert greedy.text == translator.translate(TEXT).text


def test_what_cannot_be_is_named_with_its_value(translator: Translator) -> None:
    with pytest.raises(ConfigError, match=r"^translate: beam: .*greater than or equal to 1 .*: 0"):
        translator.translate(TEXT, beam=0)
    with pytest.raises(ConfigError, match="n_best 3: needs a beam of at least as many"):
        translator.translate(TEXT, beam=2, n_best=3)
    for texts, named in ((None, "NoneType: None"), (b"chat", "bytes: b'chat'"), ([7], "int: 7")):
        with pytest.raises(TypeError, match=f"not {named}"):
            translator.translate(texts)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not int: 7"):
        Translator.load(7)  # type: ignore[arg-type]


def test_a_path_is_loaded_as_its_text_is(translator: Translator) -> None:
    place = Path(translator.artifact.location.path)
    for given in (place, [place, str(place)], (place,)):
        assert Translator.load(given).translate(TEXT).text == translator.translate(TEXT).text


def test_the_attention_is_a_figure_that_a_notebook_shows(translator: Translator) -> None:
    figure = translator.translate(TEXT).attention_figure()
    content = figure._repr_png_()
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == "PNG"
        assert picture.width > 300
    shown = {text.get_text() for text in figure.axes[0].get_xticklabels()}
    assert {"est", "-ce", "que", "end"} <= shown
    assert not {word for word in shown if word.startswith("_")}  # no case marks
    assert len(translator.translate(TEXT).attention_figure(by_word=True).axes) == 9


def made(attention: np.ndarray | None) -> Translation:
    weights = None if attention is None else torch.tensor(attention)
    tokens = ["_cap_", "<b>", "&"]
    best = Alternative("<b> &", tokens, -0.25, weights, True)
    other = Alternative("<script>alert(1)</script>", ["x"], -1.5, None, True)
    return Translation("<i>où</i>", ["<i>", "où"], [best, other], ["<u>"])


def test_a_translation_shows_its_texts_and_its_attention_and_escapes_both() -> None:
    weights = np.array([[0.1, 0.2, 0.7], [0.9, 0.1, 0.0], [0.25, 0.5, 0.25]])
    html = made(weights)._repr_html_()
    parsed = Texts(html)
    assert parsed.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td"}
    for text in ("<i>où</i>", "<b> &", "<script>alert(1)</script>", "-0.25", "-1.50", "end"):
        assert text in parsed.texts
    assert "new to the model: <u>" in parsed.texts
    assert parsed.weights == [0.9, 0.1, 0.0, 0.25, 0.5, 0.25]


def test_without_attention_the_texts_are_shown_and_no_figure_is_drawn() -> None:
    translation = made(None)
    assert not Texts(translation._repr_html_()).weights
    with pytest.raises(ConfigError, match="no attention"):
        translation.attention_figure()


def test_several_translations_are_a_list_and_shown_as_a_table(translator: Translator) -> None:
    translations = translator.translate([TEXT, "", "Où est le chat ?"])
    assert isinstance(translations, list)
    assert [each.source for each in translations[:2]] == [TEXT, ""]
    parsed = Texts(Translations([made(None)])._repr_html_())
    assert parsed.texts == ["source", "translation", "<i>où</i>", "<b> &"]

"""The page is read back with the standard library's HTML parser."""

import base64
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from jobs.evaluate_devise import main as evaluate_devise
from seqvis.devise.evaluate import Evaluator, candidate_labels
from seqvis.devise.examples_page import Example, page_examples, write_page
from seqvis.devise.model import DeviseModel
from seqvis.errors import StorageError
from seqvis.storage import locate
from seqvis.vision.feature_table import FeatureTable
from tests.support.searching import EACH, NAMES, UNSEEN, World

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Elements in their order with attributes and text; fails on tags that do not match."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.source = source
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for number in self.open:
            self.elements[number][2].append(data)

    def texts(self, tag: str, class_: str | None = None) -> list[str]:
        return [
            " ".join("".join(texts).split())
            for name, attributes, texts in self.elements
            if name == tag and (class_ is None or attributes.get("class") == class_)
        ]

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attributes[name] for element, attributes, _ in self.elements if element == tag]


def picture(form: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(content, form)
    return content.getvalue()


def example(truth: str, names: Sequence[str], seen: bool = True) -> Example:
    nearest = [(name, 0.9 - 0.1 * place) for place, name in enumerate(names)]
    return Example(picture(), truth, seen, nearest)


def page(folder: Path, examples: Sequence[Example] = (), metrics=None, **options) -> Page:
    write_page(locate(folder / "page.html"), "A model", metrics or {}, examples, **options)
    return Page((folder / "page.html").read_text(encoding="utf-8"))


def test_each_picture_is_inside_the_page_byte_for_byte(tmp_path: Path) -> None:
    forms = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}
    contents = [picture(form) for form in forms]
    made = page(tmp_path, [Example(content, "x", True, [("x", 0.5)]) for content in contents])
    for uri, content, kind in zip(
        made.attributes("img", "src"), contents, forms.values(), strict=True
    ):
        head, data = uri.split(",")
        assert head == f"data:{kind};base64"
        assert base64.b64decode(data, validate=True) == content


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    made = page(tmp_path, [example("ship", ["ship", "boat"])], {"all": {"hit@1": 0.5}})
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, *_ in made.elements}
    assert "url(" not in made.source
    assert "@import" not in made.source
    sources = [value for _, attributes, _ in made.elements for name, value in attributes.items()
               if name in ("src", "href", "srcset", "data")]  # fmt: skip
    assert all(value.startswith("data:") for value in sources)


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    nasty = "<script>alert('1')</script>&amp;\"onload=x"
    made = page(
        tmp_path,
        [Example(picture(), nasty, False, [(nasty, 0.5)])],
        {nasty: {nasty: 0.5}},
        note=nasty,
    )
    assert "<script" not in made.source
    assert made.texts("h2") == [nasty]
    assert made.attributes("img", "alt") == [nasty]
    assert nasty in made.texts("th")
    assert made.texts("footer") == [nasty]


def test_the_right_name_is_marked_where_it_stands_and_no_other(tmp_path: Path) -> None:
    made = page(
        tmp_path,
        [
            example("ship", ["ship", "boat", "car"]),
            example("boat", ["ship", "car", "boat"], seen=False),
            example("dog", ["cat", "hot dog", "fox"], seen=False),
        ],
    )
    assert [text.partition("✓")[0] for text in made.texts("li", "right")] == ["ship", "boat"]
    assert made.texts("p", "marks") == ["seen right", "unseen found at 3", "unseen not among these"]
    assert "3 pictures: 1 right at once, 2 among the names shown" in made.texts("p")[0]
    assert len(made.texts("article", "seen")) == 1
    assert len(made.texts("article", "unseen")) == 2


def test_scores_are_shown_and_higher_ones_have_longer_bars(tmp_path: Path) -> None:
    made = page(tmp_path, [example("a", ["a", "b", "c"]), example("d", ["b", "d"])])
    assert made.texts("em") == ["0.900", "0.800", "0.700", "0.900", "0.800"]
    widths = [int(re.fullmatch(r"width:(\d+)%", s)[1]) for s in made.attributes("i", "style")]
    assert widths[0] == widths[3] == 100
    assert widths[0] > widths[1] > widths[2] > 0
    assert widths[1] == widths[4]  # one scale for the whole page


def test_metrics_are_a_table_with_blanks_where_a_row_lacks_one(tmp_path: Path) -> None:
    made = page(
        tmp_path, metrics={"seen": {"images": 1200, "hit@1": 0.41666}, "unseen": {"hp@5": 0.3}}
    )
    assert made.texts("th") == ["images", "hit@1", "hp@5", "seen", "unseen"]
    assert made.texts("td") == ["", "1,200", "0.417", "", "", "", "0.300"]


@pytest.mark.parametrize("scores", [[], [("a", 0.5)], [("a", 0.5), ("b", 0.5)]])
def test_a_picture_with_few_or_equal_scores_is_shown(tmp_path: Path, scores) -> None:
    made = page(tmp_path, [Example(picture(), "a", True, scores)])
    assert len(made.texts("li")) == len(scores)


def test_a_place_that_takes_no_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(StorageError, match=r"page\.html"):
        page(tmp_path)


def test_the_evaluation_writes_a_page_that_agrees_with_its_scores(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--model", str(world.model), "--features", str(world.features)]
    everything = ["--page", str(tmp_path / "page.html"), "--examples", "1000"]
    assert evaluate_devise([*places, "--candidates", "all", *everything]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    made = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    count = scores["images"]  # pictures that the model was not trained on
    assert count + scores["trained_on"]["images"] == EACH * len(NAMES)
    assert len(made.texts("article", "unseen")) == EACH
    assert len(made.texts("article", "seen")) == count - EACH
    assert made.texts("h1")[0].endswith("examples, pictures held out of training")
    marks = made.texts("p", "marks")
    right = sum(text.endswith(" right") for text in marks)
    among_five = sum("not among" not in text for text in marks)
    assert right / count == pytest.approx(scores["hit@1"], abs=1e-4)
    assert among_five / count == pytest.approx(scores["hit@5"], abs=1e-4)
    rows = ["among all", "seen, among all", "unseen, among all", "harmonic mean of both"]
    held_out = [f"pictures held out of training, {row}" for row in rows]
    assert made.texts("th")[-5:] == [*held_out, "pictures of the training, among all"]
    assert f"{scores['unseen_hit@1']:.3f}" in made.texts("td")
    assert f"{scores['harmonic@5']:.3f}" in made.texts("td")


def test_examples_are_spread_over_the_pictures_with_their_own_thumbnails(world: World) -> None:
    model, table = DeviseModel.open(str(world.model)), FeatureTable.open(str(world.features))
    labels = candidate_labels(model, "all", None)
    examples = page_examples(Evaluator(model, table, "all", labels), len(NAMES), k=2)
    rows = range(0, len(table), EACH)
    assert [entry.truth for entry in examples] == [NAMES[table.labels[row]] for row in rows]
    assert [entry.picture for entry in examples] == table.thumbnails(rows)
    assert [entry.seen for entry in examples] == [table.labels[row] != UNSEEN for row in rows]
    for entry in examples:
        assert len(entry.nearest) == 2
        assert entry.nearest[0][1] >= entry.nearest[1][1]


def test_labels_of_equal_names_are_told_apart(world: World) -> None:
    model, table = DeviseModel.open(str(world.model)), FeatureTable.open(str(world.features))
    labels = candidate_labels(model, "all", None)
    same = replace(labels, names=["crane", "crane", *labels.names[2:]])
    examples = page_examples(Evaluator(model, table, "all", same), 1000, k=len(NAMES))
    shown = {name for entry in examples for name, _ in entry.nearest}
    cranes = {f"crane ({label})" for label in labels.labels[:2]}
    assert shown == {*cranes, *labels.names[2:]}
    assert {entry.truth for entry in examples} == shown

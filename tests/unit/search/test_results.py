"""What a search gives to Python: pictures in any form as queries, matches as a sheet."""

import base64
import io
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqvis.collection.items import Match
from seqvis.errors import DataError, QueryError
from seqvis.search.engine import Matches, SearchEngine
from tests.support.searching import World, draw


@pytest.fixture(scope="module")
def engine(world: World) -> Iterator[SearchEngine]:
    with SearchEngine.open(world.collection) as opened:
        yield opened


def test_a_picture_is_the_same_query_in_every_form(engine: SearchEngine, tmp_path: Path) -> None:
    content, file = draw(2, seed=999), tmp_path / "boat.png"
    file.write_bytes(content)
    expected = engine.image(content, k=5)
    picture = Image.open(file)
    for given in (str(file), file, file.as_uri(), bytearray(content), picture, np.array(picture)):
        assert engine.image(given, k=5) == expected
    named = engine.classify(content, candidates="labels")
    assert named[0].name == "boat"
    assert engine.classify(file, candidates="labels") == named


def test_a_turned_and_a_grey_picture_are_read_as_their_files_are(
    engine: SearchEngine, tmp_path: Path
) -> None:
    picture = Image.open(io.BytesIO(draw(1, seed=7)))
    turn = Image.Exif()
    turn[0x0112] = 6
    picture.save(tmp_path / "turned.png", exif=turn)
    picture.convert("CMYK").save(tmp_path / "print.tif")
    picture.convert("L").save(tmp_path / "grey.png")
    for name in ("turned.png", "print.tif", "grey.png"):
        opened = Image.open(tmp_path / name)
        assert engine.image(opened, k=3)[0].id == engine.image(tmp_path / name, k=3)[0].id
    grey = np.array(Image.open(tmp_path / "grey.png"))
    assert grey.ndim == 2
    assert engine.image(grey, k=3) == engine.image(tmp_path / "grey.png", k=3)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (5, "not as int: 5"),
        (None, "not as NoneType: None"),
        (Image.new("F", (2, 2)), "mode=F"),
        (np.zeros((2, 2, 3)), r"float64 \[2, 2, 3\]"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"uint8 \[1, 2, 2, 3\]"),
    ],
)
def test_what_is_no_picture_is_named(engine: SearchEngine, given: object, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        engine.image(given)


def test_a_file_that_is_missing_or_no_picture_is_named(
    engine: SearchEngine, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: no such file"):
        engine.image(tmp_path / "none.jpg")
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(QueryError, match="picture cannot be used"):
        engine.image(str(tmp_path / "notes.txt"))


def test_matches_are_a_list_and_shown_with_their_thumbnails(engine: SearchEngine) -> None:
    matches = engine.text("boat", k=3)
    html = matches._repr_html_()
    assert ">boat<" in html
    thumbnails = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", html)]
    assert thumbnails == [engine.collection.thumbnail(match.id) for match in matches]
    for match in matches:
        assert f">{match.score:.3f}<" in html
    again = pickle.loads(pickle.dumps(matches))
    assert again == matches
    assert type(again) is list


def test_the_sheet_escapes_what_it_shows_and_says_when_there_is_nothing() -> None:
    match = Match("a/<b>\n.jpg", 0.5, b'{"name": "<script>"}')
    html = Matches([match], "<i> & more", lambda name: None)._repr_html_()
    for text in ("&lt;i&gt; &amp; more", "&lt;script&gt;", r"&lt;b&gt;\n.jpg", "no picture"):
        assert text in html
    assert "nothing found" in Matches([], "boat", lambda name: None)._repr_html_()

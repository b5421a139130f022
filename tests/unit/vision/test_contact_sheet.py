"""Sheets are read back with Pillow; pictures in one colour show where each was put."""

import io
import resource
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from seqvis.errors import DataError, StorageError
from seqvis.plots.style import GREEN, LIGHT
from seqvis.storage import locate
from seqvis.vision.contact_sheet import SIDE, Cell, draw_contact_sheet

RED, BLUE, YELLOW = (255, 0, 0), (0, 0, 255), (255, 255, 0)


def square(colour: tuple[int, int, int], width: int = 50, height: int = 50) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(content, "PNG")
    return content.getvalue()


def sheet(folder: Path, cells: list[Cell], title: str = "boat", **options) -> NDArray[np.uint8]:
    """(height, width, red-green-blue) of the sheet."""
    draw_contact_sheet(locate(folder / "sheet.png"), title, cells, **options)
    with Image.open(folder / "sheet.png") as picture:
        return np.asarray(picture.convert("RGB"))


def place(picture: NDArray[np.uint8], colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, left, height, width of the box of all pixels in exactly this colour, which fill it."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    top, left = rows.min(), columns.min()
    height, width = rows.max() - top + 1, columns.max() - left + 1
    assert len(rows) == height * width
    return int(top), int(left), int(height), int(width)


def test_pictures_stand_in_rows_from_left_to_right(tmp_path: Path) -> None:
    cells = [Cell(square(colour), "a name\n0.50") for colour in (RED, BLUE, YELLOW)]
    picture = sheet(tmp_path, cells, columns=2)
    red, blue, yellow = (place(picture, colour) for colour in (RED, BLUE, YELLOW))
    for box in (red, blue, yellow):
        assert box[2:] == (SIDE, SIDE)
    assert red[0] == blue[0]
    assert red[1] == yellow[1]
    assert blue[1] >= red[1] + SIDE + 10
    assert yellow[0] >= red[0] + SIDE + 30  # the captions are between


def test_a_lost_or_damaged_picture_is_a_grey_box_and_the_others_stay(tmp_path: Path) -> None:
    whole = sheet(tmp_path, [Cell(square(RED), "x"), Cell(square(BLUE), "y")])
    for lost in (None, b"", b"not a picture", square(BLUE)[:40]):
        picture = sheet(tmp_path, [Cell(square(RED), "x"), Cell(lost, "y")])
        assert place(picture, RED) == place(whole, RED)
        top, left, _, _ = place(whole, BLUE)
        box = picture[top : top + SIDE, left : left + SIDE]
        grey = tuple(round(255 * part) for part in to_rgb(LIGHT))
        assert (box == grey).all(axis=2).mean() > 0.9  # the rest says "no picture"
        assert (box[50:78] < 200).any()


def test_a_picture_keeps_its_proportions_in_the_middle_of_its_place(tmp_path: Path) -> None:
    picture = sheet(tmp_path, [Cell(square(RED), ""), Cell(square(BLUE, 200, 100), "")])
    red, blue = place(picture, RED), place(picture, BLUE)
    assert blue[2:] == (SIDE // 2, SIDE)
    assert blue[0] == red[0] + SIDE // 4


def test_a_frame_surrounds_its_own_picture_only(tmp_path: Path) -> None:
    cells = [Cell(square(RED), ""), Cell(square(BLUE), "", frame=GREEN)]
    picture = sheet(tmp_path, cells)
    green = (picture == [round(255 * part) for part in to_rgb(GREEN)]).all(axis=2)
    top, left, _, _ = place(picture, BLUE)
    rows, columns = np.nonzero(green)
    assert top - 6 <= rows.min() <= top - 3
    assert left - 6 <= columns.min() <= left - 3
    assert top + SIDE + 2 <= rows.max() <= top + SIDE + 5
    assert left + SIDE + 2 <= columns.max() <= left + SIDE + 5
    assert not green[top : top + SIDE, left : left + SIDE].any()


@pytest.mark.parametrize(
    "caption",
    [
        "Donaudampfschifffahrtsgesellschaftskapitänsmütze",
        "a name of many words that goes on and on, longer than any caption should be\n0.123",
        "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW\nMMMMMMMMMMMMMMMMMMMMMMMMM\nMMMMMMMMMMMMM",
        "costs $5, not $6_{7}",
    ],
)
def test_a_long_caption_stays_below_its_picture(tmp_path: Path, caption: str) -> None:
    cells = [Cell(square(RED), caption), Cell(square(BLUE), "")]
    with_text, without = (
        sheet(tmp_path, [Cell(cells[0].picture, text), cells[1]]) for text in (caption, " ")
    )
    top, left, _, _ = place(with_text, RED)
    assert place(with_text, BLUE) == place(without, BLUE)
    below = with_text[top + SIDE + 2 :]
    ink = np.nonzero((below < 160).any(axis=2))
    assert left - 2 <= ink[1].min()
    assert ink[1].max() <= left + SIDE + 4  # nothing reaches the next column
    assert 8 <= ink[0].max() - ink[0].min() <= 3 * 16


def test_what_follows_a_line_break_is_grey(tmp_path: Path) -> None:
    picture = sheet(tmp_path, [Cell(square(RED), "MMMM\nMMMM")])
    top, left, _, _ = place(picture, RED)
    below = picture[top + SIDE + 2 :, left : left + SIDE].min(axis=(1, 2))
    first, second = below[:22].min(), below[24:40].min()
    assert first < 60 < 90 < second < 140


def test_accented_captions_are_drawn_with_their_accents(tmp_path: Path) -> None:
    pictures = [
        sheet(tmp_path, [Cell(square(RED), name)]) for name in ("piñata", "pinata", "pi?ata")
    ]
    plain, other = ((picture != pictures[0]).any(axis=2).sum() for picture in pictures[1:])
    assert 0 < plain < other  # from n to ñ a tilde is added; a mark for a lost letter is another


def test_the_title_and_the_note_stand_above_and_below(tmp_path: Path) -> None:
    bare = sheet(tmp_path, [Cell(square(RED), "x")], title="")
    full = sheet(tmp_path, [Cell(square(RED), "x")], title="engine + boat", note="by somebody")
    (top, left, *_), (bare_top, bare_left, *_) = place(full, RED), place(bare, RED)
    assert left == bare_left
    assert top > bare_top
    assert (full[:top] < 100).any()
    assert not (bare[: bare_top - 2] < 200).any()
    assert len(full) - top > len(bare) - bare_top


def test_a_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sheet\.png: a contact sheet needs"):
        draw_contact_sheet(locate(tmp_path / "sheet.png"), "boat", [])


def test_a_place_that_takes_no_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").mkdir()
    with pytest.raises(StorageError, match=r"sheet\.png"):
        draw_contact_sheet(locate(tmp_path / "sheet.png"), "boat", [Cell(square(RED), "x")])


def test_a_full_disk_leaves_no_empty_sheet_and_the_old_one_stays(tmp_path: Path) -> None:
    cells = [Cell(square(RED), "x")]
    for there in (b"", b"the old sheet"):
        path = tmp_path / "sheet.png"
        path.unlink(missing_ok=True)
        if there:
            path.write_bytes(there)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(StorageError, match=r"sheet\.png"):
                draw_contact_sheet(locate(path), "boat", cells)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([there] if there else [])

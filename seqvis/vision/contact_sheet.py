"""Draw a contact sheet: a PNG of pictures that a query found, in rows, each with its caption.

Pictures are given as encoded files (PNG, JPEG and others).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray
from PIL import Image

from seqvis.errors import DataError
from seqvis.plots.style import DPI, GREY, INK, LIGHT, font_families, new_figure, save
from seqvis.storage import Location
from seqvis.vision.images import BadImage, decode

SIDE = 128  # pixels of a picture's square: as large as a stored thumbnail
_GAP, _MARGIN = 22, 24  # pixels between squares, and around the sheet
_FRAME = 5  # pixels of a coloured frame
_CAPTION_LINES = 3


@dataclass(frozen=True)
class Cell:
    """A picture with its caption.

    `picture` is an encoded file, or None if there is none. The part of the caption after a line
    break is drawn in grey: a name, then its score. `frame` is the matplotlib colour of a frame
    around the picture; None draws a hairline.
    """

    picture: bytes | None
    caption: str
    frame: str | None = None


def draw_contact_sheet(
    location: Location, title: str, cells: Sequence[Cell], columns: int = 5, note: str = ""
) -> None:
    """Write the sheet as a PNG: the title (the query), the cells in rows, a note in small type.

    Text is wrapped; a caption ends after three lines with an ellipsis. Raises DataError if there
    are no cells, StorageError if the disk does not take the file.
    """
    if not cells:
        raise DataError(f"{location.uri}: a contact sheet needs at least one picture")
    columns = max(1, min(columns, len(cells)))
    sheet = _Sheet(max(columns, 3))  # a title needs some room
    sheet.add_text(title, _TITLE, INK)
    for start in range(0, len(cells), columns):
        sheet.add_row(cells[start : start + columns])
    sheet.add_text(note, _NOTE, GREY)
    sheet.write(location)


@dataclass(frozen=True)
class _Type:
    points: float
    line: int  # pixels from one line to the next
    below: int  # pixels after the last line
    limit: int  # lines
    weight: str = "normal"


_TITLE = _Type(14.0, 26, 12, 3, "bold")
_CAPTION = _Type(9.0, 16, 0, _CAPTION_LINES)
_NOTE = _Type(8.0, 15, 0, 3)


class _Sheet:
    """Axes that cover the figure and count pixels from its upper left corner.

    Rows are added from the top down; the height is set when the sheet is written.
    """

    def __init__(self, columns: int):
        self._width = 2 * _MARGIN + columns * SIDE + (columns - 1) * _GAP
        self._top = _MARGIN
        self._figure = new_figure(self._width / DPI, 1.0)
        self._figure.set_layout_engine("none")  # every place here is given
        self._ax: Axes = self._figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self._ax.set_axis_off()

    def add_text(self, text: str, type_: _Type, colour: str) -> None:
        lines = _wrap(text, type_, self._width - 2 * _MARGIN, type_.limit)
        for line in lines:
            self._write(_MARGIN, self._top, line, type_, colour)
            self._top += type_.line
        self._top += type_.below if lines else 0

    def add_row(self, cells: Sequence[Cell]) -> None:
        tallest = 0
        for column, cell in enumerate(cells):
            left = _MARGIN + column * (SIDE + _GAP)
            self._draw_picture(left, cell)
            caption = _caption_lines(cell.caption)
            for number, (line, colour) in enumerate(caption):
                y = self._top + SIDE + 8 + number * _CAPTION.line
                self._write(left, y, line, _CAPTION, colour)
            tallest = max(tallest, len(caption))
        self._top += SIDE + 8 + tallest * _CAPTION.line + _GAP - 6

    def write(self, location: Location) -> None:
        height = self._top + _MARGIN - 8
        self._figure.set_size_inches(self._width / DPI, height / DPI)
        self._ax.set_xlim(0, self._width)
        self._ax.set_ylim(height, 0)
        location.parent().make_directory()
        with location.local_output() as path:
            save(self._figure, path)

    def _draw_picture(self, left: int, cell: Cell) -> None:
        top = self._top
        picture = None if cell.picture is None else _fit(cell.picture)
        wide = _FRAME if cell.frame else 1
        self._fill(left - wide, top - wide, SIDE + 2 * wide, cell.frame or LIGHT)
        self._fill(left, top, SIDE, LIGHT if picture is None else "white")
        if picture is None:
            # A picture that is missing or cannot be decoded must not cost the whole sheet.
            word = "no picture"
            x = left + (SIDE - _text_width(word, _CAPTION)) / 2
            self._write(x, top + SIDE // 2 - 7, word, _CAPTION, GREY)
            return
        height, width = picture.shape[:2]
        x, y = left + (SIDE - width) // 2, top + (SIDE - height) // 2
        extent = (x, x + width, y + height, y)  # whole pixels: nothing is resampled again
        self._ax.imshow(picture, extent=extent, aspect="auto", interpolation="nearest", zorder=2)

    def _fill(self, left: int, top: int, side: int, colour: str) -> None:
        # Filled, not outlined: a line is shifted to whole pixels, over the picture's edge.
        self._ax.add_patch(Rectangle((left, top), side, side, facecolor=colour, linewidth=0))

    def _write(self, x: float, y: float, text: str, type_: _Type, colour: str) -> None:
        self._ax.text(
            x,
            y + 0.75 * type_.line,  # the base line: tops differ from letter to letter
            text,
            va="baseline",
            fontsize=type_.points,
            fontweight=type_.weight,
            color=colour,
            parse_math=False,
        )


def _fit(picture: bytes) -> NDArray[np.uint8] | None:
    """Fit the picture into the square, uint8 (height, width, 3); None if it is damaged."""
    try:
        image = decode(picture, enough=SIDE).picture
    except BadImage:
        return None
    scale = SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _caption_lines(caption: str) -> list[tuple[str, str]]:
    """Return lines that fit below a picture, with their colours."""
    name, *rest = caption.split("\n")
    below = [line for text in rest for line in _wrap(text, _CAPTION, SIDE, 1)]
    below = below[: _CAPTION_LINES - 1]
    lines = _wrap(name, _CAPTION, SIDE, _CAPTION_LINES - len(below))
    return [(line, INK) for line in lines] + [(line, GREY) for line in below]


def _wrap(text: str, type_: _Type, room: int, limit: int) -> list[str]:
    """Break text into at most `limit` lines of `room` pixels; cut what does not fit."""
    lines: list[str] = []
    for word in text.split():
        if lines and _text_width(f"{lines[-1]} {word}", type_) <= room:
            lines[-1] += f" {word}"
            continue
        while len(lines) < limit and _text_width(word, type_) > room:
            fits = _length_that_fits(word, "", type_, room)
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    if len(lines) > limit:
        last = lines[limit - 1]
        lines[limit - 1 :] = [last[: _length_that_fits(last, "…", type_, room)] + "…"]
    return lines


def _length_that_fits(text: str, end: str, type_: _Type, room: int) -> int:
    """Count the characters of `text`, at least one, that fit into `room` pixels before `end`."""
    for length in range(len(text), 1, -1):
        if _text_width(text[:length] + end, type_) <= room:
            return length
    return 1


def _text_width(text: str, type_: _Type) -> float:
    """Measure the pixels that a text takes on a line."""
    font = FontProperties(family=font_families(), size=type_.points, weight=type_.weight)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) * DPI / 72

"""What a notebook shows of results: HTML that needs no script, style sheet or other file.

All text is escaped. `dir="auto"` lets each text run in the direction of its own letters.
"""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike

_CELL = "padding:2px 6px;border:none;text-align:left"
_DARK = "8,48,107"  # of a cell with all the attention; attention_map's darkest blue
_GREY = "color:#6B6B6B"
_SIDE = 128  # pixels of a picture's square: as large as a stored thumbnail


def text_line(text: str, style: str = "") -> str:
    return f'<div dir="auto" style="{style}">{escape(text)}</div>'


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of texts, its columns named by `head`."""
    names = "".join(f'<th style="{_CELL};{_GREY}">{escape(name)}</th>' for name in head)
    lines = "".join(
        "<tr>"
        + "".join(f'<td dir="auto" style="{_CELL}">{escape(text)}</td>' for text in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"


def attention_table(
    weights: ArrayLike, source_words: Sequence[str], target_words: Sequence[str]
) -> str:
    """Return a map of attention: a row for each target word, a column for each source word.

    `weights` is (target, source), from 0 to 1. The darker a cell, the larger its weight, which the
    cell shows when it is pointed at.
    """
    head = "".join(
        f'<th dir="auto" style="{_CELL};font-weight:normal;vertical-align:bottom;'
        f'writing-mode:{"vertical-rl" if len(source_words) > 12 else "horizontal-tb"}">'
        f"{escape(word)}</th>"
        for word in source_words
    )
    lines = []
    for word, row in zip(target_words, np.nan_to_num(weights), strict=True):
        cells = "".join(
            f'<td title="{escape(source)}: {weight:.2f}" style="padding:0;border:1px solid #E3E3E3;'
            f'min-width:1.4em;background:rgba({_DARK},{min(max(weight, 0.0), 1.0):.2f})"></td>'
            for source, weight in zip(source_words, row.tolist(), strict=True)
        )
        lines.append(f'<tr><th dir="auto" style="{_CELL};font-weight:normal">{escape(word)}</th>')
        lines.append(f"{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def picture_sheet(title: str, cells: Iterable[tuple[bytes | None, str]]) -> str:
    """Return a title above pictures in rows, each a JPEG (None: there is none) and its caption.

    The part of a caption after its first line break is grey, as on `contact_sheet`'s sheets.
    """
    figures = []
    for picture, caption in cells:
        shown = f'<div style="height:{_SIDE}px;{_GREY}">no picture</div>'
        if picture is not None:
            data = b64encode(picture).decode()
            shown = (
                f'<img alt="" src="data:image/jpeg;base64,{data}" '
                f'style="width:{_SIDE}px;height:{_SIDE}px;object-fit:contain;margin:0">'
            )
        name, *rest = caption.split("\n")
        below = "".join(text_line(line, _GREY) for line in rest)
        figures.append(
            f'<figure style="display:inline-block;vertical-align:top;width:{_SIDE}px;'
            f'margin:0 16px 12px 0;font-size:small;overflow-wrap:anywhere">{shown}'
            f"<figcaption>{text_line(name)}{below}</figcaption></figure>"
        )
    heading = text_line(title, "font-weight:bold;margin-bottom:6px")
    return f"<div>{heading}{''.join(figures) or text_line('nothing found', _GREY)}</div>"

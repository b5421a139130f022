"""Plots of where a translator attends, drawn from plain numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from seqvis.plots.style import BLUE, GREY, INK, LIGHT, draw_title, new_figure, style


def attention_map(
    weights: ArrayLike,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw which source words the decoder attended to when it produced each target word.

    `weights` is (target, source): a row for each produced token, the source sentence above.
    The darker a cell, the larger the weight; white is zero. Raises ValueError if the shape does
    not fit the tokens, or if there are none.
    """
    matrix = _checked(weights, source_tokens, target_tokens)
    rows, columns = matrix.shape
    cell = float(np.clip(9.0 / max(rows, columns), 0.19, 0.45))  # inches
    width = max(columns * cell + 0.085 * _longest(target_tokens) + 1.6, 4.2)
    height = max(rows * cell + 0.085 * _longest(source_tokens) + 0.8, 1.7)
    figure = new_figure(width, height)
    ax = figure.subplots()
    # At least 0.25, so that attention spread over the whole sentence looks as pale as it is.
    peak = max(0.25, float(np.max(matrix, where=np.isfinite(matrix), initial=0.0)))
    image = ax.imshow(matrix, cmap=_heat(), vmin=0.0, vmax=peak)
    _label_cells(ax, source_tokens, target_tokens, font_size=11 if cell > 0.3 else 9)
    bar = figure.colorbar(image, ax=ax, shrink=min(1.0, 2.5 / (rows * cell)), aspect=18, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0, labelcolor=GREY)
    bar.set_label("attention", color=GREY, fontsize=9)
    _set_heading(figure, title)
    return figure


def attention_lines(
    weights: ArrayLike,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw the attention of the first nine produced words as lesson 11 does: three by three lines.

    Arguments as of `attention_map`.
    """
    matrix = _checked(weights, source_tokens, target_tokens)
    figure = new_figure(max(9.0, 0.75 * len(source_tokens)), 9.0)
    all_axes = figure.subplots(3, 3, sharex=True, sharey=True).ravel()
    for ax, row, token in zip(all_axes, matrix, target_tokens, strict=False):
        ax.plot(range(len(row)), row, color=BLUE, marker="o", markersize=3)
        draw_title(ax, token, "")
        ax.set_ylim(0, 1.05)
        style(ax)
        # A lone $ in a sentence is money, not the beginning of mathematics.
        ax.set_xticks(range(len(row)), labels=source_tokens, rotation=90, parse_math=False)
    for ax in all_axes[len(matrix) :]:
        ax.set_visible(False)
    _set_heading(figure, title)
    return figure


def _checked(
    weights: ArrayLike, source_tokens: Sequence[str], target_tokens: Sequence[str]
) -> NDArray[np.float64]:
    matrix = np.asarray(weights, dtype=float)
    if not source_tokens or not target_tokens:
        raise ValueError("attention needs at least one source and one target token")
    if matrix.shape != (len(target_tokens), len(source_tokens)):
        raise ValueError(
            f"attention weights of shape {matrix.shape} do not fit "
            f"{len(target_tokens)} target and {len(source_tokens)} source tokens"
        )
    return matrix


def _set_heading(figure: Figure, title: str) -> None:
    if title:
        heading = figure.suptitle(title, fontsize=12, color=INK)
        heading.set_parse_math(False)
        heading.set_wrap(True)


def _label_cells(
    ax: Axes, source_tokens: Sequence[str], target_tokens: Sequence[str], font_size: int
) -> None:
    rows, columns = len(target_tokens), len(source_tokens)
    # A lone $ in a sentence is money, not the beginning of mathematics.
    text: dict[str, Any] = {"fontsize": font_size, "parse_math": False}
    ax.set_yticks(range(rows), labels=target_tokens, **text)
    if columns <= 20:  # slanted words are easier to read than upright ones, but need room
        text |= {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}
    else:
        text |= {"rotation": 90}
    ax.set_xticks(range(columns), labels=source_tokens, **text)
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=5)
    ax.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    ax.grid(which="minor", color=LIGHT, linewidth=0.8)
    ax.tick_params(which="minor", top=False, bottom=False, left=False)
    ax.spines[:].set_visible(False)


def _longest(tokens: Sequence[str]) -> int:
    return max(len(token) for token in tokens)


def _heat() -> LinearSegmentedColormap:
    """Return colours from white, which vanishes into the paper, evenly to dark blue."""
    shades = ["#FFFFFF", "#CFE3F1", "#7FB3D8", "#2F7FB8", "#08306B"]
    return LinearSegmentedColormap.from_list("attention", shades)

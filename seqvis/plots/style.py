"""The common look of the project's plots: colours, fonts, axes, files.

matplotlib's Agg canvas is used through its objects, so it needs no display and no `pyplot`, and two
callers share no state. The colours are Okabe and Ito's, which colour-blind readers can tell apart
(https://jfly.uni-koeln.de/color/).
"""

import io
from pathlib import Path

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from seqvis.storage import locate

DPI = 100
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INK, GREY, LIGHT = "#222222", "#6B6B6B", "#E3E3E3"

# DejaVu Sans has every accent of the European languages; the others, where a machine has them,
# draw the words of languages that it lacks.
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "IPAexGothic", "WenQuanYi Zen Hei")


class Drawing(Figure):
    """A figure that a notebook shows, without `pyplot` and its `%matplotlib inline`."""

    def _repr_png_(self) -> bytes:
        return to_png(self)


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many inches with its own canvas."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    figure = Drawing(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def draw_title(ax: Axes, title: str, note: str) -> None:
    """Set the title at the left, and at the right a remark in small type."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    ax.set_title(note, loc="right", fontsize=9, color=GREY, parse_math=False)


def style(ax: Axes) -> None:
    """Give a picture with numbers on its axes the common look."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.grid(axis="y", color=LIGHT, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=GREY, labelsize=9)
    ax.xaxis.label.set_color(GREY)
    ax.yaxis.label.set_color(GREY)


def font_families() -> list[str]:
    """Return the fonts that texts are drawn in: a character is taken from the first that has it."""
    installed = set(font_manager.get_font_names())
    return [name for name in _FONTS if name in installed]


def to_svg(figure: Figure) -> bytes:
    """Return the figure as an SVG that needs no fonts; the same figure gives the same bytes."""
    _set_fonts(figure)
    picture = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "seqvis"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()


def to_png(figure: Figure) -> bytes:
    _set_fonts(figure)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=DPI)
    return picture.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write the figure as a PNG, whole or not at all. StorageError if the disk is full or so."""
    locate(path).replace(to_png(figure))


def _set_fonts(figure: Figure) -> None:
    families = font_families()
    for text in figure.findobj(Text):
        text.set_fontfamily(families)


def thousands(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def short(value: float) -> str:
    return thousands(value) if abs(value) >= 10_000 else f"{value:g}"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"

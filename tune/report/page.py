"""`report.html`: one page with its pictures inside, no scripts, nothing from elsewhere.

Drawn from the content of `report.json` by the template `report.html` beside this file. Texts that
came with the trials (errors, names) are escaped by the template.

The report's pictures, each an SVG of its own, drawn from the content of `report.json` alone.

They are small, so that a telephone shows them at their true size and a wide screen several beside
each other; names and explanations are the page's. The common look is in `seqvis.plots.style`.
"""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from seqvis.plots.style import BLUE, GREY, INK, LIGHT, new_figure, style, to_svg
from tune.report import words

_WIDE, _NARROW = 7.4, 3.5  # inches
_CURVES = 8  # of the strongest settings
_SURFACES = 4  # of the strongest interactions

Pictures = Mapping[str, Any]


def render_page(content: Mapping[str, Any]) -> str:
    """The page of a report's content."""
    folder = files("tune.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "show": words.show,
        "three": words.three,
        "breakable": _breakable,
        "duration": words.duration,
        "sentence": words.capital,
        "contrast": words.contrast_sentence,
    }
    template = environment.from_string((folder / "report.html").read_text(encoding="utf-8"))
    style = Markup((folder / "report.css").read_text(encoding="utf-8"))
    return template.render(**content, style=style, pictures=_draw(content), counted=words.counted)


def _draw(content: Mapping[str, Any]) -> dict[str, Any]:
    metric, used = content["budget"]["shown_as"], content["used"]
    kinds = {one["setting"]: one["kind"] for one in content["settings"]}
    drawn: dict[str, Any] = {
        "scatter": {
            one["setting"]: _uri(draw_scatter(one, used, metric))
            for one in content["settings"]
            if used
        }
    }
    ranking = content["ranking"]
    if ranking is None:
        return drawn
    bar = ranking["bar"]
    for name, rows, key in (
        ("importance", ranking["settings"], "setting"),
        ("groups", ranking["groups"], "group"),
    ):
        if rows:
            drawn[name] = {
                "wide": _uri(draw_importances(rows, key, bar, _WIDE, names_beside=True)),
                "narrow": _uri(draw_importances(rows, key, bar, _NARROW, names_beside=False)),
            }
    strongest = [one for one in ranking["settings"] if one["important"]][:_CURVES]
    drawn["curves"] = {
        one["setting"]: _uri(draw_curve(one, kinds[one["setting"]], used, metric))
        for one in strongest
    }
    drawn["surfaces"] = [
        _uri(draw_surface(one, kinds, metric)) for one in ranking["interactions"][:_SURFACES]
    ]
    return drawn


def _breakable(name: str) -> Markup:
    """A dotted name that may be broken after its dots."""
    return Markup(".<wbr>").join(name.split("."))


def _uri(picture: bytes) -> Markup:
    return Markup("data:image/svg+xml;base64," + base64.b64encode(picture).decode("ascii"))


_SMALL = (3.5, 2.5)  # inches
_ROW = 0.44  # of an importance, with its name above it
_CROWDED = 24  # characters of the levels of a category, beyond which they are slanted
_PALE = "#A9C9E0"

Row = Mapping[str, Any]


def draw_importances(
    rows: Sequence[Row], key: str, bar: float, width: float, names_beside: bool
) -> bytes:
    """A point with its interval for each row, named by `row[key]`; what does not count is shaded.

    Names stand beside the rows, or above them where there is no room.
    """
    row_height = 0.32 if names_beside else _ROW
    figure = new_figure(width, row_height * len(rows) + 0.75)
    ax = figure.subplots()
    low = min(0.0, *(row["importance"]["low"] for row in rows))
    high = max(row["importance"]["high"] for row in rows)
    ax.axvspan(low - (high - low), bar, color=LIGHT, alpha=0.6, linewidth=0, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for place, row in enumerate(rows):
        _draw_interval(ax, place, row)
        if not names_beside:
            x = low - 0.02 * (high - low)
            ax.text(x, place - 0.42, row[key], fontsize=9, color=INK, va="center", parse_math=False)
    if names_beside:
        ax.set_yticks(range(len(rows)), [row[key] for row in rows], parse_math=False)
    else:
        ax.set_yticks([])
    ax.set_ylim(len(rows) - 0.4, -0.8 if not names_beside else -0.6)
    ax.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.set_xlabel("importance")
    style(ax)
    ax.grid(visible=False)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    return to_svg(figure)


def _draw_interval(ax: Axes, place: int, row: Row) -> None:
    colour = BLUE if row["important"] else GREY
    found = row["importance"]
    ax.plot([found["low"], found["high"]], [place, place], color=colour, linewidth=2.2, alpha=0.55)
    ax.plot([found["value"]], [place], "o", color=colour, markersize=6.5, markeredgecolor="white")


def draw_curve(row: Row, kind: str, used: Sequence[Row], metric: str) -> bytes:
    """Partial dependence of a setting with its band, over the trials themselves."""
    figure = new_figure(*_SMALL)
    ax = figure.subplots()
    curve = row["curve"]
    _draw_trials(ax, row["setting"], kind, curve["values"], used)
    places = np.arange(len(curve["values"])) if kind == "category" else np.array(curve["values"])
    if kind == "category":
        errors = [
            np.subtract(curve["middle"], curve["low"]),
            np.subtract(curve["high"], curve["middle"]),
        ]
        ax.errorbar(
            places, curve["middle"], np.maximum(errors, 0), fmt="o", color=BLUE, markersize=7,
            elinewidth=2.2, markeredgecolor="white",
        )  # fmt: skip
    else:
        ax.fill_between(places, curve["low"], curve["high"], color=BLUE, alpha=0.22, linewidth=0)
        ax.plot(places, curve["middle"], color=BLUE, linewidth=2.2)
    _finish(ax, row["setting"], metric)
    return to_svg(figure)


def draw_scatter(setting: Row, used: Sequence[Row], metric: str) -> bytes:
    """The trials' metric over one setting."""
    figure = new_figure(*_SMALL)
    ax = figure.subplots()
    _draw_trials(ax, setting["setting"], setting["kind"], setting.get("levels", ()), used, BLUE)
    _finish(ax, setting["setting"], metric)
    return to_svg(figure)


def _draw_trials(
    ax: Axes,
    name: str,
    kind: str,
    levels: Sequence[Any],
    used: Sequence[Row],
    colour: str = _PALE,
) -> None:
    """Points of the trials; of a category beside each other where they would hide each other."""
    pairs = [(one["configuration"][name], one["value"]) for one in used]
    pairs = [(x, y) for x, y in pairs if x is not None]
    heights = [y for _, y in pairs]
    if kind == "category":
        spread = np.random.default_rng(0).uniform(-0.16, 0.16, len(pairs))
        xs = [list(levels).index(x) + shift for (x, _), shift in zip(pairs, spread, strict=True)]
        crowded = sum(len(str(level)) for level in levels) > _CROWDED
        ax.set_xticks(range(len(levels)), list(map(str, levels)), parse_math=False)
        if crowded:
            ax.tick_params(axis="x", labelrotation=20, labelsize=8)
        ax.set_xlim(-0.6, len(levels) - 0.4)
    else:
        xs = [x for x, _ in pairs]
        if kind == "log":
            _make_logarithmic(ax.xaxis, min(xs), max(xs))
    ax.plot(xs, heights, "o", color=colour, markersize=4, alpha=0.65, markeredgewidth=0)


def _make_logarithmic(axis: Axis, low: float, high: float) -> None:
    decades = np.log10(high / low)
    subs = (1, 2, 5) if decades < 1.3 else (1, 3) if decades < 2.5 else (1,)
    (axis.axes.set_xscale if isinstance(axis, XAxis) else axis.axes.set_yscale)("log")
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: words.show(float(value))))
    axis.set_minor_formatter(NullFormatter())


def _finish(ax: Axes, name: str, metric: str) -> None:
    ax.set_xlabel(name, parse_math=False)
    ax.set_ylabel(metric, parse_math=False)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    style(ax)


def draw_surface(pair: Row, kinds: Mapping[str, str], metric: str) -> bytes:
    """What forests predict for each two values of a pair of settings."""
    figure = new_figure(_SMALL[0], 2.9)
    ax = figure.subplots()
    places = []
    for axis, which in ((ax.xaxis, "first"), (ax.yaxis, "second")):
        values, kind = pair[f"{which}_values"], kinds[pair[which]]
        places.append(list(range(len(values))) if kind == "category" else values)
        if kind == "category":
            axis.set_ticks(range(len(values)), [str(value) for value in values], parse_math=False)
        elif kind == "log":
            _make_logarithmic(axis, min(values), max(values))
        elif len(values) <= 4:
            axis.set_ticks(values)
        else:
            axis.set_major_locator(MaxNLocator(4))
    surface = np.array(pair["surface"]).T  # the first setting along x
    image = ax.pcolormesh(
        *places, surface, cmap=_shades(), shading="nearest", edgecolors="face", linewidth=0.5
    )
    ax.set_xlabel(pair["first"], parse_math=False)
    ax.set_ylabel(pair["second"], parse_math=False)
    style(ax)
    ax.grid(visible=False)
    bar = figure.colorbar(image, ax=ax, aspect=18, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0, labelcolor=GREY)
    bar.set_label(metric, color=GREY, fontsize=9)
    return to_svg(figure)


def _shades() -> LinearSegmentedColormap:
    shades = ["#FFF7E8", "#F2C57C", "#D98B4A", "#8C4A5B", "#2B2350"]
    return LinearSegmentedColormap.from_list("report", shades)

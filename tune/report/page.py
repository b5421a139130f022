"""`report.html`: one page with its pictures inside, without scripts or anything from elsewhere.

Drawn from the content of `report.json` by the template `report.html` beside this file, which
escapes texts that came with the trials (errors, names). The pictures are small, so that a telephone
shows them at their true size and a wide screen several beside each other.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from seqvis.plots.style import BLUE, GREY, new_figure, style, to_svg
from tune.report import words

_SIZE = (3.5, 2.5)  # inches
_CURVES = 8  # of the strongest settings
_SURFACES = 4  # of the strongest interactions
_CROWDED = 24  # characters of the levels of a category, beyond which they are slanted
_PALE = "#A9C9E0"

Row = Mapping[str, Any]


def render_page(content: Row) -> str:
    """Return the page of a report's content."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "show": words.show,
        "three": words.three,
        "breakable": lambda name: Markup(re.sub(r"(?<=[._])", "<wbr>", escape(name))),
        "duration": words.duration,
        "sentence": words.capital,
        "contrast": words.contrast_sentence,
    }
    source = (files("tune.report") / "report.html").read_text(encoding="utf-8")
    with rc_context({"text.parse_math": False}):  # names of settings may contain a dollar sign
        pictures = _draw(content)
    template = environment.from_string(source)
    return template.render(**content, pictures=pictures, counted=words.counted)


def _draw(content: Row) -> dict[str, Any]:
    """Draw every setting over the trials, the strongest with their curves, and the surfaces."""
    metric, used = content["budget"]["shown_as"], content["used"]
    settings = {row["setting"]: row for row in content["settings"]}
    ranking = content["ranking"] or {"settings": [], "interactions": []}
    strongest = [row for row in ranking["settings"] if row["important"]][:_CURVES]
    return {
        "scatter": {
            name: _draw_setting(row, used, metric) for name, row in settings.items() if used
        },
        "curves": {
            row["setting"]: _draw_setting(settings[row["setting"]], used, metric, row["curve"])
            for row in strongest
        },
        "surfaces": [
            _draw_surface(pair, settings, metric) for pair in ranking["interactions"][:_SURFACES]
        ],
    }


def _draw_setting(setting: Row, used: Sequence[Row], metric: str, curve: Row | None = None) -> str:
    """Draw the metric of the trials over a setting, with its partial dependence if there is one."""
    figure = new_figure(*_SIZE)
    ax = figure.subplots()
    name = setting["setting"]
    present = [trial for trial in used if trial["configuration"][name] is not None]
    values = [trial["configuration"][name] for trial in present]
    heights = [trial["value"] for trial in present]
    _scale(ax.xaxis, setting, values)
    # Trials with the same level are spread, so that they do not hide each other.
    spread = 0.16 if setting["kind"] == "category" else 0
    shifts = np.random.default_rng(0).uniform(-spread, spread, len(values))
    places = _places(setting, values) + shifts
    ax.plot(
        places, heights, "o", color=BLUE if curve is None else _PALE, markersize=4, alpha=0.65,
        markeredgewidth=0,
    )  # fmt: skip
    if curve is not None:
        places = _places(setting, curve["values"])
        middle, low, high = (np.array(curve[key]) for key in ("middle", "low", "high"))
        if setting["kind"] == "category":
            ax.errorbar(
                places, middle, np.maximum([middle - low, high - middle], 0), fmt="o", color=BLUE,
                markersize=7, elinewidth=2.2, markeredgecolor="white",
            )  # fmt: skip
        else:
            ax.fill_between(places, low, high, color=BLUE, alpha=0.22, linewidth=0)
            ax.plot(places, middle, color=BLUE, linewidth=2.2)
    return _finish(figure, ax, name, metric)


def _draw_surface(pair: Row, settings: Mapping[str, Row], metric: str) -> str:
    """Draw what forests predict for each two values of a pair of settings."""
    figure = new_figure(_SIZE[0], 2.9)
    ax = figure.subplots()
    places = []
    for axis, which in ((ax.xaxis, "first"), (ax.yaxis, "second")):
        setting, values = settings[pair[which]], pair[f"{which}_values"]
        places.append(_places(setting, values))
        _scale(axis, setting, values)
    image = ax.pcolormesh(
        *places, np.array(pair["surface"]).T, cmap="YlOrBr", shading="nearest", edgecolors="face",
        linewidth=0.5,
    )  # fmt: skip
    bar = figure.colorbar(image, ax=ax, aspect=18, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0, labelcolor=GREY)
    bar.set_label(metric, color=GREY, fontsize=9)
    return _finish(figure, ax, pair["first"], pair["second"])


def _places(setting: Row, values: Sequence[Any]) -> Any:
    levels = setting.get("levels")
    return np.array([levels.index(value) if levels else value for value in values], dtype=float)


def _scale(axis: XAxis | YAxis, setting: Row, values: Sequence[Any]) -> None:
    """Give an axis the levels of a category, or a logarithmic scale with readable numbers."""
    if setting["kind"] == "category":
        levels = setting["levels"]
        axis.set_ticks(range(len(levels)), levels)
        if axis.axis_name == "x" and sum(map(len, levels)) > _CROWDED:
            axis.set_tick_params(labelrotation=20, labelsize=8)
    elif setting["kind"] == "log" and values:
        decades = np.log10(max(values) / min(values))
        subs = (1, 2, 5) if decades < 1.3 else (1, 3) if decades < 2.5 else (1,)
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_major_formatter(FuncFormatter(lambda value, _: words.show(float(value))))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(4))


def _finish(figure: Figure, ax: Axes, across: str, up: str) -> str:
    """Label a picture and return it as a URI."""
    ax.set(xlabel=across, ylabel=up)
    style(ax)
    return "data:image/svg+xml;base64," + base64.b64encode(to_svg(figure)).decode("ascii")

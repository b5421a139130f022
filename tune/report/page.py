"""`report.html`: one page with its pictures inside, no scripts, nothing from elsewhere.

Drawn from the content of `report.json` by the template `report.html` beside this file. Texts that
came with the trials (errors, names) are escaped by the template.
"""

import base64
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from tune.report import words
from tune.report.pictures import draw_curve, draw_importances, draw_scatter, draw_surface

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

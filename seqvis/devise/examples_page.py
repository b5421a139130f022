"""Write an HTML page of example pictures with the names nearest to each, right and wrong.

The page, drawn by the template `data/examples.html`, is a single file without scripts that contains
its pictures, and opens from a disk without a network.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jinja2 import Environment, StrictUndefined

from seqvis.devise.evaluate import Evaluator
from seqvis.storage import Location
from seqvis.vision.formats import format_of

Metrics = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Example:
    """A picture, its true name, and the names nearest to it with their scores, best first.

    `picture` is an encoded PNG, JPEG, GIF or WebP file. `seen`: training had pictures of the name.
    """

    picture: bytes
    truth: str
    seen: bool
    nearest: Sequence[tuple[str, float]]


def page_examples(
    evaluator: Evaluator, count: int, k: int = 5, among: np.ndarray | None = None
) -> list[Example]:
    """Choose at most `count` pictures whose label competes, spread evenly over the sorted paths.

    `among`: rows to choose from, whose labels compete; by default all such rows. Labels are shown
    by name, those of equal names (crane, the bird and the machine) with the label.
    """
    labels, table = evaluator.labels, evaluator.table
    place = {label: number for number, label in enumerate(labels.labels)}
    known = evaluator.rows() if among is None else among
    count = min(count, len(known))
    rows = [int(known[number * len(known) // count]) for number in range(count)]
    often = Counter(labels.names)
    names = [
        name if often[name] == 1 else f"{name} ({label})"
        for label, name in zip(labels.labels, labels.names, strict=True)
    ]
    truths = [place[table.labels[row]] for row in rows]
    return [
        Example(
            picture,
            names[truth],
            bool(labels.seen[truth]),
            [(names[number], score) for number, score in nearest],
        )
        for picture, truth, nearest in zip(
            table.thumbnails(rows), truths, evaluator.nearest(rows, k), strict=True
        )
    ]


def metrics_by_set(candidates: str, metrics: Mapping[str, float], of: str = "") -> Metrics:
    """Sort an evaluation's metrics into rows: all pictures, seen, unseen, harmonic mean.

    `of`: which pictures these are, for the rows' names.
    """
    rows: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        kind, _, rest = key.rpartition("_")
        if key.startswith("harmonic@"):
            kind, rest = "harmonic mean of both", key.replace("harmonic", "hit")
        name = f"{kind}, among {candidates}" if kind in ("seen", "unseen") else kind
        name = ", ".join(part for part in (of, name or f"among {candidates}") if part)
        rows.setdefault(name, {})[rest] = value
    return rows


def write_page(
    location: Location, title: str, metrics: Metrics, examples: Sequence[Example], note: str = ""
) -> None:
    """Write the page. Raises StorageError if the disk does not take it.

    `metrics` has a row for each candidate set ("unseen, among all") with its figures by name
    ("hit@1"); a figure that a row lacks is left blank. A nearest name is marked as right where it
    equals the truth. `note` ends the page: whose pictures these are.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"figure": _figure, "data_uri": _data_uri}
    source = (resources.files("seqvis.devise") / "data/examples.html").read_text(encoding="utf-8")
    scores = [score for example in examples for _, score in example.nearest] or [0.0]
    page = environment.from_string(source).render(
        title=title,
        metrics=metrics,
        figures=list(dict.fromkeys(name for row in metrics.values() for name in row)),
        examples=examples,
        ranks=[_rank(example) for example in examples],
        low=min(scores),
        high=max(scores),
        note=note,
    )
    location.parent().make_directory()
    location.write_bytes(page.encode())


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _rank(example: Example) -> int:
    """Return the place of the true name among the nearest, from 1; 0 if it is not there."""
    names = [name for name, _ in example.nearest]
    return names.index(example.truth) + 1 if example.truth in names else 0


def _data_uri(picture: bytes) -> str:
    kind = {"PNG": "png", "GIF": "gif", "WEBP": "webp"}.get(format_of(picture), "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"

"""Write an HTML page of example pictures with the names nearest to each, right and wrong.

The page shows metrics and examples, whose pictures are given as bytes. It is a single file without
scripts that contains its pictures, and opens from a disk without a network.
"""

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seqvis.devise.evaluate import CandidateSet, nearest_labels, rows_to_score
from seqvis.devise.model import DeviseModel
from seqvis.devise.space import LabelSpace
from seqvis.storage import Location
from seqvis.vision.feature_table import FeatureTable

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
    model: DeviseModel,
    table: FeatureTable,
    candidates: CandidateSet,
    labels: LabelSpace,
    count: int,
    k: int = 5,
    among: np.ndarray | None = None,
) -> list[Example]:
    """At most `count` of the pictures whose label is a candidate, evenly from first to last path.

    `among`: rows to choose from, whose labels are candidates; left out, all such rows.
    Labels are shown by name, those of equal names (crane, the bird and the machine) with the label.
    """
    place = {label: number for number, label in enumerate(labels.labels)}
    known = rows_to_score(table, candidates, labels) if among is None else among
    count = min(count, len(known))
    rows = [int(known[number * len(known) // count]) for number in range(count)]
    often = Counter(labels.names)
    names = [
        name if often[name] == 1 else f"{name} ({label})"
        for label, name in zip(labels.labels, labels.names, strict=True)
    ]
    found = nearest_labels(model, table, rows, candidates, labels, k)
    pictures = table.thumbnails(rows)
    truths = [place[table.labels[row]] for row in rows]
    return [
        Example(
            picture,
            names[truth],
            bool(labels.seen[truth]),
            [(names[number], score) for number, score in nearest],
        )
        for picture, truth, nearest in zip(pictures, truths, found, strict=True)
    ]


def metrics_by_set(candidates: str, metrics: Mapping[str, float], of: str = "") -> Metrics:
    """What `evaluate` measured as rows for the page: all pictures, seen, unseen, harmonic mean.

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
    """Writes the page. Raises StorageError if the disk does not take it.

    `metrics` has a row for each candidate set ("unseen, among all"), in it its figures by name
    ("hit@1"); a figure that a row lacks is left blank. A nearest name is marked as right where it
    equals the truth. `note` ends the page: whose pictures these are.
    """
    parts = [
        f"<h1>{_text(title)}</h1>",
        _metrics_table(metrics),
        _counts(examples),
        '<main class="examples">',
        *(_example(example, *_range(examples)) for example in examples),
        "</main>",
        f"<footer>{_text(note)}</footer>" if note else "",
    ]
    body = "\n".join(part for part in parts if part)
    location.parent().make_directory()
    location.write_bytes(_PAGE.format(title=_text(title), style=_STYLE, body=body).encode())


def _metrics_table(metrics: Metrics) -> str:
    if not metrics:
        return ""
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in names)
    rows = "\n".join(
        f'<tr><th scope="row">{_text(candidates)}</th>'
        + "".join(f"<td>{_figure(row.get(name))}</td>" for name in names)
        + "</tr>"
        for candidates, row in metrics.items()
    )
    head = f"<thead><tr><td></td>{head}</tr></thead>"
    return f'<div class="wide"><table>{head}\n<tbody>\n{rows}\n</tbody></table></div>'


def _counts(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    right = sum(_rank(example) == 1 for example in examples)
    found = sum(_rank(example) is not None for example in examples)
    counts = f"{len(examples)} pictures: {right} right at once, {found} among the names shown"
    if any(not example.seen for example in examples):
        counts += "; training had no picture of the names marked unseen"
    return f"<p>{counts}.</p>"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _example(example: Example, low: float, high: float) -> str:
    rank = _rank(example)
    place = "not among these" if rank is None else "right" if rank == 1 else f"found at {rank}"
    kind = "seen" if example.seen else "unseen"
    names = "\n".join(
        _nearest(name, score, name == example.truth, low, high) for name, score in example.nearest
    )
    return (
        f'<article class="{kind}">\n'
        f'<img src="{_data_uri(example.picture)}" alt="{_text(example.truth)}">\n'
        f"<div><h2>{_text(example.truth)}</h2>\n"
        f'<p class="marks"><span class="{kind}">{kind}</span> {place}</p>\n'
        f"<ol>\n{names}\n</ol></div>\n</article>"
    )


def _nearest(name: str, score: float, right: bool, low: float, high: float) -> str:
    # Bars show the range of scores on the page, since cosines of word vectors lie close together.
    # From a tenth to all of the width: the lowest score on the page keeps a visible bar.
    width = 10 + 90 * (score - low) / (high - low) if high > low else 100
    mark = ' class="right"' if right else ""
    tick = '<b title="right">✓</b>' if right else ""
    return (
        f"<li{mark}><span>{_text(name)}{tick}</span>"
        f'<i style="width:{width:.0f}%"></i><em>{score:.3f}</em></li>'
    )


def _rank(example: Example) -> int | None:
    names = [name for name, _ in example.nearest]
    return names.index(example.truth) + 1 if example.truth in names else None


def _range(examples: Sequence[Example]) -> tuple[float, float]:
    scores = [score for example in examples for _, score in example.nearest] or [0.0]
    return min(scores), max(scores)


def _data_uri(picture: bytes) -> str:
    return f"data:{_media_type(picture)};base64,{base64.b64encode(picture).decode()}"


def _media_type(picture: bytes) -> str:
    if picture.startswith(b"\x89PNG"):
        return "image/png"
    if picture.startswith(b"GIF8"):
        return "image/gif"
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return "image/webp"
    return "image/jpeg"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark;
  --paper: #fff; --ink: #222; --soft: #6b6b6b; --line: #e3e3e3; --card: #fafafa;
  --bar: #9cc4e0; --right: #009e73; --unseen: #b84f00; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #16181b; --ink: #e8e8e8; --soft: #a0a4a8; --line: #34383d; --card: #1e2125;
  --bar: #2f5f82; --right: #2fc79a; --unseen: #ff9a4d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1200px; padding: 1.5rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; }
h2 { font-size: 1.05rem; margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: right;
  overflow-wrap: normal; }
th { font-weight: 600; } th[scope=row] { text-align: left; padding-left: 0; }
.examples { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
article { display: flex; gap: 1rem; padding: 1rem; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
article > div { flex: 1; min-width: 0; }
img { width: 112px; height: 112px; object-fit: contain; background: #fff; border-radius: 4px;
  flex: none; }
.marks { margin: 0 0 .5rem; color: var(--soft); font-size: .85rem; }
.marks span { border: 1px solid currentColor; border-radius: 99px; padding: 0 .5em; }
.marks .unseen { color: var(--unseen); }
ol { list-style: none; margin: 0; padding: 0; font-size: .85rem; }
li { display: grid; grid-template-columns: minmax(0, 1fr) 3rem; align-items: center;
  position: relative; padding: .1rem .4rem; margin-bottom: 2px; }
li i { position: absolute; inset: 0 auto 0 0; background: var(--bar); opacity: .45;
  border-radius: 3px; }
li span, li em { position: relative; z-index: 1; }
li em { font-style: normal; text-align: right; color: var(--soft);
  font-variant-numeric: tabular-nums; }
li.right { font-weight: 700; } li.right i { background: var(--right); }
li b { margin-left: .4em; }
footer { margin-top: 2rem; color: var(--soft); font-size: .85rem; }
"""

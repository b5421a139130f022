"""Train a small translator on generated questions and a search of drawings, and show both.

The first part does everything that a real corpus needs, in three to four minutes on two cores:
generate, prepare, train on two Ray workers, score on combinations of words that training never saw,
translate. The second part does everything that a collection of pictures needs, in a minute
(demo_pictures.py). At the end both are served, with a page, until Ctrl-C.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from jobs.demo_pictures import check_installed, show_drawings
from seqvis.cli.console import stage_progress, training_console
from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.cluster import ray_session
from seqvis.config import read_yaml
from seqvis.corpus.prepare import prepare
from seqvis.corpus.settings import PrepareSettings
from seqvis.decoding.beam import DecodingSettings
from seqvis.samples.drawings import ATTRIBUTION
from seqvis.samples.questions import Pair, typed_questions, write_sample
from seqvis.storage import local_path, locate
from seqvis.text.lines import read_sentences
from seqvis.training.workers import Resources
from seqvis.translation.evaluate import evaluate
from seqvis.translation.picture import draw_alignment
from seqvis.translation.train import TrainSettings, train
from seqvis.translation.translator import Translator
from serve.app import Serve, free_port
from serve.app import run as serve_until_stopped

PRESET = Path(__file__).parent / "presets" / "demo.yaml"
SHOWN = 6  # held-out questions printed
TYPED_SHOWN = 3  # of each kind of typed questions


class Demo(JobSettings):
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
    """Runs both chains; returns the scores on the held-out questions and on the held-out names."""
    check_installed()
    folder = local_path(settings.out)
    _say(f"1  {settings.pairs:,} French and English questions from a grammar: {folder}/questions")
    write_sample(folder / "questions", settings.pairs)
    with ray_session():
        _say(f"2  prepare_corpus: tokens, vocabularies, training and validation: {folder}/corpus")
        questions = folder / "questions"
        with stage_progress() as progress:
            prepare(
                PrepareSettings(
                    source=f"{questions}/train.fr",
                    target=f"{questions}/train.en",
                    source_lang="fr",
                    target_lang="en",
                    filter="questions",
                    out=f"{folder}/corpus",
                ),
                progress,
            )
        workers = f"{settings.num_workers} Ray workers"
        _say(f"3  train_translator: variant all on {workers}: {folder}/translator")
        with training_console() as report:
            resources = Resources(settings.num_workers)
            train(_training(settings, folder), report, resources, restart=True)
        result = _show(folder)
        drawings = show_drawings(folder, settings.image_size, 5, _say)
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


def _training(settings: Demo, folder: Path) -> TrainSettings:
    chosen = read_yaml(str(PRESET)) | {
        "corpus": f"{folder}/corpus",
        "out": f"{folder}/translator",
        "epochs": settings.epochs,
    }
    return TrainSettings.model_validate(chosen)


def _show(folder: Path) -> dict[str, Any]:
    """Scores the held-out questions, translates a few, draws one."""
    questions = folder / "questions"
    sources, references = (
        list(read_sentences(locate(questions / f"heldout.{language}"))) for language in ("fr", "en")
    )
    _say(f"4  {len(sources):,} questions with combinations of words that training never saw")
    translator = Translator.load(f"{folder}/translator")
    scores, translations = evaluate(translator, sources, references, DecodingSettings())
    for row in range(0, len(sources), max(1, len(sources) // SHOWN)):
        right = "=" if translations[row] == references[row] else "!"
        _say(f"   {sources[row]}\n {right} {translations[row]}")
    typed = _show_typed(translator, typed_questions(list(zip(sources, references, strict=True))))
    picture = folder / "attention.png"
    longest = max(sources, key=len)
    draw_alignment(locate(picture), translator.translate([longest])[0])
    _say(
        f"   BLEU {scores['bleu']:.1f} on the held-out questions\n"
        f"   which French words each English word was made from: {picture}"
    )
    shown = ("bleu", "chrf", "sentences", "sentences_per_second", "signature")
    return {
        **{key: scores[key] for key in shown},
        "typed": typed,
        "out": str(folder),
        "attention": str(picture),
    }


def _show_typed(translator: Translator, questions: dict[str, list[Pair]]) -> dict[str, str]:
    """Translates held-out questions as people type them; how many of each kind are right."""
    _say("   the same kind of question as people type it")
    right = {}
    for kind, pairs in questions.items():
        translations = [one.text for one in translator.translate([source for source, _ in pairs])]
        same = [a == b for a, (_, b) in zip(translations, pairs, strict=True)]
        right[kind] = f"{sum(same)} of {len(pairs)}"
        _say(f"   {kind}: {right[kind]} right")
        for row in range(0, len(pairs), max(1, len(pairs) // TYPED_SHOWN)):
            _say(f"   {pairs[row][0]}\n {'=' if same[row] else '!'} {translations[row]}")
    return right


def _say_what_next(folder: Path) -> None:
    python = ".venv/bin/python -m"
    _say(
        f"\nNext:\n"
        f'  {python} jobs.translate --model {folder}/translator "Où travaille ta sœur ?"\n'
        f'  {python} jobs.search --collection {folder}/collection --text "snow - cold" --sheet '
        f"{folder}/pictures/mine.png\n"
        f"  {python} jobs.search --collection {folder}/collection --classify my-drawing.png "
        f"--candidates labels\n"
        f"  {python} jobs.prepare_corpus --help   for two files of your own: README.md\n"
        f"  {python} jobs.embed_images --help     for pictures of your own"
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_job(Demo, run, arguments)


if __name__ == "__main__":
    leave(main())

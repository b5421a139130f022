"""Build a store of word vectors from a source, or train skip-gram vectors on the user's own text.

The result is a vectors artifact. If it is restricted to a vocabulary, `missing.txt` lists the
wanted words that got no vector, one a line.

Training takes a text with one sentence per line, and the tokenizer of the vocabulary, so that the
words match. fastText's training cannot be interrupted, so it runs in a process that can be killed.
"""

import multiprocessing
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from seqvis.artifacts import create, load
from seqvis.checks import require_extra
from seqvis.config import Settings
from seqvis.encodings import BadLines
from seqvis.errors import ConfigError, DataError, TrainingError
from seqvis.storage import Place, locate, storage_errors
from seqvis.text.languages import load_language
from seqvis.text.lines import read_sentences, read_text
from seqvis.text.tokenizers import Tokenizer
from seqvis.text.vocabulary import SPECIALS, Vocabulary
from seqvis.vectors.store import KIND, is_marker
from seqvis.vectors.writer import Block, VectorSource, VectorWriter, vector_writer

MISSING = "missing.txt"
MAX_BAD_SHARE = 0.01  # as for a corpus


@dataclass(frozen=True)
class WantedWords:
    """The words to store vectors for, and the tokenizer that made them (None: unknown)."""

    words: tuple[str, ...]
    tokenizer: Tokenizer | None = None


def read_wanted_words(uri: str, side: str | None) -> WantedWords:
    """Read the vocabulary of one side of a corpus artifact, or a text file with one word a line.

    Raises DataError or ArtifactError if it is neither, ConfigError for a corpus without a side.
    """
    location = locate(uri)
    if location.is_directory():
        if side is None:
            raise ConfigError(f"--side: is needed, source or target: {uri} has both")
        tokenizer, vocabulary = load_language(load(location, "corpus", verify=False), side)
        return _wanted(vocabulary.words, uri, tokenizer)
    content = read_text(location)
    if content.startswith("\n".join(SPECIALS)):
        words: Sequence[str] = Vocabulary.from_bytes(content.encode(), uri).words
    else:
        words = [line.rstrip("\r") for line in content.split("\n")]
    return _wanted(words, uri, None)


def _wanted(words: Iterable[str], uri: str, tokenizer: Tokenizer | None) -> WantedWords:
    kept = tuple(dict.fromkeys(word for word in words if word and not is_marker(word)))
    if not kept:
        raise DataError(f"{uri}: holds no words")
    return WantedWords(kept, tokenizer)


def build_store(
    source: VectorSource,
    out: Place,
    config: Mapping[str, Any],
    wanted: Sequence[str] | None = None,
    max_words: int | None = None,
    precision: str = "float32",
    keep_subwords: bool = True,
    max_bad_share: float = MAX_BAD_SHARE,
    progress: Callable[[int], None] = lambda words: None,
) -> dict[str, Any]:
    """Write the store and return its metrics, besides counts of missing and skipped words.

    `wanted` restricts it to these words (and their lower-cased forms); `max_words` takes only the
    first words of the source. `progress` is called with the number of words stored so far.
    Entries without a usable vector are left out and counted. Raises DataError if they are more
    than `max_bad_share` of what was read, or if nothing is left.
    """
    selection = None if wanted is None else {*wanted, *(word.lower() for word in wanted)}
    with create(out, KIND, config) as artifact:
        with vector_writer(artifact, source.dimension, precision) as store:
            read = duplicates = 0
            for block in _first_words(source, max_words):
                read += len(block.words)
                chosen = block
                if selection is not None:
                    kept = np.array([word in selection for word in block.words], dtype=bool)
                    chosen = _take(block, kept)
                duplicates += len(chosen.words) - store.add(*chosen)
                progress(len(store))
            source.left_out.check(source.name, read, max_bad_share)
            made, missing = _fill_in(store, source, wanted or ())
            if keep_subwords and source.subwords is not None:
                store.add_subwords(source.subwords)
            if not len(store):
                raise DataError(
                    f"none of the {len(wanted or ())} wanted words has a vector: is it the right "
                    f"language? Nothing was written"
                    if wanted
                    else "the source holds no word vectors; nothing was written"
                )
        if wanted is not None:
            listed = "".join(f"{word}\n" for word in missing)
            artifact.path(MISSING).write_bytes(listed.encode())
        artifact.metrics |= {
            "missing": len(missing),
            "from_subwords": made,
            "skipped": source.left_out.total,
            "left_out": source.left_out.as_dict(),
            "duplicates": duplicates,  # the first entry of a word is the one that is kept
        }
        return {name: value for name, value in artifact.metrics.items() if name != "subwords"}


def _first_words(source: VectorSource, limit: int | None) -> Iterable[Block]:
    seen = 0
    for block in (_finite(block, source) for block in source.blocks()):
        if limit is not None and seen + len(block.words) >= limit:
            kept = np.arange(len(block.words)) < limit - seen
            yield _take(block, kept)
            return
        seen += len(block.words)
        yield block


def _finite(block: Block, source: VectorSource) -> Block:
    """Leave out words whose vectors have NaN or infinity, and count them."""
    good = np.isfinite(block.vectors).all(axis=1)
    if good.all():
        return block
    kept = good if block.rows is None else good[block.rows]
    source.left_out.add(
        "not_finite", [word for word, keep in zip(block.words, kept, strict=True) if not keep]
    )
    return _take(block, kept)


def _take(block: Block, kept: np.ndarray) -> Block:
    rows = np.arange(len(block.words)) if block.rows is None else block.rows
    words = [word for word, keep in zip(block.words, kept, strict=True) if keep]
    return Block(words, block.vectors, rows[kept])


def _fill_in(
    store: VectorWriter, source: VectorSource, wanted: Sequence[str]
) -> tuple[int, list[str]]:
    """Store sub-word vectors of wanted words that lack one; return how many, and the rest."""
    # A word stored only in lower case is not missing, because `embedding_matrix` looks there too.
    lacking = [word for word in wanted if word not in store and word.lower() not in store]
    if source.subwords is None:
        return 0, lacking
    missing = []
    for word in lacking:
        vector = source.subwords.vector(word)
        if vector is None:
            missing.append(word)
        else:
            store.add([word], vector[None])
    return len(lacking) - len(missing), missing


# fastText 0.9.3 initialises its matrices in tenths, one a thread, and leaves the rest of the memory
# as it was. With fewer threads than ten tenths and a remainder it trains from garbage, and often
# stops at "Encountered NaN".
FEWEST_THREADS = 11


class SkipGram(Settings):
    """Skip-gram with negative sampling (Bojanowski et al. 2017); defaults as fastText's."""

    dimension: int = 300
    epochs: int = 5
    min_count: int = 5  # rarer words get no vector of their own
    threads: int = FEWEST_THREADS
    buckets: int = 200_000  # for n-grams of 3 to 6 characters; fastText's own default is 2 million


@dataclass(frozen=True)
class Trained:
    """A trained fastText model, and the number of lines of its text that were left out."""

    model: Path
    bad_lines: int  # not UTF-8


def train_vectors(
    text: str, tokenizer: Tokenizer, folder: Path, settings: SkipGram, max_bad_share: float
) -> Trained:
    """Train on the file or URI `text` (plain or compressed), writing a `.bin` into `folder`.

    Raises DataError if the text is missing or too small, or if more than `max_bad_share` of its
    lines is not UTF-8; TrainingError if fastText fails, ConfigError if it is not installed.
    """
    require_extra("fasttext", "fasttext")
    tokens, model = folder / "tokens.txt", folder / "model.bin"
    bad = BadLines()
    with storage_errors(str(folder)), tokens.open("w", encoding="utf-8") as file:
        for line in read_sentences(locate(text), bad):
            words = tokenizer.tokenize(line)
            if words:
                file.write(" ".join("_".join(word.split()) for word in words) + "\n")
    bad.check(text, max_bad_share)
    if not tokens.stat().st_size:
        raise DataError(f"{text}: holds no text to train on")
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(tokens, model, settings, sender), daemon=True)
    process.start()
    sender.close()
    try:
        process.join()
    finally:
        process.kill()
    problem = receiver.recv() if receiver.poll() else f"its process ended with {process.exitcode}"
    if "empty" in problem.lower() and "vocabulary" in problem.lower():
        raise DataError(
            f"{text}: no word occurs {settings.min_count} times; give more text or a smaller "
            f"--min-count"
        )
    if problem:
        raise TrainingError(f"{text}: fastText could not train on it ({problem})")
    tokens.unlink()
    return Trained(model, bad.count)


def _train(tokens: Path, model: Path, settings: SkipGram, result: Connection) -> None:
    """Run in a process of its own; send what went wrong, or an empty string."""
    import fasttext

    try:
        trained = fasttext.train_unsupervised(
            str(tokens),
            model="skipgram",
            dim=settings.dimension,
            epoch=settings.epochs,
            minCount=settings.min_count,
            thread=max(settings.threads, FEWEST_THREADS),
            bucket=settings.buckets,
            verbose=2 if sys.stderr.isatty() else 0,
        )
        trained.save_model(str(model))
        result.send("")
    except Exception as error:  # fastText raises several kinds
        result.send(str(error) or type(error).__name__)

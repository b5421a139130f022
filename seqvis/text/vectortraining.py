"""fastText skip-gram vectors of the user's own text, for languages and subjects without any.

In: a text, one sentence a line, and the tokenizer of the vocabulary, so that words match. Out: a
fastText `.bin`. Two things would surprise a reader. fastText 0.9.3 initialises its matrices in
tenths, one a thread, and leaves the rest of the memory as it was: with fewer than 11 threads
(ten tenths and the remainder) it trains from garbage and often stops at "Encountered NaN". So at
least 11 threads run. And it cannot be interrupted, so it runs in a process that can.
"""

import multiprocessing
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from seqvis.encodings import BadLines
from seqvis.errors import DataError, TrainingError
from seqvis.storage import locate, storage_errors
from seqvis.text.textfiles import read_sentences
from seqvis.text.tokenizers import Tokenizer

FEWEST_THREADS = 11


@dataclass(frozen=True)
class SkipGram:
    """Skip-gram with negative sampling (Bojanowski et al. 2017); defaults as fastText's."""

    dimension: int = 300
    epochs: int = 5
    min_count: int = 5  # rarer words get no vector of their own
    threads: int = FEWEST_THREADS
    buckets: int = 200_000  # for n-grams of 3 to 6 characters; fastText's own default is 2 million


@dataclass(frozen=True)
class Trained:
    """A fastText model, and how many lines of its text were left out."""

    model: Path
    bad_lines: int  # not UTF-8


def train_vectors(
    text: str, tokenizer: Tokenizer, folder: Path, settings: SkipGram, max_bad_share: float
) -> Trained:
    """Trains on the file or URI `text` (plain or compressed), writing a `.bin` into `folder`.

    Raises DataError if the text is missing or too small, or if more than `max_bad_share` of its
    lines is not UTF-8; TrainingError if fastText fails.
    """
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
    """Runs in a process of its own; sends what went wrong, or an empty string."""
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

"""Read fastText's model files, and train skip-gram vectors on the user's own text.

A `.bin` is mapped into memory, so its size does not matter: fastText's own library loads the whole
file (8.5 GB for its English Wikipedia), while this module reads only the word list, and rows of the
matrix as they are needed. The layout is that of fastText's FastText::saveModel, version 12 (or 11
in older models): magic number and version, twelve integers and a double of settings, the
dictionary, a flag for quantization, and the input matrix, whose first rows belong to words and the
rest to hash buckets of n-grams.

Training takes a text with one sentence per line, and the tokenizer of the vocabulary, so that the
words match. fastText's training cannot be interrupted, so it runs in a process that can be killed.
"""

import multiprocessing
import struct
import sys
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np

from seqvis.config import Settings
from seqvis.encodings import BadLines, packing
from seqvis.errors import DataError, TrainingError
from seqvis.storage import locate, storage_errors
from seqvis.text.lines import read_sentences
from seqvis.text.tokenizers import Tokenizer
from seqvis.vectors.store import Subwords

_MAGIC = 793712314
_SETTINGS = struct.Struct("<12id")
_DICTIONARY = struct.Struct("<3i2q")
_SHAPE = struct.Struct("<2q")
_WORD, _SUPERVISED = 0, 3


@dataclass(frozen=True)
class FastTextFile:
    """A fastText model: `matrix` [words + buckets, dimension] stays on disk."""

    words: list[str | None]  # None: not UTF-8; its number and row remain taken
    matrix: np.ndarray
    subwords: Subwords | None  # None for models without n-grams

    @property
    def dimension(self) -> int:
        return int(self.matrix.shape[1])

    @classmethod
    def open(cls, path: Path) -> Self:
        """Raises DataError, naming the file, if it is not a whole, unquantized fastText model."""
        size = path.stat().st_size
        if not size:
            raise DataError(f"{path}: is empty; fetch it again")
        try:
            with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
                return cls._read(path, content, size)
        except (struct.error, IndexError) as error:
            raise DataError(f"{path}: is cut off within its word list; fetch it again") from error

    @classmethod
    def _read(cls, path: Path, content: mmap, size: int) -> Self:
        magic, version = struct.unpack_from("<2i", content) if size >= 8 else (0, 0)
        if magic != _MAGIC:
            form = "zip" if content[:4] == b"PK\x03\x04" else packing(content[:16])
            remedy = (
                f"it is compressed ({form}): unpack it first, it is read from the disk as it stands"
                if form
                else "a text file of vectors, or word2vec's binary form, needs --format vec, "
                "one without a first line of two numbers --format glove"
            )
            raise DataError(f"{path}: is not a fastText .bin file; {remedy}")
        if version not in (11, 12):
            raise DataError(f"{path}: has fastText version {version}; 11 and 12 can be read")
        settings = _SETTINGS.unpack_from(content, 8)
        model, buckets, shortest, longest = settings[7:11]
        if version == 11 and model == _SUPERVISED:
            longest = 0  # as fastText itself does: such models were made without n-grams
        words, place = _read_dictionary(content, 8 + _SETTINGS.size)
        if content[place]:
            raise DataError(f"{path}: is a quantized model (.ftz); give the full .bin")
        rows, dimension = _SHAPE.unpack_from(content, place + 1)
        begin = place + 1 + _SHAPE.size
        if rows < len(words) or dimension < 1 or begin + rows * dimension * 4 > size:
            raise DataError(f"{path}: is cut off within its vectors; fetch it again")
        matrix = np.memmap(path, "<f4", "r", offset=begin, shape=(rows, dimension))
        subwords = None
        if longest > 0 and rows - len(words) == buckets > 0:
            subwords = Subwords(shortest, longest, matrix[len(words) :])
        return cls(words, matrix, subwords)

    def vectors(self, begin: int, end: int) -> tuple[list[str], np.ndarray]:
        """Words `begin` to `end` and their vectors, float32: fastText's get_word_vector of each.

        That is the mean of the word's own row and of the rows of its n-grams.
        """
        numbers = [n for n in range(begin, min(end, len(self.words))) if self.words[n] is not None]
        words = [word for n in numbers if (word := self.words[n]) is not None]
        own = np.asarray(self.matrix[numbers], dtype=np.float32)
        if self.subwords is None:
            return words, own
        buckets, counts = self.subwords.numbers(words)
        sums = own.astype(np.float64)
        starts = np.cumsum(counts) - counts
        for first in range(0, len(words), 256):  # a slice's n-gram rows take about 10 MB
            last = min(first + 256, len(words))
            rows = self.subwords.matrix[
                buckets[starts[first] : starts[last - 1] + counts[last - 1]]
            ]
            some = np.flatnonzero(counts[first:last]) + first
            if len(some):
                sums[some] += np.add.reduceat(
                    rows, starts[some] - starts[first], axis=0, dtype=np.float64
                )
        return words, (sums / (1 + counts)[:, None]).astype(np.float32)


def _read_dictionary(content: mmap, place: int) -> tuple[list[str | None], int]:
    """The words, by number, and the place after the dictionary."""
    entries, _, _, _, pruned = _DICTIONARY.unpack_from(content, place)
    place += _DICTIONARY.size
    words: list[str | None] = []
    for _ in range(entries):
        end = content.find(b"\0", place)
        if end < 0:
            raise IndexError
        if content[end + 9] == _WORD:
            try:
                words.append(content[place:end].decode())
            except UnicodeDecodeError:
                words.append(None)
        place = end + 10  # NUL, count (8 bytes), kind of entry (1 byte)
    return words, place + 8 * max(0, pruned)


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

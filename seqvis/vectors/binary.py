"""Read the binary formats of word vectors: fastText's .bin and word2vec's.

A `.bin` is mapped into memory, so its size does not matter: fastText's own library loads the whole
file (8.5 GB for its English Wikipedia), while this module reads only the word list, and rows of the
matrix as they are needed. The layout is that of fastText's FastText::saveModel, version 12 (or 11
in older models): magic number and version, twelve integers and a double of settings, the
dictionary, a flag for quantization, and the input matrix, whose first rows belong to words and the
rest to hash buckets of n-grams.

word2vec's format is a line with the number of words and the dimension, then entries: a word, a
space and its numbers as little-endian float32. Some writers add a line feed after each.
"""

import codecs
import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Self

import numpy as np

from seqvis.encodings import packing
from seqvis.errors import DataError
from seqvis.storage import Location
from seqvis.text.lines import READ_BYTES, open_unpacked
from seqvis.vectors.store import Subwords
from seqvis.vectors.writer import BLOCK, Block, LeftOut

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
        """Open a model. Raises DataError if it is not a whole, unquantized fastText file."""
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
                f"it is compressed ({form}): unpack it first, it is read directly from disk"
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
        """Return words `begin` to `end` and their vectors, float32, as get_word_vector makes them.

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
    """Return the words, by number, and the place after the dictionary."""
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


_OF_TEXT = bytes(range(0x20, 0x7F)) + b"\t\r\n"


def read_header(line: bytes) -> tuple[int, int] | None:
    """Return the number of words and the dimension, if the line holds just these."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[1]) < 1:
        return None
    return int(fields[0]), int(fields[1])


def count_numbers(line: bytes) -> int:
    """Count the numbers at the end of the line, after at least one field of a word."""
    count = 0
    for text in reversed(line.split()[1:]):
        try:
            float(text)
        except ValueError:
            break
        count += 1
    return count


def word2vec_header(head: bytes) -> tuple[int, int] | None:
    """Return the header if a file that begins with `head` is in the binary form.

    It is if no numbers end the first line after the header, and the first vector has bytes that
    neither numbers nor words in UTF-8 have.
    """
    line, _, rest = head.partition(b"\n")
    header = read_header(line)
    if header is None or count_numbers(rest.partition(b"\n")[0]) >= min(2, header[1]):
        return None
    vector = rest.partition(b" ")[2][: 4 * header[1]]
    try:  # a character may be cut at the end
        text = codecs.getincrementaldecoder("utf-8")().decode(vector.translate(None, _OF_TEXT))
    except UnicodeDecodeError:
        return header
    return None if text.isprintable() else header


def _read_entries(location: Location, words: int, dimension: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield each word and the bytes of its vector.

    Raises DataError if there are fewer or more than `words`.
    """
    size = 4 * dimension
    with open_unpacked(location) as stream:
        stream.readline()
        content, place = b"", 0
        for number in range(words):
            space = content.find(b" ", place)
            if space < 0 or space + 1 + size > len(content):
                content, place = content[place:] + stream.read(READ_BYTES + size), 0
                space = content.find(b" ")
                if space < 0 or space + 1 + size > len(content):
                    raise DataError(
                        f"{location.uri}: is cut off: its first line promises {words} words, it "
                        f"has {number}; fetch it again"
                    )
            end = space + 1 + size
            yield content[place:space].lstrip(b"\n"), content[space + 1 : end]
            place = end
        if (content[place:] + stream.read(1)).strip():
            raise DataError(
                f"{location.uri}: goes on after the {words} words with {dimension} numbers that "
                f"its first line promises; it is damaged or in another form: fetch it again"
            )


class Word2VecVectors:
    """word2vec's binary format: the header of a `.vec` file, then words and float32 numbers."""

    def __init__(self, location: Location, words: int, dimension: int):
        self.name = location.uri
        self.dimension = dimension
        self.subwords: Subwords | None = None
        self.left_out = LeftOut()
        self._location = location
        self._promised = words

    def blocks(self) -> Iterator[Block]:
        self.left_out = LeftOut()
        entries = _read_entries(self._location, self._promised, self.dimension)
        while block := list(itertools.islice(entries, BLOCK)):
            words, vectors = [], []
            for raw, vector in block:
                word = self.left_out.decode(raw, repr(raw))
                if word is not None:
                    words.append(word)
                    vectors.append(vector)
            numbers = np.frombuffer(b"".join(vectors), "<f4")
            yield Block(words, numbers.reshape(len(words), self.dimension))

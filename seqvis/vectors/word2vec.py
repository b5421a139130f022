"""Read word2vec's binary format: a line with the number of words and the dimension, then entries.

An entry is a word, a space and its numbers as little-endian float32. Some writers add a line feed
after each.
"""

import codecs
import itertools
from collections.abc import Iterator

import numpy as np

from seqvis.errors import DataError
from seqvis.storage import Location
from seqvis.text.lines import READ_BYTES, open_unpacked
from seqvis.vectors.store import Subwords
from seqvis.vectors.writer import BLOCK, Block, LeftOut

_OF_TEXT = bytes(range(0x20, 0x7F)) + b"\t\r\n"


def read_header(line: bytes) -> tuple[int, int] | None:
    """The number of words and the dimension, if the line holds just these."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields) or int(fields[1]) < 1:
        return None
    return int(fields[0]), int(fields[1])


def count_numbers(line: bytes) -> int:
    """How many numbers are at the end of the line, after at least one field of a word."""
    count = 0
    for text in reversed(line.split()[1:]):
        try:
            float(text)
        except ValueError:
            break
        count += 1
    return count


def word2vec_header(head: bytes) -> tuple[int, int] | None:
    """The header if a file that begins with `head` is in the binary form.

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
    """Each word and the bytes of its vector.

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

"""Lines of text files, as a stream or by number, without ever holding a large file in memory.

Only the line feed separates lines: a carriage return at the end is removed, and U+2028 and similar
characters are ordinary ones. A `LineIndex` stores one number per block of the file, not one per
line. To read a range, it starts at the block before and skips the few lines between, which costs at
most one block of reading.
"""

import io
import lzma
import select
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyarrow import CompressedInputStream, NativeFile

from seqvis import encodings
from seqvis.encodings import BYTE_ORDER_MARK, BadLines
from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors

READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Start:
    """Where to start reading: a byte offset, and how many line feeds to skip after it."""

    offset: int
    skip: int


@dataclass(frozen=True)
class LineIndex:
    """An index of where the lines of a file are."""

    location: Location
    block_bytes: int
    lines_before: np.ndarray  # (blocks + 1,) line feeds before each block; the last is their sum
    lines: int

    def start_of(self, line: int) -> Start:
        """Return where to begin reading for `line` (from 0)."""
        if line == 0:
            return Start(0, 0)
        block = int(np.searchsorted(self.lines_before, line, side="left")) - 1
        return Start(block * self.block_bytes, line - int(self.lines_before[block]))


def count_line_feeds(location: Location, offset: int, length: int) -> int:
    """Return how many line feeds there are in `length` bytes from `offset` on."""
    feeds = 0
    with location.filesystem.open_input_file(location.path) as file:
        file.seek(offset)
        while length > 0 and (block := file.read(min(READ_BYTES, length))):
            feeds += block.count(b"\n")
            length -= len(block)
    return feeds


def build_index(
    location: Location, block_bytes: int, size: int, line_feeds: list[int]
) -> LineIndex:
    """Return the index of a file of `size` bytes from the line feeds in each of its blocks."""
    before = np.concatenate([[0], np.cumsum(np.asarray(line_feeds, np.int64))])
    lines = int(before[-1])
    with location.filesystem.open_input_file(location.path) as file:
        file.seek(size - 1)
        lines += file.read(1) != b"\n"  # a last line without a line feed counts
    return LineIndex(location, block_bytes, before, lines)


def read_lines(location: Location, start: Start, count: int, longest: int) -> Iterator[list[bytes]]:
    """Yield `count` lines (fewer at the end of the file) without their line ends, some at a time.

    A line of more than `longest` bytes comes cut to `longest + 1`, so that a file without any
    line feed cannot fill the memory. A byte order mark at the start of the file is removed.
    """
    skip, remainder = start.skip, b""
    at_start = start.offset == 0 and skip == 0
    with location.filesystem.open_input_file(location.path) as file:
        file.seek(start.offset)
        while count > 0:
            block = file.read(READ_BYTES)
            if not block:
                if remainder and not skip:
                    yield [remainder.removesuffix(b"\r")[: longest + 1]]
                return
            if at_start:
                block = block.removeprefix(BYTE_ORDER_MARK)
                at_start = False
            block, skip = _skip_lines(block, skip)
            text = remainder + block
            lines = text.split(b"\n")
            remainder = lines.pop()[: longest + 2]  # room for a carriage return
            lines = lines[:count]
            if b"\r" in text or max(map(len, lines), default=0) > longest:
                lines = [line.removesuffix(b"\r")[: longest + 1] for line in lines]
            count -= len(lines)
            if lines:
                yield lines


def _skip_lines(block: bytes, skip: int) -> tuple[bytes, int]:
    """Drop everything up to the `skip`-th line feed; return what is left still to skip."""
    if skip == 0:
        return block, 0
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
    if len(ends) < skip:
        return b"", skip - len(ends)
    return block[int(ends[skip - 1]) + 1 :], 0


def check_text_file(location: Location) -> int:
    """Return the size in bytes. Raises DataError if it is missing, empty, or no text in UTF-8."""
    with open_text(location):
        return location.size()


@contextmanager
def open_text(location: Location) -> Iterator["io.BufferedReader[_Unpacked]"]:
    """Yield the bytes of a text file from after its byte order mark, unpacked if it is compressed.

    Raises DataError if the file is missing, empty or damaged, or if its beginning is no text in
    UTF-8; whoever decodes the rest must check it too.
    """
    with open_unpacked(location) as stream:
        head = stream.peek(encodings.HEAD_BYTES)
        encodings.check_text(head, location.uri)
        encodings.check_line_ends(head, location.uri)
        if head.startswith(BYTE_ORDER_MARK):
            stream.read(len(BYTE_ORDER_MARK))
        if not stream.peek(1):
            raise DataError(f"{location.uri}: is empty; give a file with text")
        yield stream


@contextmanager
def open_unpacked(location: Location) -> Iterator["io.BufferedReader[_Unpacked]"]:
    """Yield the bytes of any file, unpacked if its content is gzip, bzip2, xz, zstd or lz4.

    `peek` gives the first `HEAD_BYTES`. Raises DataError if the file is missing or damaged, or if
    it is named as a compressed file and is none.
    """
    if location.is_directory():
        raise DataError(f"{location.uri}: is a directory; a file is needed")
    location.size()  # raises DataError if there is no such file
    with _open(location) as file, _unpacked(file, location) as raw:
        with io.BufferedReader(raw, encodings.HEAD_BYTES) as stream:
            yield stream


def is_packed(location: Location) -> bool:
    """Tell whether the file is compressed: judged by its first bytes, not by its name."""
    with _open(location) as file:
        return encodings.packing(file.read(16)) is not None


def decompress(compressed: Location, plain: Location) -> int:
    """Stream a compressed text into `plain` and return the bytes written.

    Takes one core and holds about 1 MB. Raises DataError if the file is cut off or damaged,
    StorageError if the disk is full.
    """
    written = 0
    with open_text(compressed) as stream, storage_errors(plain.uri):
        with plain.filesystem.open_output_stream(plain.path) as output:
            while block := stream.read(READ_BYTES):
                output.write(block)
                written += len(block)
    return written


def _open(location: Location) -> NativeFile:
    try:
        return location.filesystem.open_input_file(location.path)
    except OSError as error:
        raise DataError(f"{location.uri}: cannot be read ({error})") from error


def _unpacked(file: NativeFile, location: Location) -> "_Unpacked":
    form = encodings.packing(file.read(16))
    file.seek(0)
    if form is None:
        suffix = next((end for end in encodings.SUFFIXES if location.name.endswith(end)), None)
        if suffix is not None and location.size():
            raise DataError(
                f"{location.uri}: is not a {encodings.SUFFIXES[suffix]} file, as its name says; "
                f"fetch it again, or take {suffix} off its name if it is plain text"
            )
        return _Unpacked(file, "", location.uri)
    if form == "xz":
        return _Unpacked(lzma.open(file), form, location.uri)
    return _Unpacked(CompressedInputStream(file, form), form, location.uri)


class _Unpacked(io.RawIOBase):
    """A stream whose errors name the file."""

    def __init__(self, stream: Any, form: str, uri: str):
        super().__init__()
        self._stream, self._form, self._uri = stream, form, uri

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        filled = 0  # the buffer is filled: `peek` is to give all of a file's head
        try:
            while filled < len(buffer) and (block := self._stream.read(len(buffer) - filled)):
                buffer[filled : filled + len(block)] = block
                filled += len(block)
        except (OSError, EOFError, lzma.LZMAError) as error:
            what = f"damaged or cut off {self._form} file; " if self._form else ""
            raise DataError(
                f"{self._uri}: {what}cannot be read to its end ({error}); fetch it again"
            ) from error
        return filled


def read_sentences(location: Location, bad: BadLines | None = None) -> Iterator[str]:
    """Yield lines of a UTF-8 file, which may be compressed.

    Raises DataError naming the file and line if one is not UTF-8. With `bad` such lines are left
    out instead and are found there in the end.
    """
    with open_text(location) as stream:
        yield from decode_lines(stream, location.uri, bad)


def undecodable_lines(location: Location, enough: int = 1000) -> BadLines:
    """Return the first lines of a file that are not UTF-8."""
    bad = BadLines()
    for _ in read_sentences(location, bad):
        if bad.count >= enough:
            break
    return bad


def read_text(location: Location) -> str:
    """Return the text of a UTF-8 file, which may be compressed. Raises DataError as above."""
    with open_unpacked(location) as stream:
        text = encodings.decode(stream.read(), location.uri)
    if not text:
        raise DataError(f"{location.uri}: is empty; give a file with text")
    return text


def decode_lines(
    lines: Iterable[bytes], name: str, bad: BadLines | None = None, seen: BadLines | None = None
) -> Iterator[str]:
    """Yield lines of a binary file called `name`; `bad` as for `read_sentences`.

    Whoever passes a file in pieces keeps `seen`, which counts its lines.
    """
    seen = bad or seen or BadLines()
    for line in lines:
        if seen.lines == 0:
            encodings.check_text(line[: encodings.HEAD_BYTES], name)
            encodings.check_line_ends(line, name)
            line = line.removeprefix(BYTE_ORDER_MARK)
        text = seen.decode(line.removesuffix(b"\n").removesuffix(b"\r"))
        if text is not None:
            yield text
        elif bad is None:
            seen.check(name, 0)


def lines_at_hand(stream: io.BufferedIOBase, name: str, at_most: int) -> Iterator[list[str]]:
    """Yield lines of an open pipe, terminal or file, in groups of at most so many.

    A group ends where the next line would have to be waited for: someone who sends a line and
    pauses is answered, while a file or a fast pipe gives full groups. DataError as for
    `read_sentences`, after the lines before the bad one.
    """
    group: list[str] = []
    seen = BadLines()
    for line in _lines_and_pauses(stream):
        if line is not None:
            try:
                group += decode_lines([line], name, seen=seen)
            except DataError:
                if group:
                    yield group
                raise
        if group and (line is None or len(group) == at_most):
            yield group
            group = []
    if group:
        yield group


def _lines_and_pauses(stream: io.BufferedIOBase) -> Iterator[bytes | None]:
    """Yield lines, and None where reading on means waiting."""
    rest = b""
    while True:
        if not _is_ready(stream):
            yield None
        block = stream.read1(1 << 16)
        if not block:
            break
        *lines, rest = (rest + block).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest


def _is_ready(stream: io.BufferedIOBase) -> bool:
    """Tell whether reading returns at once."""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except io.UnsupportedOperation:  # a stream in memory
        return True


def write_sentences(location: Location, sentences: Iterable[str]) -> int:
    """Write lines as they come; return how many. The file appears only when all are there."""
    count = 0
    temporary = location.beside(".partial")
    try:
        location.parent().make_directory()
        with storage_errors(location.uri):
            with location.filesystem.open_output_stream(temporary.path) as stream:
                for sentence in sentences:
                    stream.write(sentence.encode() + b"\n")
                    count += 1
            location.filesystem.move(temporary.path, location.path)
    except BaseException:
        temporary.delete()
        raise
    return count

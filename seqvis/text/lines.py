"""Lines of large text files, by number, without ever holding a file.

In: a `Location`. Out: how many lines it has, where each starts (to within a block), and the
lines of a range. Only the line feed separates lines: a carriage return at the end is removed,
U+2028 and its kin are ordinary characters. What would surprise a reader: a `LineIndex` stores
one number per block of the file, not one per line; reading a range starts at the block before
it and skips the few lines between, which costs at most one block of reading.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pyarrow import NativeFile

from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors

READ_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Start:
    """Where reading begins: a byte offset, and how many line feeds to pass after it."""

    offset: int
    skip: int


@dataclass(frozen=True)
class LineIndex:
    """Where the lines of a file are."""

    location: Location
    block_bytes: int
    lines_before: np.ndarray  # (blocks + 1,) line feeds before each block; the last is their sum
    lines: int

    def start_of(self, line: int) -> Start:
        """Where to begin reading for `line` (from 0)."""
        if line == 0:
            return Start(0, 0)
        block = int(np.searchsorted(self.lines_before, line, side="left")) - 1
        return Start(block * self.block_bytes, line - int(self.lines_before[block]))


def count_line_feeds(location: Location, offset: int, length: int) -> int:
    """How many line feeds there are in `length` bytes from `offset` on."""
    found = 0
    with location.filesystem.open_input_file(location.path) as file:
        file.seek(offset)
        while length > 0 and (block := file.read(min(READ_BYTES, length))):
            found += block.count(b"\n")
            length -= len(block)
    return found


def build_index(
    location: Location, block_bytes: int, size: int, line_feeds: list[int]
) -> LineIndex:
    """The index of a file of `size` bytes from the line feeds in each of its blocks."""
    before = np.concatenate([[0], np.cumsum(np.asarray(line_feeds, np.int64))])
    lines = int(before[-1])
    with location.filesystem.open_input_file(location.path) as file:
        file.seek(size - 1)
        lines += file.read(1) != b"\n"  # a last line without a line feed counts
    return LineIndex(location, block_bytes, before, lines)


def read_lines(location: Location, start: Start, count: int, longest: int) -> Iterator[list[bytes]]:
    """Yields `count` lines (fewer at the end of the file) without their line ends, some at a time.

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
                    yield [_trim(remainder)[: longest + 1]]
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
                lines = [_trim(line)[: longest + 1] for line in lines]
            count -= len(lines)
            if lines:
                yield lines


def _trim(line: bytes) -> bytes:
    return line[:-1] if line.endswith(b"\r") else line


def _skip_lines(block: bytes, skip: int) -> tuple[bytes, int]:
    """Drops everything up to the `skip`-th line feed; returns what is left still to skip."""
    if skip == 0:
        return block, 0
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == 10)
    if len(ends) < skip:
        return b"", skip - len(ends)
    return block[int(ends[skip - 1]) + 1 :], 0


def check_text_file(location: Location) -> int:
    """The size in bytes. Raises DataError if it is missing, empty, a directory or UTF-16."""
    if location.is_directory():
        raise DataError(f"{location.uri}: is a directory; a text file is needed")
    size = location.size()
    if size == 0:
        raise DataError(f"{location.uri}: is empty; it needs one sentence per line")
    with open_input(location) as file:
        head = file.read(2)
    if head in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(
            f"{location.uri}: is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 in.txt > out.txt"
        )
    return size


def open_input(location: Location) -> NativeFile:
    """Opens a file for random access. Raises DataError if it cannot be read."""
    try:
        return location.filesystem.open_input_file(location.path)
    except OSError as error:
        raise DataError(f"{location.uri}: cannot be read ({error})") from error


def is_gzip(location: Location) -> bool:
    """Whether the file is compressed: judged by its first bytes, not by its name."""
    with open_input(location) as file:
        return bool(file.read(2) == b"\x1f\x8b")


def decompress(compressed: Location, plain: Location) -> int:
    """Streams a gzip file into `plain` and returns the bytes written. One core, about 1 MB held.

    Raises DataError if the file is cut off or damaged, StorageError if the disk is full.
    """
    written = 0
    stream = compressed.filesystem.open_input_stream(compressed.path, compression="gzip")
    with storage_errors(plain.uri), plain.filesystem.open_output_stream(plain.path) as output:
        while block := _read_compressed(stream, compressed):
            output.write(block)
            written += len(block)
    return written


def _read_compressed(stream: NativeFile, compressed: Location) -> bytes:
    try:
        return bytes(stream.read(READ_BYTES))
    except OSError as error:
        raise DataError(
            f"{compressed.uri}: damaged or cut off gzip file ({error}); fetch it again"
        ) from error

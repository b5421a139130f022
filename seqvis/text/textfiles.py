"""A text file's sentences, one a line, read and written as a stream.

In: a location, plain or gzip. Out: lines without their ends. As in `lines`, only the line feed
separates lines. For files that are translated or scored; corpora are read by `corpus`.
"""

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors
from seqvis.text.lines import BYTE_ORDER_MARK, check_text_file, is_gzip


def read_sentences(location: Location) -> Iterator[str]:
    """Lines of a UTF-8 file. Raises DataError naming the file and line if one is not UTF-8."""
    check_text_file(location)
    compression = "gzip" if is_gzip(location) else None
    with location.filesystem.open_input_stream(location.path, compression=compression) as stream:
        yield from decode_lines(io.BufferedReader(stream), location.uri)


def decode_lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Lines of an open binary stream called `name`."""
    for number, line in enumerate(stream, 1):
        content = line.rstrip(b"\n").removesuffix(b"\r")
        if number == 1:
            content = content.removeprefix(BYTE_ORDER_MARK)
        try:
            yield content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}: line {number} is not valid UTF-8; convert the file"
            ) from error


def write_sentences(location: Location, sentences: Iterable[str]) -> int:
    """Writes lines as they come; returns how many. The file appears only when all are there."""
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

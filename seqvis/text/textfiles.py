"""A text file's sentences, one a line, read and written as a stream.

In: a location, plain or gzip. Out: lines without their ends. As in `lines`, only the line feed
separates lines. For files that are translated or scored; corpora are read by `corpus`.
"""

import io
import select
from collections.abc import Iterable, Iterator

from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors
from seqvis.text.lines import BYTE_ORDER_MARK, check_text_file, is_gzip


def read_sentences(location: Location) -> Iterator[str]:
    """Lines of a UTF-8 file. Raises DataError naming the file and line if one is not UTF-8."""
    check_text_file(location)
    compression = "gzip" if is_gzip(location) else None
    with location.filesystem.open_input_stream(location.path, compression=compression) as stream:
        for number, line in enumerate(io.BufferedReader(stream), 1):
            yield _decode(line, number, location.uri)


def lines_at_hand(stream: io.BufferedIOBase, name: str, at_most: int) -> Iterator[list[str]]:
    """Lines of an open pipe, terminal or file, in groups of at most so many.

    A group ends where the next line would have to be waited for: someone who sends a line and
    pauses is answered, while a file or a fast pipe gives full groups. DataError as for
    `read_sentences`, after the lines before the bad one.
    """
    group: list[str] = []
    number = 0
    for line in _lines_and_pauses(stream):
        if line is not None:
            number += 1
            try:
                group.append(_decode(line, number, name))
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
    """Lines, and None where reading on would wait."""
    rest = b""
    while True:
        if not _is_ready(stream):
            yield None
        block = stream.read1(1 << 16)
        if not block:
            break
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _is_ready(stream: io.BufferedIOBase) -> bool:
    """Whether reading would return at once."""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except io.UnsupportedOperation:  # a stream in memory
        return True


def _decode(line: bytes, number: int, name: str) -> str:
    content = line.removesuffix(b"\n").removesuffix(b"\r")
    if number == 1:
        content = content.removeprefix(BYTE_ORDER_MARK)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: line {number} is not valid UTF-8; convert the file") from error


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

"""A text file's sentences, one a line, read and written as a stream.

As in `lines`, only the line feed separates lines. For files that are translated, scored or
trained on, and for short lists; corpora are read by `corpus`.
"""

import io
import select
from collections.abc import Iterable, Iterator

from seqvis import encodings
from seqvis.encodings import BYTE_ORDER_MARK, BadLines
from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors
from seqvis.text.lines import open_text, open_unpacked


def read_sentences(location: Location, bad: BadLines | None = None) -> Iterator[str]:
    """Lines of a UTF-8 file, which may be compressed.

    Raises DataError naming the file and line if one is not UTF-8. With `bad` such lines are left
    out instead and are found there in the end.
    """
    with open_text(location) as stream:
        yield from decode_lines(stream, location.uri, bad)


def undecodable_lines(location: Location, enough: int = 1000) -> BadLines:
    """The first lines of a file that are not UTF-8."""
    bad = BadLines()
    for _ in read_sentences(location, bad):
        if bad.count >= enough:
            break
    return bad


def read_text(location: Location) -> str:
    """The whole text of a UTF-8 file, which may be compressed. Raises DataError as above."""
    with open_unpacked(location) as stream:
        text = encodings.decode(stream.read(), location.uri)
    if not text:
        raise DataError(f"{location.uri}: is empty; give a file with text")
    return text


def decode_lines(
    lines: Iterable[bytes], name: str, bad: BadLines | None = None, seen: BadLines | None = None
) -> Iterator[str]:
    """Lines of a binary file called `name`; `bad` as for `read_sentences`.

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
    """Lines of an open pipe, terminal or file, in groups of at most so many.

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
    """Lines, and None where reading on would wait."""
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
    """Whether reading would return at once."""
    try:
        return bool(select.select([stream], [], [], 0)[0])
    except io.UnsupportedOperation:  # a stream in memory
        return True


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

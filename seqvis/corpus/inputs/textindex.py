"""Index the lines of text files on Ray: the first pass over a corpus.

The line feeds of a plain file are counted in parallel, by blocks of bytes. A compressed file cannot
be entered in the middle, so one task first streams it into a plain scratch file; that takes its
plain size on disk and about a second for every 100 MB.
"""

from collections.abc import Sequence

from seqvis.cluster import Progress
from seqvis.corpus.blocks import run_items
from seqvis.storage import Location
from seqvis.text import lines
from seqvis.text.lines import LineIndex

COUNT_BLOCK_BYTES = 8 << 20


def index_texts(
    files: Sequence[Location], scratch: Location, progress: Progress
) -> list[LineIndex]:
    """Count the lines of each file; `scratch` takes the plain text of compressed ones.

    Raises DataError for a file that is missing, empty, damaged or no text in UTF-8.
    """
    for file in files:
        lines.check_text_file(file)
    places = _decompress(files, scratch, progress)
    sizes = [place.size() for place in places]
    work = [
        (number, block, offset, min(COUNT_BLOCK_BYTES, size - offset))
        for number, size in enumerate(sizes)
        for block, offset in enumerate(range(0, size, COUNT_BLOCK_BYTES))
    ]

    def count(item: tuple[int, int, int, int]) -> tuple[int, int, int]:
        number, block, offset, length = item
        return number, block, lines.count_line_feeds(places[number], offset, length)

    feeds: list[list[int]] = [[0] * (-(-size // COUNT_BLOCK_BYTES)) for size in sizes]
    for number, block, feeds_in_block in run_items(work, count, "counting lines", progress):
        feeds[number][block] = feeds_in_block
    return [
        lines.build_index(place, COUNT_BLOCK_BYTES, size, feeds_in_block)
        for place, size, feeds_in_block in zip(places, sizes, feeds, strict=True)
    ]


def _decompress(files: Sequence[Location], scratch: Location, progress: Progress) -> list[Location]:
    """Return where the plain text of each file is: in `scratch` if the file is compressed."""
    places = list(files)
    packed = [number for number, file in enumerate(files) if lines.is_packed(file)]
    for number in packed:
        places[number] = scratch / f"{number}.txt"

    def work(number: int) -> int:
        return lines.decompress(files[number], places[number])

    if packed:
        list(run_items(packed, work, "unpacking", progress))
    return places

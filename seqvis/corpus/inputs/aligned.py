"""Two aligned text files, read by ranges of lines.

Each reader seeks to its lines in both files and yields blocks of pairs. No process ever holds more
than one block.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from seqvis.cluster import Progress, ignore_progress
from seqvis.corpus.inputs.source import Texts, check_texts, gathered, pair_table
from seqvis.corpus.inputs.textindex import index_texts
from seqvis.errors import DataError
from seqvis.storage import Location, locate
from seqvis.text import lines
from seqvis.text.lines import LineIndex, Start


@dataclass(frozen=True)
class AlignedFiles:
    """Two indexed files in which line n of one is the translation of line n of the other."""

    names: tuple[str, str]  # as the user gave them; they may be compressed
    source: LineIndex
    target: LineIndex

    @property
    def rows(self) -> range:
        return range(min(self.source.lines, self.target.lines))

    @property
    def lines(self) -> dict[str, int]:
        return dict(zip(self.names, (self.source.lines, self.target.lines), strict=True))

    def reader(self, rows: range, longest: int) -> Callable[[], Iterator[pa.Table]]:
        source, target = self.source, self.target
        places = (
            (source.location, source.start_of(rows.start)),
            (target.location, target.start_of(rows.start)),
        )
        return partial(read_pairs, *places, rows, longest)

    def encoding_advice(self, side: int) -> str:
        return lines.undecodable_lines(locate(self.names[side])).advice()


Place = tuple[Location, Start]


def read_pairs(source: Place, target: Place, rows: range, longest: int) -> Iterator[pa.Table]:
    """Yield tables of `PAIR_SCHEMA` for the lines from these places on, numbered by `rows`."""
    sources, targets = (_texts(*place, len(rows), longest) for place in (source, target))
    return gathered(_side_by_side(sources, targets, rows.start))


def _texts(location: Location, start: Start, count: int, longest: int) -> Iterator[Texts]:
    for block in lines.read_lines(location, start, count, longest):
        yield check_texts(pa.array(block, pa.binary()), longest)


def _side_by_side(
    sources: Iterator[Texts], targets: Iterator[Texts], first: int
) -> Iterator[pa.Table]:
    """Yield tables of `PAIR_SCHEMA`, as long as both sides have lines."""
    source, target = next(sources, None), next(targets, None)
    while source is not None and target is not None:
        count = min(len(source.flaws), len(target.flaws))
        yield pair_table(source[:count], target[:count], first)
        first += count
        source = source[count:] if count < len(source.flaws) else next(sources, None)
        target = target[count:] if count < len(target.flaws) else next(targets, None)


def index_files(
    source: Location,
    target: Location,
    scratch: Location,
    allow_unequal: bool = False,
    progress: Progress = ignore_progress,
) -> AlignedFiles:
    """Count the lines of both files, as `index_texts` does.

    Raises DataError for files of unequal length unless `allow_unequal`.
    """
    first, second = index_texts((source, target), scratch, progress)
    if first.lines != second.lines and not allow_unequal:
        raise DataError(
            f"{source.uri} has {first.lines} lines but {target.uri} has {second.lines} lines: "
            "line n of one file must translate line n of the other; repair them, or pass "
            f"--allow-unequal to use the first {min(first.lines, second.lines)} lines of both"
        )
    return AlignedFiles((source.uri, target.uri), first, second)

"""Two aligned text files as a Ray Data set of sentence pairs, read by ranges of lines.

The files may be plain or compressed. Each read task seeks to its lines in both files and yields
blocks of pairs: the row number, both texts, and what is wrong with the pair, if anything. The first
pass counts line feeds in parallel by blocks of bytes; the second pass reads. No process ever holds
more than one block. A compressed file cannot be entered in the middle, so one task first streams it
into a plain scratch file; that takes its plain size on disk and about a second for every 100 MB.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from seqvis.cluster import Progress, ignore_progress, quiet_ray_data
from seqvis.errors import DataError, SeqvisError
from seqvis.storage import Location
from seqvis.text import lines
from seqvis.text.lines import LineIndex, Start

COUNT_BLOCK_BYTES = 8 << 20
TABLE_BYTES = 16 << 20  # a read task hands on what it has when it reaches this much text

PAIR_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("problem", pa.string()),  # null for a good pair
    ]
)


@dataclass(frozen=True)
class AlignedFiles:
    """Two indexed files in which line n of one is the translation of line n of the other."""

    source: LineIndex
    target: LineIndex

    @property
    def pairs(self) -> int:
        return min(self.source.lines, self.target.lines)


class AlignedLines(Datasource):
    """A data source of pairs of lines for Ray Data, with `lines_per_task` for each read task."""

    def __init__(self, files: AlignedFiles, lines_per_task: int, max_line_bytes: int):
        super().__init__()
        self._files = files
        self._lines_per_task = lines_per_task
        self._max_line_bytes = max_line_bytes

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        return [
            self._task(first, min(self._lines_per_task, self._files.pairs - first))
            for first in range(0, self._files.pairs, self._lines_per_task)
        ]

    def _task(self, first: int, count: int) -> ReadTask:
        source, target = self._files.source, self._files.target
        places = (source.location, source.start_of(first), target.location, target.start_of(first))
        longest = self._max_line_bytes

        def read() -> Iterator[pa.Table]:
            return read_pairs(*places, first, count, longest)

        return ReadTask(
            read, BlockMetadata(num_rows=count, size_bytes=None, input_files=None, exec_stats=None)
        )


def read_pairs(
    source: Location,
    source_start: Start,
    target: Location,
    target_start: Start,
    first: int,
    count: int,
    longest: int,
) -> Iterator[pa.Table]:
    """Yield tables of `PAIR_SCHEMA` for `count` pairs from row `first` on."""
    sources = _texts(lines.read_lines(source, source_start, count, longest), longest)
    targets = _texts(lines.read_lines(target, target_start, count, longest), longest)
    parts: list[pa.Table] = []
    for part in _side_by_side(sources, targets, first):
        parts.append(part)
        if sum(table.nbytes for table in parts) > TABLE_BYTES:
            yield pa.concat_tables(parts)
            parts = []
    if parts:
        yield pa.concat_tables(parts)


@dataclass(frozen=True)
class _Texts:
    """Lines of one file, stripped of white space at both ends."""

    texts: pa.Array  # of strings, empty where there is a flaw
    flaws: np.ndarray  # (lines,) one of the four below

    def __getitem__(self, where: slice) -> "_Texts":
        return _Texts(self.texts[where], self.flaws[where])


_NONE, _TOO_LONG, _NOT_UTF8, _BLANK = range(4)
_PROBLEMS = (
    None, "source_line_too_long", "target_line_too_long", "source_not_utf8", "target_not_utf8",
    "blank",
)  # fmt: skip
_WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # what str.strip takes away


def _texts(found: Iterator[list[bytes]], longest: int) -> Iterator[_Texts]:
    """Yield the lines decoded, a block of them at a time."""
    for block in found:
        raw = pa.array(block, pa.binary())
        flaws = np.zeros(len(block), dtype=np.uint8)
        flaws[pc.binary_length(raw).to_numpy() > longest] = _TOO_LONG
        raw = _emptied(raw, flaws != _NONE)
        texts = None if b"\0" in b"".join(block) else _decoded(raw)
        if texts is None:  # rare: so only then each line is tried
            flaws[[not _is_text(line) for line in raw.to_pylist()]] = _NOT_UTF8
            texts = _emptied(raw, flaws != _NONE).cast(pa.string())
        texts = pc.utf8_trim(texts, characters=_WHITE_SPACE)
        empty = pc.binary_length(texts).to_numpy() == 0
        flaws[empty & (flaws == _NONE)] = _BLANK
        yield _Texts(texts, flaws)


def _side_by_side(
    sources: Iterator[_Texts], targets: Iterator[_Texts], first: int
) -> Iterator[pa.Table]:
    """Yield tables of `PAIR_SCHEMA`, as long as both sides have lines."""
    source, target = next(sources, None), next(targets, None)
    while source is not None and target is not None:
        count = min(len(source.flaws), len(target.flaws))
        yield _table(source[:count], target[:count], first)
        first += count
        source = source[count:] if count < len(source.flaws) else next(sources, None)
        target = target[count:] if count < len(target.flaws) else next(targets, None)


def _table(source: _Texts, target: _Texts, first: int) -> pa.Table:
    """Return pairs and what is wrong with them, in which case their texts are empty."""
    problems = np.zeros(len(source.flaws), dtype=np.int8)
    problems[(source.flaws == _BLANK) | (target.flaws == _BLANK)] = 5
    for number, (side, flaw) in enumerate(
        [(source, _TOO_LONG), (target, _TOO_LONG), (source, _NOT_UTF8), (target, _NOT_UTF8)], 1
    ):
        problems[(side.flaws == flaw) & ((problems == 0) | (problems == 5))] = number
    flawed = problems != 0
    columns = [
        pa.array(np.arange(first, first + len(problems))),
        _emptied(source.texts, flawed),
        _emptied(target.texts, flawed),
        pa.array(_PROBLEMS, pa.string()).take(pa.array(problems)),
    ]
    return pa.table(columns, schema=PAIR_SCHEMA)


def _emptied(values: pa.Array, where: np.ndarray) -> pa.Array:
    """Return the strings, or bytes, with empty ones in some places."""
    return (
        pc.if_else(pa.array(where), pa.scalar(b"", values.type), values) if where.any() else values
    )


def _decoded(raw: pa.Array) -> pa.Array | None:
    """Return the lines as strings; None if any is not UTF-8."""
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid:
        return None


def _is_text(line: bytes) -> bool:
    """Tell whether the line is UTF-8 without NUL bytes, which no text has."""
    try:
        return "\0" not in line.decode()
    except UnicodeDecodeError:
        return False


def index_files(
    source: Location,
    target: Location,
    scratch: Location,
    allow_unequal: bool = False,
    progress: Progress = ignore_progress,
) -> AlignedFiles:
    """Count the lines of both files: pass one.

    `scratch` takes the plain text of compressed files. Raises DataError for a file that is
    missing, empty, damaged or no text in UTF-8, and for files of unequal length unless
    `allow_unequal`.
    """
    for location in (source, target):
        lines.check_text_file(location)
    places = _decompress((source, target), scratch, progress)
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
    first, second = (
        lines.build_index(place, COUNT_BLOCK_BYTES, size, feeds_in_block)
        for place, size, feeds_in_block in zip(places, sizes, feeds, strict=True)
    )
    if first.lines != second.lines and not allow_unequal:
        raise DataError(
            f"{source.uri} has {first.lines} lines but {target.uri} has {second.lines} lines: "
            "line n of one file must translate line n of the other; repair them, or pass "
            f"--allow-unequal to use the first {min(first.lines, second.lines)} lines of both"
        )
    return AlignedFiles(first, second)


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


def read_aligned(files: AlignedFiles, lines_per_task: int, max_line_bytes: int) -> Any:
    """Return the pairs as a lazy Ray Dataset of `PAIR_SCHEMA`: pass two."""
    tasks = -(-files.pairs // lines_per_task)
    with quiet_ray_data():
        return ray.data.read_datasource(
            AlignedLines(files, lines_per_task, max_line_bytes), override_num_blocks=tasks
        )


def run_blocks(
    dataset: Any, work: Callable[[pa.Table], Any], stage: str, total: int, progress: Progress
) -> Iterator[Any]:
    """Apply `work` to each block of the dataset in parallel and yield what it returns.

    Results come in no fixed order and should be small: they reach this process. A SeqvisError
    that `work` raises is raised here as it was.
    """

    def apply(table: pa.Table) -> pa.Table:
        try:
            result = work(table) if table.num_rows else None
        except SeqvisError as error:  # raised, it would arrive as text inside a Ray error
            result = error
        return pa.table({"result": [pickle.dumps(result)], "rows": [table.num_rows]})

    with quiet_ray_data():
        mapped = dataset.map_batches(
            apply, batch_size=None, batch_format="pyarrow", zero_copy_batch=True
        )
        done = 0
        progress(stage, 0, total)
        for batch in mapped.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                result = pickle.loads(row["result"])
                if isinstance(result, SeqvisError):
                    raise result
                done += row["rows"]
                progress(stage, done, total)
                if result is not None:
                    yield result


def run_items(
    items: Sequence[Any], work: Callable[[Any], Any], stage: str, progress: Progress
) -> Iterator[Any]:
    """Apply `work` to each item, one task each, and yield what it returns in no fixed order."""
    packed = [{"item": pickle.dumps(item)} for item in items]
    with quiet_ray_data():
        dataset = ray.data.from_items(packed, override_num_blocks=len(packed))

    def unpack(table: pa.Table) -> list[Any]:
        return [work(pickle.loads(item)) for item in table["item"].to_pylist()]

    for results in run_blocks(dataset, unpack, stage, len(packed), progress):
        yield from results

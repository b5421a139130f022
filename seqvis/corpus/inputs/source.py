"""What every kind of input offers: numbered sentence pairs, of which any range can be read.

A reader hands over raw bytes. This module decodes them, and says for each pair what is wrong with
it, if anything. So the same pairs make the same corpus, whatever they came in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqvis.cluster import Progress
from seqvis.config import suggestion
from seqvis.errors import ConfigError, DataError
from seqvis.storage import Location

TABLE_BYTES = 16 << 20  # a reader hands on what it has when it reaches this much text
SHOWN = 20  # columns that a message lists

Columns = tuple[str, str]  # of source and target, by name or number

PAIR_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("problem", pa.string()),  # null for a good pair
    ]
)


class PairSource(Protocol):
    """Sentence pairs that are indexed: any range of them can be read in any process."""

    @property
    def rows(self) -> range:
        """The numbers of the pairs: of the lines, from 0, where a file has lines."""

    @property
    def lines(self) -> Mapping[str, int]:
        """How many lines, or rows of a table, each file has."""

    @property
    def names(self) -> tuple[str, str]:
        """What messages call both sides: files, or columns of a file."""

    def reader(self, rows: range, longest: int) -> Callable[[], Iterator[pa.Table]]:
        """Return what yields tables of `PAIR_SCHEMA` for these rows, in another process as well.

        Texts of more than `longest` bytes are bad. No more than `TABLE_BYTES` of text is held.
        """

    def encoding_advice(self, side: int) -> str:
        """Return how to repair texts that are not UTF-8."""


Index = Callable[[Location, Progress], PairSource]
"""Counts the pairs of an input, on Ray, with a folder for scratch files: the first pass over it."""


@dataclass(frozen=True)
class Texts:
    """Texts of one side, stripped of white space at both ends."""

    texts: pa.Array  # of strings, empty where there is a flaw
    flaws: np.ndarray  # (texts,) one of the four below

    def __getitem__(self, where: slice) -> "Texts":
        return Texts(self.texts[where], self.flaws[where])


_NONE, _TOO_LONG, _NOT_UTF8, _BLANK = range(4)
_PROBLEMS = (
    None, "source_line_too_long", "target_line_too_long", "source_not_utf8", "target_not_utf8",
    "blank",
)  # fmt: skip
_WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001))))  # what str.strip takes away


def check_columns(where: str, columns: Columns, known: Sequence[str]) -> None:
    """Raise DataError, listing the columns that are known, if one is missing or there twice."""
    for column in columns:
        if column not in known:
            remedy = suggestion(column, known) or "; add it, or name other --columns"
            raise DataError(f"{where} has no column {column}, it has {_listed(known)}{remedy}")
        if known.count(column) > 1:
            raise DataError(f"{where} has several columns {column}; rename all but one of them")


def no_columns(uri: str, known: Iterable[str]) -> ConfigError:
    """Return the error that asks for columns, which are described by `known`."""
    return ConfigError(
        f"{uri}: give --columns with that of the source and that of the target; "
        f"it has {_listed(known)}"
    )


def _listed(columns: Iterable[str]) -> str:
    shown = list(islice(columns, SHOWN + 1))
    return ", ".join([*shown[:SHOWN], "…"] if len(shown) > SHOWN else shown)


def check_texts(raw: pa.BinaryArray, longest: int, cut: np.ndarray | None = None) -> Texts:
    """Decode texts and find those that are too long, not UTF-8, or blank.

    `cut` says which were too long to be read at all. A line feed, which some formats allow within a
    text, becomes a space.
    """
    flaws = np.zeros(len(raw), dtype=np.uint8)
    flaws[pc.binary_length(raw).to_numpy() > longest] = _TOO_LONG
    if cut is not None:
        flaws[cut] = _TOO_LONG
    raw = _emptied(raw, flaws != _NONE)
    texts = None if _has_byte(raw, 0) else _decoded(raw)
    if texts is None:  # rare: so only then each text is tried
        flaws[[not _is_text(text) for text in raw.to_pylist()]] = _NOT_UTF8
        texts = _emptied(raw, flaws != _NONE).cast(pa.string())
    if _has_byte(raw, 10):
        texts = pc.replace_substring_regex(texts, r"\s*\n\s*", " ")
    texts = pc.utf8_trim(texts, characters=_WHITE_SPACE)
    empty = pc.binary_length(texts).to_numpy() == 0
    flaws[empty & (flaws == _NONE)] = _BLANK
    return Texts(texts, flaws)


def pair_table(source: Texts, target: Texts, first: int) -> pa.Table:
    """Return a table of `PAIR_SCHEMA` from row `first` on; texts of bad pairs are empty."""
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


def gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in fewer tables, each of not much more than `TABLE_BYTES`."""
    parts: list[pa.Table] = []
    for part in tables:
        parts.append(part)
        if sum(table.nbytes for table in parts) > TABLE_BYTES:
            yield pa.concat_tables(parts)
            parts = []
    if parts:
        yield pa.concat_tables(parts)


def _emptied(values: pa.Array, where: np.ndarray) -> pa.Array:
    """Return the strings, or bytes, with empty ones in some places."""
    return (
        pc.if_else(pa.array(where), pa.scalar(b"", values.type), values) if where.any() else values
    )


def _has_byte(raw: pa.BinaryArray, byte: int) -> bool:
    """Tell whether the byte is in the texts, or around them in the same buffer."""
    _, _, content = raw.buffers()
    return content is not None and bool((np.frombuffer(content, np.uint8) == byte).any())


def _decoded(raw: pa.BinaryArray) -> pa.StringArray | None:
    """Return the texts as strings; None if any is not UTF-8."""
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid:
        return None


def _is_text(text: bytes) -> bool:
    """Tell whether these bytes are UTF-8 without NUL, which no text has."""
    try:
        return "\0" not in text.decode()
    except UnicodeDecodeError:
        return False

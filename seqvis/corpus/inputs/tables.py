"""One text file with a pair in each line: tab-separated columns, or JSON lines.

It is read by ranges of lines, as aligned files are, so that the row of a pair is its line.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqvis.cluster import Progress
from seqvis.corpus.inputs.source import (
    Columns,
    check_columns,
    check_texts,
    gathered,
    no_columns,
    pair_table,
)
from seqvis.corpus.inputs.textindex import index_texts
from seqvis.errors import DataError
from seqvis.storage import Location, locate
from seqvis.text import lines
from seqvis.text.lines import LineIndex, Start

LINE_BYTES = 1 << 20  # a longer line is cut and counts as too long, so that none fills the memory


class LineFormat(Protocol):
    """How a line of the file `uri` holds a pair."""

    @property
    def uri(self) -> str: ...

    @property
    def columns(self) -> Columns: ...

    @property
    def header_lines(self) -> int: ...

    def split(self, block: Sequence[bytes], first: int) -> tuple[pa.Array, pa.Array]:
        """Return the bytes of both sides of lines, the first of which is number `first` (from 1).

        An empty line is an empty pair. Raises DataError, naming the line, for one of another form.
        """


@dataclass(frozen=True)
class LineTable:
    """An indexed file with a pair in each line."""

    form: LineFormat
    index: LineIndex  # of its plain text

    @property
    def rows(self) -> range:
        return range(self.form.header_lines, self.index.lines)

    @property
    def lines(self) -> dict[str, int]:
        return {self.form.uri: len(self.rows)}

    @property
    def names(self) -> tuple[str, str]:
        source, target = (f"{self.form.uri}, column {column}" for column in self.form.columns)
        return source, target

    def reader(self, rows: range, longest: int) -> Callable[[], Iterator[pa.Table]]:
        start = self.index.start_of(rows.start)
        return partial(read_rows, self.form, self.index.location, start, rows, longest)

    def encoding_advice(self, side: int) -> str:
        return lines.undecodable_lines(locate(self.form.uri)).advice()


def read_rows(
    form: LineFormat, location: Location, start: Start, rows: range, longest: int
) -> Iterator[pa.Table]:
    """Yield tables of `PAIR_SCHEMA` for the lines from this place on, numbered by `rows`."""
    return gathered(_tables(form, location, start, rows, longest))


def _tables(
    form: LineFormat, location: Location, start: Start, rows: range, longest: int
) -> Iterator[pa.Table]:
    first, line_bytes = rows.start, max(LINE_BYTES, 4 * longest)
    for block in lines.read_lines(location, start, len(rows), line_bytes):
        cut = np.fromiter((len(line) > line_bytes for line in block), bool, len(block))
        if cut.any():
            block = [b"" if long else line for line, long in zip(block, cut, strict=True)]
        source, target = form.split(block, first + 1)
        yield pair_table(check_texts(source, longest, cut), check_texts(target, longest), first)
        first += len(block)


def index_table(form: LineFormat, scratch: Location, progress: Progress) -> LineTable:
    """Count the lines of the file. Raises DataError if there are none but a header."""
    [index] = index_texts([locate(form.uri)], scratch, progress)
    table = LineTable(form, index)
    if not table.rows:
        raise DataError(f"{form.uri}: has no lines below its header; give a file with pairs")
    return table


@dataclass(frozen=True)
class TabSeparated:
    """Columns between tabs, in which quotes are ordinary characters."""

    uri: str
    columns: Columns
    header_lines: int
    places: tuple[int, int]  # of source and target among the columns
    width: int  # of all lines, in columns

    def split(self, block: Sequence[bytes], first: int) -> tuple[pa.Array, pa.Array]:
        raw = pa.array(block, pa.binary())
        fields = pc.split_pattern(raw, "\t")
        odd = pc.list_value_length(fields).to_numpy() != self.width
        if odd.any():
            for place in np.flatnonzero(odd).tolist():
                if block[place].strip():
                    raise DataError(self._odd_line(block[place].count(b"\t") + 1, first + place))
            raw = pc.if_else(pa.array(odd), b"\t" * (self.width - 1), raw)
            fields = pc.split_pattern(raw, "\t")
        source, target = (pc.list_element(fields, place) for place in self.places)
        return source, target

    def _odd_line(self, columns: int, number: int) -> str:
        return (
            f"{self.uri}: line {number} has {columns} columns, the first line {self.width}; "
            f"repair it, or leave out all such lines: "
            f"awk -F'\\t' 'NF == {self.width}' in.tsv > out.tsv"
        )


def open_tab_separated(uri: str, first_line: bytes, columns: Columns | None) -> TabSeparated:
    """Find the columns, by numbers from 1 or by the names that the first line gives.

    Raises ConfigError without `columns`, DataError if one of them is missing.
    """
    text = first_line.decode("utf-8", "replace")
    fields = [field.strip() for field in text.split("\t")]
    numbers = [str(number) for number in range(1, len(fields) + 1)]
    if columns is None:
        shown = (f"{field[:30]!r}" for field in fields)
        raise no_columns(uri, map(" ".join, zip(numbers, shown, strict=True)))
    named = not all(column.isdecimal() for column in columns)
    known = fields if named else numbers
    check_columns(uri, columns, known)
    source, target = (known.index(column) for column in columns)
    return TabSeparated(uri, columns, int(named), (source, target), len(fields))


@dataclass(frozen=True)
class JsonLines:
    """A JSON object in each line; a column is a name in it, or a path such as translation.fr."""

    uri: str
    columns: Columns
    header_lines: int = 0

    def split(self, block: Sequence[bytes], first: int) -> tuple[pa.Array, pa.Array]:
        pairs = [
            self._pair(line, f"{self.uri}: line {number}") if line.strip() else (b"", b"")
            for number, line in enumerate(block, first)
        ]
        sources, targets = zip(*pairs, strict=True)
        return pa.array(sources, pa.binary()), pa.array(targets, pa.binary())

    def _pair(self, line: bytes, where: str) -> list[bytes]:
        record = _record(line, where)
        texts = []
        for column in self.columns:
            if column not in record and not _is_within_null(column, record):
                check_columns(where, self.columns, list(record))
            text = record.get(column)
            text = "" if text is None else text
            if not isinstance(text, str):
                raise DataError(
                    f"{where} has {json.dumps(text, ensure_ascii=False)[:40]} as {column}, which "
                    f"is no text; repair it, or name other --columns"
                )
            try:
                texts.append(text.encode("utf-8", "surrogateescape"))
            except UnicodeEncodeError:  # half of a character, such as \ud83d, is not UTF-8
                texts.append(text.encode("utf-8", "surrogatepass"))
        return texts


def open_json_lines(uri: str, first_line: bytes, columns: Columns | None) -> JsonLines:
    """Find the columns in the first line, as `open_tab_separated` does."""
    record = _record(first_line, f"{uri}: line 1")
    if columns is None:
        raise no_columns(uri, record)
    check_columns(uri, columns, list(record))
    return JsonLines(uri, columns)


def _record(line: bytes, where: str) -> dict[str, Any]:
    """Return the values of a JSON object by path; bytes that are no UTF-8 become surrogates."""
    try:
        record = json.loads(line.decode("utf-8", "surrogateescape"))
        if isinstance(record, dict):
            return dict(_by_path(record))
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):  # which counts lines itself
            reason = f"{error.msg}, character {error.pos + 1}"
        raise DataError(f"{where} is not JSON ({reason}); each line must be an object") from error
    raise DataError(f"{where} is no JSON object; each line must be one, with names")


def _is_within_null(column: str, record: dict[str, Any]) -> bool:
    """Tell whether a path leads into an object that is null here."""
    parts = column.split(".")
    return any(record.get(".".join(parts[:end]), "") is None for end in range(1, len(parts)))


def _by_path(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, dict):
            yield from _by_path(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value

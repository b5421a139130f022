"""Recognise what a user gave as pairs, and check all of it that can be checked without Ray."""

import re
from collections.abc import Callable
from functools import partial
from typing import Literal

from seqvis.cluster import Progress
from seqvis.corpus.inputs.aligned import index_files
from seqvis.corpus.inputs.source import Columns, PairSource
from seqvis.corpus.inputs.tables import (
    LINE_BYTES,
    index_table,
    open_json_lines,
    open_tab_separated,
)
from seqvis.corpus.settings import PrepareSettings
from seqvis.errors import ConfigError, DataError
from seqvis.storage import Location, locate
from seqvis.text.lines import check_text_file, open_text

Index = Callable[[Location, Progress], PairSource]
"""Counts the pairs of an input, on Ray, with a folder for scratch files: the first pass over it."""


def open_input(settings: PrepareSettings, part: Literal["train", "valid"]) -> Index:
    """Check the pairs that are given for a part.

    Raises ConfigError if none are, or no columns where they are needed, and DataError if they
    cannot be used.
    """
    source, target, pairs = (
        (settings.source, settings.target, settings.pairs)
        if part == "train"
        else (settings.valid_source, settings.valid_target, settings.valid_pairs)
    )
    if source is not None and target is not None:
        files = locate(source), locate(target)
        for file in files:
            check_text_file(file)
        return lambda scratch, progress: index_files(
            *files, scratch, settings.allow_unequal, progress
        )
    if pairs is None:
        raise ConfigError("give the pairs: --source and --target, or --pairs")
    first, comma, second = (settings.columns or "").partition(",")
    return _open_file(pairs, (first, second) if comma else None)


def _open_file(uri: str, columns: Columns | None) -> Index:
    """Check a file that holds both sides of its pairs; its content says of which kind it is."""
    with open_text(locate(uri)) as stream:
        first_line = stream.readline(LINE_BYTES).rstrip(b"\r\n")
    if re.match(rb"\s*\[\s*(\{|$)", first_line):
        raise DataError(
            f"{uri}: is one JSON array; make JSON lines of it: jq -c '.[]' in.json > out.jsonl"
        )
    if re.match(rb'\s*\{\s*("|\}|$)', first_line):
        return partial(index_table, open_json_lines(uri, first_line, columns))
    if b"\t" in first_line:
        return partial(index_table, open_tab_separated(uri, first_line, columns))
    raise DataError(
        f"{uri}: is not known as a file of pairs: its first line has no tab, and it is no JSON; "
        f"two files that are aligned line by line are given by --source and --target"
    )

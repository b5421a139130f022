"""Recognise what a user gave as pairs, and check all of it that can be checked without Ray."""

import re
from functools import partial
from typing import Literal

import pandas as pd

from seqvis.corpus.inputs.aligned import index_files
from seqvis.corpus.inputs.frames import open_frame
from seqvis.corpus.inputs.huggingface import open_dataset
from seqvis.corpus.inputs.parquet import open_parquet
from seqvis.corpus.inputs.source import Columns, Index
from seqvis.corpus.inputs.tables import (
    LINE_BYTES,
    index_table,
    open_json_lines,
    open_tab_separated,
)
from seqvis.corpus.inputs.tmx import index_memory
from seqvis.corpus.settings import PrepareSettings
from seqvis.encodings import HEAD_BYTES
from seqvis.errors import ConfigError, DataError
from seqvis.storage import HUGGING_FACE, locate
from seqvis.text.lines import check_text_file, is_packed, open_text, open_unpacked


def open_input(
    settings: PrepareSettings, part: Literal["train", "valid"], frame: pd.DataFrame | None = None
) -> Index:
    """Check the pairs that are given for a part, or in a DataFrame.

    Raises ConfigError if none are, or no columns where they are needed, and DataError if they
    cannot be used.
    """
    source, target, pairs, split, usual_split = (
        (settings.source, settings.target, settings.pairs, settings.split, "train")
        if part == "train"
        else (
            settings.valid_source, settings.valid_target, settings.valid_pairs or settings.pairs,
            settings.valid_split, "validation",
        )
    )  # fmt: skip
    misplaced = split or (settings.columns and not (settings.pairs or settings.valid_pairs))
    if misplaced and (source is not None or pairs is None):
        raise ConfigError("--columns, --split and --valid-split go with pairs in one file")
    if source is not None and target is not None:
        files = locate(source), locate(target)
        for file in files:
            check_text_file(file)
        return lambda scratch, progress: index_files(
            *files, scratch, settings.allow_unequal, progress
        )
    if pairs is None:
        raise ConfigError("give the pairs: --source and --target, or --pairs")
    first, comma, second = map(str.strip, (settings.columns or "").partition(","))
    columns = (first, second) if comma else None
    if frame is not None:
        return open_frame(frame, columns)
    if pairs.startswith(HUGGING_FACE) or locate(pairs).is_directory():
        return open_dataset(pairs, columns, split, usual_split)
    if split is not None:
        raise ConfigError(f"{pairs}: is one file, of which there are no splits; leave them out")
    return _open_file(pairs, columns, (settings.source_lang, settings.target_lang))


def _open_file(uri: str, columns: Columns | None, languages: Columns) -> Index:
    """Check a file that holds both sides of its pairs; its content says of which kind it is."""
    location = locate(uri)
    with open_unpacked(location) as unpacked:
        head = unpacked.peek(HEAD_BYTES)
    if head.startswith(b"PAR1"):
        if is_packed(location):
            raise DataError(f"{uri}: is a compressed Parquet file; unpack it first")
        table = open_parquet(location, uri, columns)
        return lambda scratch, progress: table
    narrow = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # as in UTF-16
    if re.match(rb"<(\?xml|!DOCTYPE|!--|tmx)", narrow):
        if not re.search(rb"<tmx[\s/>]", narrow):
            raise DataError(f"{uri}: is XML, but no TMX; export it as TMX, or as TSV")
        if columns is None and languages[0] == languages[1]:
            raise ConfigError(
                f"{uri}: both sides are {languages[0]}; name the variants by --columns, such as "
                f"pt-BR,pt-PT"
            )
        return partial(index_memory, uri, columns or languages)
    with open_text(location) as stream:
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
        f"two files that are aligned line by line are given by --source and --target, and of a CSV "
        f"pandas.read_csv('in.csv').to_parquet('out.parquet') makes a table"
    )

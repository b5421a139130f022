"""Columns of tokens, and tables in numbered partitions on disk.

A column holds the tokens of many sentences as Arrow lists over a dictionary of words.
`tokenize_column` turns a column of texts into one of the same length that stores each distinct
token once, so that counting and numbering them are operations on whole arrays. The tokenizer sees
each distinct word of a column once, however often it occurs.

Partitions are for work that does not fit in memory. A writer puts all its partitions into one Arrow
file, one record batch each; a reader fetches the same partition from every writer's file without
reading the others. Finding duplicates and counting words this way takes memory that does not grow
with the corpus.
"""

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqvis.storage import Location, storage_errors
from seqvis.text.tokenizers import Tokenizer, WordTokenizer, clean_line

TOKENS = pa.list_(pa.dictionary(pa.int32(), pa.string()))


class Tokens(NamedTuple):
    """The content of a column of type `TOKENS`."""

    words: list[str]  # the dictionary; some may not occur
    numbers: np.ndarray  # (tokens,) places in `words`
    offsets: np.ndarray  # (sentences + 1,) sentence i is numbers[offsets[i]:offsets[i + 1]]


def tokenize_column(tokenizer: Tokenizer, texts: pa.Array) -> pa.ListArray:
    """Return the tokens of each text as `tokenizer.tokenize` finds them, a column of `TOKENS`."""
    if not isinstance(tokenizer, WordTokenizer):
        return _listed(tokenizer.tokenize_many(texts.to_pylist()))
    settings = tokenizer.settings
    texts = pa.array([clean_line(text, settings) for text in texts.to_pylist()], pa.string())
    words = pc.utf8_split_whitespace(texts)
    encoded = words.flatten().dictionary_encode()
    split = _listed([tokenizer.split_word(word) for word in encoded.dictionary.to_pylist()])
    tokens, starts = split.values.indices.to_numpy(), split.offsets.to_numpy()
    place = encoded.indices.to_numpy()  # of each word, among the distinct ones
    ends = np.concatenate([[0], np.cumsum(np.diff(starts)[place])])
    numbers = tokens[_ranges(starts[place], ends)]
    offsets = ends[words.offsets.to_numpy() - words.offsets[0].as_py()]
    return _column(Tokens(split.values.dictionary, numbers, offsets))


def read_tokens(column: pa.ChunkedArray) -> Tokens:
    """Return the parts of a column of the type `TOKENS`."""
    lists = column.combine_chunks()
    offsets = lists.offsets.to_numpy()
    values = lists.values[offsets[0] : offsets[-1]]
    return Tokens(values.dictionary.to_pylist(), values.indices.to_numpy(), offsets - offsets[0])


def shortened(tokens: Tokens, longest: int | None, values: np.ndarray, end: int) -> pa.ListArray:
    """Return lists of at most `longest` tokens, each as `values[number]`, and an `end`."""
    lengths = np.diff(tokens.offsets)
    if longest is not None:
        lengths = np.minimum(lengths, longest)
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    flat = np.full(offsets[-1], end, values.dtype)
    is_token = np.ones(len(flat), bool)
    is_token[offsets[1:] - 1] = False
    ends = np.concatenate([[0], np.cumsum(lengths)])
    flat[is_token] = values[tokens.numbers[_ranges(tokens.offsets[:-1], ends)]]
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(flat))


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return, for each i, ends[i + 1] - ends[i] numbers: starts[i], starts[i] + 1, …"""
    return np.repeat(starts - ends[:-1], np.diff(ends)) + np.arange(ends[-1])


def _listed(sentences: list[list[str]] | list[tuple[str, ...]]) -> pa.ListArray:
    flat = pa.array(chain.from_iterable(sentences), pa.string()).dictionary_encode()
    ends = np.cumsum([len(tokens) for tokens in sentences], dtype=np.int64)
    offsets = np.concatenate([[0], ends])
    return _column(Tokens(flat.dictionary, flat.indices.to_numpy(), offsets))


def _column(tokens: Tokens) -> pa.ListArray:
    values = pa.DictionaryArray.from_arrays(
        pa.array(tokens.numbers.astype(np.int32, copy=False)), tokens.words
    )
    return pa.ListArray.from_arrays(pa.array(tokens.offsets.astype(np.int32)), values)


def write_partitions(location: Location, table: pa.Table, numbers: np.ndarray, count: int) -> None:
    """Write row i of `table` to partition `numbers[i]` of `count`; order within one is kept."""
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(count + 1))
    table = table.take(pa.array(order)).combine_chunks()
    batches = [_one_batch(table.slice(a, b - a)) for a, b in pairwise(bounds)]
    _write(location, batches)


def write_whole(location: Location, table: pa.Table) -> None:
    """Write the table as the only partition."""
    _write(location, [_one_batch(table)])


def _write(location: Location, batches: Sequence[pa.RecordBatch]) -> None:
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with storage_errors(location.uri):
        with location.filesystem.open_output_stream(location.path) as sink:
            with pa.ipc.new_file(sink, batches[0].schema, options=options) as writer:
                for batch in batches:
                    writer.write_batch(batch)


def read_partition(location: Location, number: int) -> pa.Table:
    """Return one partition of a file that `write_partitions` wrote."""
    with location.filesystem.open_input_file(location.path) as file:
        reader = pa.ipc.open_file(file)
        return pa.Table.from_batches([reader.get_batch(number)])


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_pylist([], schema=table.schema)

"""The sentence pairs of a prepared corpus, in memory or in files that are mapped into it.

A `PairTable` holds one split as two flat arrays of word ids with offsets, two bytes a word (22.5
million pairs of 50 words in all: 2.3 GB). Shuffled batches touch every row in every epoch, so each
worker needs the whole corpus. The pages of a mapped file are shared by all workers of a node, and
pages for which memory has no room are read again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from seqvis.artifacts import Artifact
from seqvis.errors import ArtifactError
from seqvis.nodefiles import MAPPED_BYTES, made_once


@dataclass(frozen=True)
class Side:
    """The sentences of one language: sentence i is words[offsets[i]:offsets[i + 1]]."""

    words: NDArray[np.unsignedinteger[Any]]  # uint16, or uint32 of more than 65,536 words
    offsets: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Of all sentences; for those of a batch, `lengths_of` does not touch the others."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.offsets[rows + 1] - self.offsets[rows]

    def __getitem__(self, row: int) -> NDArray[np.unsignedinteger[Any]]:
        return self.words[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class PairTable:
    """One split of a prepared corpus; every sentence ends in `_eos_`."""

    source: Side
    target: Side
    source_texts: list[str] | None = None  # validation only
    target_texts: list[str] | None = None

    def __len__(self) -> int:
        return len(self.source.offsets) - 1


def load_pairs(corpus: Artifact, split: Literal["train", "valid"]) -> PairTable:
    """Read a split of a corpus artifact into memory. Raises ArtifactError if it has no rows."""
    tables = []
    for name in _parts(corpus, split):
        location = corpus.file(name)
        tables.append(parquet.read_table(location.path, filesystem=location.filesystem))
    if not sum(table.num_rows for table in tables):
        raise ArtifactError(
            f"{corpus.location.uri}: its {split} part holds no pairs; prepare it with more text"
        )
    table = pa.concat_tables(tables)
    sides = []
    for column in ("source", "target"):
        words, lengths = zip(*map(_words_and_lengths, table[column].chunks), strict=True)
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        sides.append(Side(np.concatenate(words), offsets))
    source_texts, target_texts = (
        table[column].to_pylist() if column in table.column_names else None
        for column in ("source_text", "target_text")
    )
    return PairTable(sides[0], sides[1], source_texts, target_texts)


def validation_texts(corpus: Artifact) -> tuple[list[str], list[str]]:
    """Return sources and references of a corpus's validation part, as their files had them.

    Raises ArtifactError if there are none.
    """
    pairs = load_pairs(corpus, "valid")
    if pairs.source_texts is None or pairs.target_texts is None:
        raise ArtifactError(f"{corpus.location.uri}: its valid part holds no texts")
    return pairs.source_texts, pairs.target_texts


def training_pairs(corpus: Artifact) -> PairTable:
    """Load the training part of a corpus, mapped if it is large.

    Raises ArtifactError if it has no rows, and StorageError if there is no room for the mapped
    files: 2 bytes a word and 16 a pair, about twice as much as the Parquet files.
    """
    names = _parts(corpus, "train")
    size = sum(corpus.files[name]["size"] for name in names)
    if size < MAPPED_BYTES:
        return load_pairs(corpus, "train")

    def write(folder: Path) -> None:
        for side in ("source", "target"):
            _write_side(corpus, names, side, folder)
        corpus.check_unchanged()

    folder = made_once(f"pairs-{corpus.fingerprint()}", 2 * size, write)
    return PairTable(map_side(folder, "source"), map_side(folder, "target"))


def _parts(corpus: Artifact, split: str) -> list[str]:
    return [name for name in corpus.names_below(split) if name.endswith(".parquet")]


def _words_and_lengths(
    sentences: pa.ListArray,
) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.int64]]:
    words = sentences.flatten().to_numpy(zero_copy_only=False)
    return words, sentences.value_lengths().to_numpy(zero_copy_only=False)


def _write_side(corpus: Artifact, names: list[str], side: str, folder: Path) -> None:
    """Stream one column of the Parquet parts into flat files."""
    end = 0
    with (folder / f"{side}.words").open("wb") as words_file:
        with (folder / f"{side}.offsets").open("wb") as offsets_file:
            offsets_file.write(np.zeros(1, np.int64).tobytes())
            for sentences in _stream(corpus, names, side):
                words, lengths = _words_and_lengths(sentences)
                words_file.write(words.tobytes())
                offsets_file.write((end + np.cumsum(lengths, dtype=np.int64)).tobytes())
                end += len(words)


def _stream(corpus: Artifact, names: list[str], column: str) -> Iterator[pa.ListArray]:
    for name in names:
        location = corpus.file(name)
        with parquet.ParquetFile(location.path, filesystem=location.filesystem) as file:
            for batch in file.iter_batches(columns=[column]):
                yield batch[column]


def map_side(folder: Path, side: str) -> Side:
    """Map the flat files `SIDE.words` (uint16 or uint32) and `SIDE.offsets` (int64) of a folder."""
    words = folder / f"{side}.words"
    offsets = np.memmap(folder / f"{side}.offsets", np.int64, "r")
    narrow = words.stat().st_size == 2 * int(offsets[-1])
    return Side(np.memmap(words, np.uint16 if narrow else np.uint32, "r"), offsets)

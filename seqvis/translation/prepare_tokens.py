"""The first work on every block of pairs: filter, tokenise, hash, and set aside on disk.

In: a table of `seqvis.text.corpus.PAIR_SCHEMA`. Out: two scratch files for the block, its
tokens (Parquet) and its hashes (partitioned), and a small summary. What would surprise a
reader: the split and the search for validation sources hash the source without its white space,
case and typographic punctuation, because sentences that differ only in these can become
the same tokens, and then one sentence would be on both sides.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqvis.storage import Location, storage_errors
from seqvis.text.filters import EXAMPLES, Tally, lengths_too_unequal, question_pairs
from seqvis.text.partitions import write_partitions
from seqvis.text.punctuation import normalize_punctuation
from seqvis.text.tokenizers import Tokenizer, TokenizerSettings, load_tokenizer
from seqvis.translation.prepare_settings import PrepareSettings

JOINT = "\n"  # between the tokens of a staged sentence: no line of a text file can hold it
STAGED_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("source", pa.string()),  # tokens, joined by JOINT
        ("target", pa.string()),
        ("valid", pa.bool_()),
        ("source_text", pa.string()),  # null in training rows
        ("target_text", pa.string()),
    ]
)


@dataclass(frozen=True)
class StagedPart:
    """What one block left on disk, and what it dropped."""

    name: str
    first_row: int
    rows: int
    tally: Tally


@dataclass(frozen=True)
class TokenizeBlock:
    """The work on one block, as Ray Data sends it to its tasks."""

    settings: PrepareSettings
    scratch: Location
    prefix: str  # train or valid: which pair of input files this is
    partitions: int
    source_model: bytes | None = None
    target_model: bytes | None = None

    def __call__(self, table: pa.Table) -> StagedPart:
        tally = Tally()
        rows, sources, targets = usable_pairs(table, self.settings, tally)
        source_tokens = self._tokenizer("source").tokenize_many(sources)
        target_tokens = self._tokenizer("target").tokenize_many(targets)
        staged: dict[str, list[object]] = {name: [] for name in STAGED_SCHEMA.names}
        hashes: list[tuple[int, int, int]] = []
        for row, source, target, source_words, target_words in zip(
            rows, sources, targets, source_tokens, target_tokens, strict=True
        ):
            reason = self._drop_reason(len(source_words), len(target_words))
            if reason is not None:
                tally.drop(reason, row)
                continue
            source_hash = hash_source(source, self.settings.seed)
            valid = self._is_valid(source_hash)
            values = (row, JOINT.join(source_words), JOINT.join(target_words), valid)
            texts = (source, target) if valid else (None, None)
            for column, value in zip(staged.values(), (*values, *texts), strict=True):
                column.append(value)
            hashes.append((source_hash, hash_pair(source, target), row))
        first_row = table["row"][0].as_py()
        name = f"{self.prefix}-{first_row:014d}"
        self._write(name, staged, hashes)
        return StagedPart(name, first_row, len(hashes), tally)

    def _tokenizer(self, side: str) -> Tokenizer:
        model = self.source_model if side == "source" else self.target_model
        return _tokenizer(self.settings.tokenizer_settings(side), model)

    def _drop_reason(self, source: int, target: int) -> str | None:
        """Why a pair with these numbers of tokens is dropped; validation files keep all."""
        if source == 0 or target == 0:
            return "blank"
        if self.prefix == "valid":
            return None
        if 0 < self.settings.max_target_length < target + 1:
            return "target_too_long"
        if lengths_too_unequal(source, target, self.settings.max_length_ratio):
            return "length_ratio"
        return None

    def _is_valid(self, source_hash: int) -> bool:
        if self.settings.valid_source is not None:
            return self.prefix == "valid"
        return in_validation_split(source_hash, self.settings.valid_share)

    def _write(
        self, name: str, staged: dict[str, list[object]], hashes: list[tuple[int, int, int]]
    ) -> None:
        columns = np.array(hashes, dtype=np.uint64).reshape(-1, 3)
        table = pa.table(
            {
                "source_hash": columns[:, 0],
                "pair_hash": columns[:, 1],
                "row": columns[:, 2].astype(np.int64),
            }
        )
        numbers = (columns[:, 0] % np.uint64(self.partitions)).astype(np.int64)
        write_partitions(self.scratch / f"{name}.hashes", table, numbers, self.partitions)
        write_parquet(self.scratch / f"{name}.tokens", pa.table(staged, schema=STAGED_SCHEMA))


def usable_pairs(
    table: pa.Table, settings: PrepareSettings, tally: Tally
) -> tuple[list[int], list[str], list[str]]:
    """Rows and texts that can be used; what cannot goes to the tally."""
    flawed = table.filter(pc.is_valid(table["problem"])).select(["row", "problem"])
    for one in flawed.to_pylist():
        tally.drop(one["problem"], one["row"])
    good = table.filter(pc.is_null(table["problem"])) if len(flawed) else table
    if settings.filter == "questions":
        found = question_pairs(good, settings.source_lang, settings.target_lang)
        others = np.setdiff1d(good["row"].to_numpy(), found["row"].to_numpy(), assume_unique=True)
        tally.add("not_a_question", len(others), (others[:EXAMPLES] + 1).tolist())
        good = found
    rows, sources, targets = (good[name].to_pylist() for name in ("row", "source", "target"))
    return rows, sources, targets


def normalize_source(text: str) -> str:
    """What must not be on both sides of the split: the text without spaces, case and typography."""
    if not text.isascii():
        text = normalize_punctuation(unicodedata.normalize("NFKC", text))
    return "".join(text.split()).casefold()


def hash_source(text: str, seed: int) -> int:
    """64 bits of the normalised source; they decide its side of the split."""
    return _hash64(normalize_source(text), seed)


def hash_pair(source: str, target: str) -> int:
    """64 bits of the exact texts; with `hash_source` 128 bits that tell pairs apart."""
    return _hash64(f"{source}\n{target}", 0)


def in_validation_split(source_hash: int, share: float) -> bool:
    # High bits: the low ones choose the partition.
    return source_hash < share * 2.0**64


def _hash64(text: str, seed: int) -> int:
    digest = blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(16, "little", signed=True))
    return int.from_bytes(digest.digest(), "big")


def write_parquet(location: Location, table: pa.Table) -> None:
    """Writes a table; a full disk or a missing permission is a StorageError."""
    with storage_errors(location.uri):
        pq.write_table(
            table, location.path, filesystem=location.filesystem, compression="zstd",
            row_group_size=16_384,
        )  # fmt: skip


@lru_cache(maxsize=4)
def _tokenizer(settings: TokenizerSettings, model: bytes | None) -> Tokenizer:
    """Kept by a worker process from block to block: its cache of words is what makes it fast."""
    return load_tokenizer(settings, model)

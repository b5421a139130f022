"""The first pass over each block of pairs: filter, tokenise, hash, and store on disk.

Each block, a table of `source.PAIR_SCHEMA`, becomes two scratch files, its tokens and its hashes
(partitioned), and a small summary. Both the split and the search for validation sources hash the
source without its white space, case and typographic punctuation: sentences that differ only in
these can become the same tokens, and the same sentence would then be on both sides.

SentencePiece models are trained beforehand, on a bounded sample of the training sentences. The
sample is chosen by hash, so it does not depend on how the work was divided, and it contains no
sentence of the validation split. This reads the text two more times: once to count what the filters
leave, and once to collect the sample.
"""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqvis.cluster import Progress
from seqvis.corpus.blocks import run_blocks, run_items
from seqvis.corpus.columns import tokenize_column, write_partitions, write_whole
from seqvis.corpus.filters import EXAMPLES, Tally, lengths_too_unequal, question_pairs
from seqvis.corpus.inputs.source import PairSource
from seqvis.corpus.settings import PrepareSettings
from seqvis.corpus.spacing import in_sample
from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors
from seqvis.text.characters import clean_text, normalize_punctuation
from seqvis.text.tokenizers import Tokenizer, TokenizerSettings, load_tokenizer, train_sentencepiece

SIDES = ("source", "target")


@dataclass(frozen=True)
class StagedPart:
    """What one block left on disk, and which lines it dropped."""

    name: str
    first_row: int
    rows: int
    tally: Tally


@dataclass(frozen=True)
class Staged:
    """An input after the first pass over its text."""

    pairs: PairSource
    parts: tuple[StagedPart, ...]
    tally: Tally


@dataclass(frozen=True)
class TokenizeBlock:
    """Filters, tokenises and hashes one block; Ray Data sends it to its tasks."""

    settings: PrepareSettings
    scratch: Location
    prefix: str  # train or valid: which input this is
    partitions: int
    source_model: bytes | None = None
    target_model: bytes | None = None
    sampled_share: float = 0.0  # of the target texts, kept to learn spaces from

    def __call__(self, table: pa.Table) -> StagedPart:
        tally = Tally()
        pairs = usable_pairs(table, self.settings, tally)
        for side in SIDES:
            texts = self._with_some_uncased(pairs) if side == "source" else pairs[side]
            tokens = tokenize_column(self._tokenizer(side), texts.combine_chunks())
            pairs = pairs.append_column(f"{side}_tokens", tokens)
        pairs = pairs.filter(self._lengths_are_right(pairs, tally))
        hashes = self._hashes(pairs)
        valid = pa.array(self._is_valid(hashes["source_hash"].to_numpy()))
        sampled = pa.array(in_sample(pairs["target"].to_pylist(), self.sampled_share), pa.bool_())
        texts_kept = {"source": valid, "target": pc.or_(valid, sampled)}
        staged = {"row": pairs["row"], "valid": valid}
        for side in SIDES:
            staged[side] = pairs[f"{side}_tokens"]
            staged[f"{side}_text"] = pc.if_else(texts_kept[side], pairs[side], None)
        name = f"{self.prefix}-{table['row'][0].as_py():014d}"
        numbers = hashes["source_hash"].to_numpy() % np.uint64(self.partitions)
        write_partitions(
            self.scratch / f"{name}.hashes", hashes, numbers.astype(np.int64), self.partitions
        )
        write_whole(self.scratch / f"{name}.tokens", pa.table(staged))
        return StagedPart(name, table["row"][0].as_py(), pairs.num_rows, tally)

    def _tokenizer(self, side: str) -> Tokenizer:
        model = self.source_model if side == "source" else self.target_model
        return _tokenizer(self.settings.tokenizer_settings(side), model)

    def _lengths_are_right(self, pairs: pa.Table, tally: Tally) -> pa.Array:
        """Return which pairs have tokens, and not too many; the others go to the tally.

        Of validation files all are kept but the blank ones.
        """
        rows = pairs["row"].to_numpy()
        source, target = (
            pc.list_value_length(pairs[f"{side}_tokens"]).to_numpy() for side in SIDES
        )
        reasons = {"blank": (source == 0) | (target == 0)}
        if self.prefix == "train":
            if self.settings.max_target_length:
                reasons["target_too_long"] = target + 1 > self.settings.max_target_length
            ratio = self.settings.max_length_ratio
            reasons["length_ratio"] = lengths_too_unequal(source, target, ratio)
        kept = np.ones(len(rows), bool)
        for reason, wrong in reasons.items():
            dropped = rows[kept & wrong]
            tally.add(reason, len(dropped), (dropped[:EXAMPLES] + 1).tolist())
            kept &= ~wrong
        return pa.array(kept)

    def _with_some_uncased(self, pairs: pa.Table) -> pa.ChunkedArray:
        """Return the sources, a share of those for training in lower case."""
        share = self.settings.uncased_share
        if not (share and self.settings.tokenizer_settings("source").keeps_case):
            return pairs["source"]
        hashes = self._hashes(pairs)
        chosen = hashes["pair_hash"].to_numpy() < share * 2.0**64
        chosen &= ~self._is_valid(hashes["source_hash"].to_numpy())
        lowered = pa.array([text.lower() for text in pairs["source"].to_pylist()], pa.string())
        return pc.if_else(pa.array(chosen), lowered, pairs["source"])

    def _hashes(self, pairs: pa.Table) -> pa.Table:
        sources, targets = (pairs[side].to_pylist() for side in SIDES)
        columns = {
            "source_hash": hash_sources(sources, self.settings.seed),
            "pair_hash": hash_pairs(sources, targets),
            "row": pairs["row"],
        }
        return pa.table(columns)

    def _is_valid(self, source_hashes: np.ndarray) -> np.ndarray:
        if self.settings.holds_out:
            return in_validation_split(source_hashes, self.settings.valid_share)
        return np.full(len(source_hashes), self.prefix == "valid")


def usable_pairs(table: pa.Table, settings: PrepareSettings, tally: Tally) -> pa.Table:
    """Return `row`, `source` and `target` of the usable pairs; the others go to the tally."""
    flawed = table.filter(pc.is_valid(table["problem"])).select(["row", "problem"])
    for pair in flawed.to_pylist():
        tally.add(pair["problem"], 1, [pair["row"] + 1])
    good = table.filter(pc.is_null(table["problem"])) if len(flawed) else table
    good = good.select(["row", *SIDES])
    for place, side in enumerate(SIDES, 1):
        texts = pa.array(map(clean_text, good[side].to_pylist()), pa.string())
        good = good.set_column(place, side, texts)
    if settings.filter == "questions":
        questions = question_pairs(good, settings.source_lang, settings.target_lang)
        others = np.setdiff1d(
            good["row"].to_numpy(), questions["row"].to_numpy(), assume_unique=True
        )
        tally.add("not_a_question", len(others), (others[:EXAMPLES] + 1).tolist())
        good = questions
    return good


def normalize_source(text: str) -> str:
    """Return the text without spaces, case and typography, by which the split tells texts apart."""
    if not text.isascii():
        text = normalize_punctuation(unicodedata.normalize("NFKC", text))
    return "".join(text.split()).casefold()


def hash_sources(texts: Sequence[str], seed: int) -> np.ndarray:
    """Return 64 bits of each normalised source, (texts,); they decide its side of the split."""
    return _hash64([normalize_source(text) for text in texts], seed)


def hash_pairs(sources: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """Return 64 bits of each pair's exact texts, (pairs,); `hash_sources` makes them 128."""
    return _hash64([f"{a}\n{b}" for a, b in zip(sources, targets, strict=True)], 0)


def in_validation_split(source_hashes: np.ndarray, share: float) -> np.ndarray:
    """Return which sources are held out."""
    # High bits: the low ones choose the partition.
    return source_hashes < np.uint64(math.ceil(share * 2.0**64))


def _hash64(texts: Sequence[str], seed: int) -> np.ndarray:
    salted = blake2b(digest_size=8, salt=seed.to_bytes(16, "little", signed=True))
    digests = bytearray()
    for text in texts:
        digest = salted.copy()
        digest.update(text.encode())
        digests += digest.digest()
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def write_parquet(location: Location, table: pa.Table) -> None:
    """Write a table; a full disk or a missing permission is a StorageError."""
    with storage_errors(location.uri):
        pq.write_table(
            table, location.path, filesystem=location.filesystem, compression="zstd",
            row_group_size=16_384,
        )  # fmt: skip


@lru_cache(maxsize=4)
def _tokenizer(settings: TokenizerSettings, model: bytes | None) -> Tokenizer:
    """Return a tokenizer that a worker keeps between blocks, since its cache makes it fast."""
    return load_tokenizer(settings, model)


def train_models(
    settings: PrepareSettings, pairs: PairSource, scratch: Location, progress: Progress
) -> dict[str, bytes | None]:
    """Return the SentencePiece model of each side; None for both with any other tokenizer."""
    if settings.tokenizer != "sentencepiece":
        return dict.fromkeys(SIDES)
    usable = sum(_scan(settings, pairs, None, 0.0, "counting sentences", progress))
    if usable == 0:
        raise DataError(f"{', '.join(pairs.lines)}: no pair is left to train SentencePiece on")
    share = settings.sentencepiece_sample / usable
    names = sorted(_scan(settings, pairs, scratch, share, "sampling sentences", progress))
    groups = [SIDES] if settings.sentencepiece_joint else [(side,) for side in SIDES]
    work = _Train(settings, scratch, tuple(names))
    models: dict[str, bytes | None] = {}
    for sides, model in run_items(groups, work, "training SentencePiece", progress):
        models.update(dict.fromkeys(sides, model))
    return models if len(models) == len(SIDES) else dict.fromkeys(SIDES, models["source"])


def _scan(
    settings: PrepareSettings,
    pairs: PairSource,
    scratch: Location | None,
    share: float,
    stage: str,
    progress: Progress,
) -> Iterator[Any]:
    work = _Sample(settings, scratch, share)
    return run_blocks(
        pairs, work, settings.lines_per_block, settings.max_line_bytes, stage, progress
    )


@dataclass(frozen=True)
class _Sample:
    """Counts a block's usable pairs or, given a scratch folder, writes a share of them there."""

    settings: PrepareSettings
    scratch: Location | None
    share: float

    def __call__(self, table: pa.Table) -> int | str:
        pairs = usable_pairs(table, self.settings, Tally()).select(SIDES)
        if self.settings.holds_out:
            hashes = hash_sources(pairs["source"].to_pylist(), self.settings.seed)
            pairs = pairs.filter(pa.array(~in_validation_split(hashes, self.settings.valid_share)))
        if self.scratch is None:
            return pairs.num_rows
        chosen = hash_pairs(*(pairs[side].to_pylist() for side in SIDES)) < self.share * 2.0**64
        name = f"sample-{table['row'][0].as_py():014d}"
        write_parquet(self.scratch / name, pairs.filter(pa.array(chosen)))
        return name


@dataclass(frozen=True)
class _Train:
    """Trains one model on the sampled sentences of the given sides."""

    settings: PrepareSettings
    scratch: Location
    samples: tuple[str, ...]

    def __call__(self, sides: tuple[str, ...]) -> tuple[tuple[str, ...], bytes]:
        lines = (line for side in sides for name in self.samples for line in self._read(name, side))
        settings = self.settings
        tokenizer = settings.tokenizer_settings(sides[0])
        model = train_sentencepiece(
            lines, tokenizer, settings.sentencepiece_size, settings.seed % 2**31
        )
        return sides, model

    def _read(self, name: str, side: str) -> list[str]:
        location = self.scratch / name
        table = pq.read_table(location.path, filesystem=location.filesystem, columns=[side])
        return list(table[side].to_pylist())

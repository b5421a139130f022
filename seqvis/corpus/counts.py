"""The passes between tokens and ids: find duplicates, count words and lengths, then write the ids.

Each class is the work on one item (a partition or a staged part) that Ray Data sends to a task. It
reads the scratch files that tokens.py wrote, and writes more scratch files, the corpus's Parquet
files and small summaries. Nothing here is approximate: hashing puts all equal pairs, and all counts
of a word, into the same partition, so each partition is exact by itself.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqvis.corpus.columns import read_partition, read_tokens, shortened, write_partitions
from seqvis.corpus.filters import EXAMPLES, Tally
from seqvis.corpus.spacing import in_sample
from seqvis.corpus.tokens import SIDES, StagedPart, write_parquet
from seqvis.storage import Location
from seqvis.text.vocabulary import EOS, UNK, Vocabulary, most_frequent

COMPACT_ROWS = 2_000_000  # counts held before equal words are summed


@dataclass(frozen=True)
class FindDrops:
    """Finds a partition's duplicates, and its training sources that validation files contain."""

    scratch: Location
    train: tuple[StagedPart, ...]  # by first row
    valid: tuple[StagedPart, ...]  # of the user's validation files
    drop_duplicates: bool

    def __call__(self, partition: int) -> Tally:
        tally = Tally()
        hashes = self._read(self.train, partition)
        rows = hashes["row"]
        seen = np.isin(hashes["source_hash"], self._read(self.valid, partition)["source_hash"])
        order = np.lexsort((rows, hashes["pair_hash"], hashes["source_hash"]))
        repeated = np.zeros(len(rows), bool)
        if self.drop_duplicates and len(rows):
            source, pair = hashes["source_hash"][order], hashes["pair_hash"][order]
            equal = (source[1:] == source[:-1]) & (pair[1:] == pair[:-1])
            repeated[order[1:][equal]] = True
        repeated &= ~seen
        for reason, mask in (("duplicate", repeated), ("source_in_validation", seen)):
            dropped_rows = np.sort(rows[mask])
            tally.add(reason, len(dropped_rows), [int(row) + 1 for row in dropped_rows[:EXAMPLES]])
        dropped = np.sort(rows[seen | repeated])
        firsts = np.array([part.first_row for part in self.train])
        owners = np.searchsorted(firsts, dropped, side="right") - 1
        location = self.scratch / f"drops-{partition}"
        write_partitions(location, pa.table({"row": dropped}), owners, len(self.train))
        return tally

    def _read(self, parts: Sequence[StagedPart], partition: int) -> dict[str, np.ndarray]:
        tables = [read_partition(self.scratch / f"{part.name}.hashes", partition) for part in parts]
        names = {"source_hash": np.uint64, "pair_hash": np.uint64, "row": np.int64}
        if not tables:
            return {name: np.empty(0, kind) for name, kind in names.items()}
        joined = pa.concat_tables(tables)
        return {name: joined[name].to_numpy() for name in names}


def read_kept(
    scratch: Location,
    part: StagedPart,
    number: int,
    partitions: int,
) -> pa.Table:
    """Return the staged rows of training part `number` that `FindDrops` left."""
    table = read_partition(scratch / f"{part.name}.tokens", 0)
    drops = [
        read_partition(scratch / f"drops-{partition}", number)["row"].to_numpy()
        for partition in range(partitions)
    ]
    dropped = np.concatenate(drops) if drops else np.empty(0, np.int64)
    return table.filter(pa.array(~np.isin(table["row"].to_numpy(), dropped)))


@dataclass(frozen=True)
class PartCounts:
    """Sizes and lengths of one part after the drops. Lengths include the end mark."""

    train_pairs: int
    valid_pairs: int
    lengths: dict[str, np.ndarray]  # of a side: (longest + 1,) training sentences of each length
    sampled: tuple[str, ...] = ()  # target texts of training pairs, to learn spaces from


@dataclass(frozen=True)
class CountWords:
    """Counts the words of one part's training rows, into partitions on disk."""

    scratch: Location
    parts: tuple[StagedPart, ...]
    partitions: int
    sampled_share: float  # of the training pairs' target texts that were kept

    def __call__(self, number: int) -> PartCounts:
        part = self.parts[number]
        table = read_kept(self.scratch, part, number, self.partitions)
        valid = table["valid"].to_numpy()
        table = table.filter(pa.array(~valid))
        lengths = {side: self._count(table, side, part) for side in SIDES}
        texts = table["target_text"].drop_null().to_pylist()
        sampled = tuple(compress(texts, in_sample(texts, self.sampled_share)))
        return PartCounts(table.num_rows, int(valid.sum()), lengths, sampled)

    def _count(self, table: pa.Table, side: str, part: StagedPart) -> np.ndarray:
        tokens = read_tokens(table[side])
        counts = np.bincount(tokens.numbers, minlength=len(tokens.words))
        seen = np.flatnonzero(counts)
        words = [tokens.words[number] for number in seen]
        numbers = np.array([zlib.crc32(word.encode()) % self.partitions for word in words], int)
        counted = pa.table({"word": pa.array(words, pa.string()), "count": counts[seen]})
        location = self.scratch / f"{part.name}.{side}-counts"
        write_partitions(location, counted, numbers, self.partitions)
        return np.bincount(np.diff(tokens.offsets) + 1)


@dataclass(frozen=True)
class WordTotals:
    """The totals of one partition of the words."""

    side: str
    distinct: int
    occurrences: int
    top: str  # scratch file with its most frequent words


@dataclass(frozen=True)
class SumWords:
    """Sums the counts of one partition of the words, and stores its most frequent words."""

    scratch: Location
    parts: tuple[StagedPart, ...]
    max_size: int
    min_count: int

    def __call__(self, item: tuple[str, int]) -> WordTotals:
        side, partition = item
        held: list[pa.Table] = []
        rows = 0
        for part in self.parts:
            held.append(read_partition(self.scratch / f"{part.name}.{side}-counts", partition))
            rows += held[-1].num_rows
            if rows > COMPACT_ROWS:
                held = [_sum_equal(held)]
                rows = held[0].num_rows
        counts = _sum_equal(held)
        occurrences = int(counts["count"].to_numpy().sum())
        likely = counts.filter(pa.compute.greater_equal(counts["count"], self.min_count))
        pairs = zip(likely["word"].to_pylist(), likely["count"].to_pylist(), strict=True)
        top = most_frequent(dict(pairs), self.max_size)
        name = f"top-{side}-{partition}"
        table = pa.table(
            {
                "word": pa.array([word for word, _ in top], pa.string()),
                "count": pa.array([count for _, count in top], pa.int64()),
            }
        )
        write_parquet(self.scratch / name, table)
        return WordTotals(side, counts.num_rows, occurrences, name)


def _sum_equal(tables: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by("word").aggregate([("count", "sum")])
    return summed.select(["word", "count_sum"]).rename_columns(["word", "count"])


def merge_tops(scratch: Location, totals: Sequence[WordTotals], max_size: int) -> dict[str, int]:
    """Return the most frequent words of all partitions; holds twice `max_size` words at most."""
    best: dict[str, int] = {}
    for total in sorted(totals, key=lambda total: total.top):
        location = scratch / total.top
        table = pq.read_table(location.path, filesystem=location.filesystem)
        best.update(zip(table["word"].to_pylist(), table["count"].to_pylist(), strict=True))
        best = dict(most_frequent(best, max_size))
    return best


def without_some_rare(
    counts: Mapping[str, dict[str, int]], occurrences: Mapping[str, int], share: float
) -> dict[str, dict[str, int]]:
    """Leave some of the words that occur once out, so that they become `_unk_` in training.

    Up to `share` of all words of a side, at most half of those that occur once; the words that are
    left out already count. The choice is by hash, so a name is left out on both sides or on none.

    Args:
        counts: of each side, how often the words of its vocabulary occur.
        occurrences: of each side, all words of its training text.
    """
    kept_share = 0.5
    for side, words in counts.items():
        once = sum(count == 1 for count in words.values())
        already = occurrences[side] - sum(words.values())
        wanted = max(0.0, share * occurrences[side] - already)
        kept_share = min(kept_share, wanted / max(1, once))
    limit = kept_share * 2.0**32
    return {
        side: {
            word: count
            for word, count in words.items()
            if count > 1 or zlib.crc32(word.encode()) >= limit
        }
        for side, words in counts.items()
    }


@dataclass(frozen=True)
class WrittenPart:
    """What one part added to the corpus: pairs, tokens, and how many tokens are unknown."""

    train_pairs: int
    valid_pairs: int
    valid_tokens: dict[str, int]
    valid_unknown: dict[str, int]
    train_unknown: dict[str, int]


@dataclass(frozen=True)
class WriteIds:
    """Writes the ids of one part into the corpus."""

    scratch: Location
    train_folder: Location
    valid_folder: Location
    parts: tuple[StagedPart, ...]
    partitions: int  # 0: the user's validation files, in which nothing is dropped or cut
    vocabularies: dict[str, Vocabulary]
    limits: dict[str, int]

    def __call__(self, number: int) -> WrittenPart:
        part = self.parts[number]
        table = read_kept(self.scratch, part, number, self.partitions)
        valid = table["valid"].to_numpy()
        train, held_out = table.filter(pa.array(~valid)), table.filter(pa.array(valid))
        name = f"part-{number:05d}.parquet"
        train_ids = {side: self._ids(train, side) for side in SIDES}
        valid_ids = {side: self._ids(held_out, side) for side in SIDES}
        if train.num_rows:
            columns = {"row": train["row"], **train_ids}
            write_parquet(self.train_folder / name, pa.table(columns))
        if held_out.num_rows:
            texts = {f"{side}_text": held_out[f"{side}_text"] for side in SIDES}
            columns = {"row": held_out["row"], **valid_ids, **texts}
            write_parquet(self.valid_folder / name, pa.table(columns))
        return WrittenPart(
            train.num_rows,
            held_out.num_rows,
            {side: len(valid_ids[side].values) - held_out.num_rows for side in SIDES},
            {side: _unknown(valid_ids[side]) for side in SIDES},
            {side: _unknown(train_ids[side]) for side in SIDES},
        )

    def _ids(self, table: pa.Table, side: str) -> pa.ListArray:
        tokens = read_tokens(table[side])
        vocabulary = self.vocabularies[side]
        ids = np.array(vocabulary.ids(tokens.words), vocabulary.id_type)
        return shortened(tokens, self.limits[side] - 1 if self.partitions else None, ids, EOS)


def _unknown(ids: pa.ListArray) -> int:
    return int((ids.values.to_numpy() == UNK).sum())


def percentile_length(lengths: np.ndarray, percentage: float) -> int:
    """Return the lesson's `int(np.percentile(all lengths, percentage))`, from counts by length."""
    cumulative = np.cumsum(lengths)
    place = (cumulative[-1] - 1) * percentage / 100
    low, high = (
        np.searchsorted(cumulative, np.floor(at), side="right") for at in (place, place + 1)
    )
    high = min(int(high), len(lengths) - 1)
    return int(low + (high - low) * (place - np.floor(place)))

"""SentencePiece models for a corpus, trained on a bounded sample of its training sentences.

In: indexed files. Out: the model of each side. The sample is chosen by hash, so it does not
depend on how the work was divided; sentences of the validation split are not in it. It takes
one more reading of the text to count what the filters leave and one to collect the sample.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from seqvis.errors import DataError
from seqvis.storage import Location
from seqvis.text.corpus import AlignedFiles, Progress, read_aligned, run_blocks, run_items
from seqvis.text.filters import Tally
from seqvis.text.tokenizers import train_sentencepiece
from seqvis.translation.prepare_settings import PrepareSettings
from seqvis.translation.prepare_tokens import (
    SIDES,
    hash_pairs,
    hash_sources,
    in_validation_split,
    usable_pairs,
    write_parquet,
)


def train_models(
    settings: PrepareSettings, files: AlignedFiles, scratch: Location, progress: Progress
) -> dict[str, bytes | None]:
    """The SentencePiece model of each side; None for both with any other tokenizer."""
    if settings.tokenizer != "sentencepiece":
        return dict.fromkeys(SIDES)
    usable = sum(_scan(settings, files, None, 0.0, "counting sentences", progress))
    if usable == 0:
        raise DataError(
            f"{settings.source}, {settings.target}: no pair is left to train SentencePiece on"
        )
    share = settings.sentencepiece_sample / usable
    names = sorted(_scan(settings, files, scratch, share, "sampling sentences", progress))
    groups = [SIDES] if settings.sentencepiece_joint else [(side,) for side in SIDES]
    work = _Train(settings, scratch, tuple(names))
    models: dict[str, bytes | None] = {}
    for sides, model in run_items(groups, work, "training SentencePiece", progress):
        models.update(dict.fromkeys(sides, model))
    return models if len(models) == len(SIDES) else dict.fromkeys(SIDES, models["source"])


def _scan(
    settings: PrepareSettings,
    files: AlignedFiles,
    scratch: Location | None,
    share: float,
    stage: str,
    progress: Progress,
) -> Iterator[Any]:
    dataset = read_aligned(files, settings.lines_per_block, settings.max_line_bytes)
    work = _Sample(settings, scratch, share)
    return run_blocks(dataset, work, stage, files.pairs, progress)


@dataclass(frozen=True)
class _Sample:
    """Counts a block's usable pairs or, given a scratch folder, writes a share of them there."""

    settings: PrepareSettings
    scratch: Location | None
    share: float

    def __call__(self, table: pa.Table) -> int | str:
        pairs = usable_pairs(table, self.settings, Tally()).select(SIDES)
        if self.settings.valid_source is None:
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

"""Turn sentence pairs into a corpus on which a translator can be trained.

The result is a corpus artifact (docs/extend/formats.md): ids in Parquet, vocabularies, tokenizers,
a report and a plot of the lengths. The stages, each in parallel over all blocks, are:

    count lines -> read, filter, tokenise -> find duplicates -> count words -> write ids

Between stages the text is stored on disk, in the artifact's staging directory.
"""

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from seqvis import artifacts
from seqvis.artifacts import ArtifactWriter
from seqvis.cluster import Progress, Session, ignore_progress
from seqvis.config import settings_from
from seqvis.corpus import counts, report
from seqvis.corpus.blocks import run_blocks, run_items
from seqvis.corpus.counts import PartCounts, WrittenPart
from seqvis.corpus.filters import Tally
from seqvis.corpus.inputs import frames
from seqvis.corpus.inputs.opening import open_input
from seqvis.corpus.inputs.source import Index, PairSource
from seqvis.corpus.settings import PrepareSettings
from seqvis.corpus.spacing import (
    KEPT,
    SAMPLE,
    LearnSpacing,
    Spacing,
    SpacingSample,
)
from seqvis.corpus.tokens import SIDES, Staged, TokenizeBlock, train_models
from seqvis.errors import ConfigError
from seqvis.storage import Location, locate
from seqvis.text.tokenizers import SentencePieceTokenizer, check_language
from seqvis.text.vocabulary import Vocabulary

_log = logging.getLogger(__name__)

# The number of partitions grows with the corpus, but not their size: no process, this one included,
# ever holds more than a block of lines or a partition of hashes or words.
PARTITION_PAIRS = 300_000  # about 50 MB in the task that handles a partition

Models = Mapping[str, bytes | None]  # SentencePiece models by side


def prepare(
    settings: PrepareSettings,
    progress: Progress = ignore_progress,
    session: Session = nullcontext,
    *,
    frame: pd.DataFrame | None = None,
    valid_frame: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Make the corpus at `settings.out` and return its metrics.

    The pairs are those that the settings name, or the rows of a DataFrame, with `settings.columns`.
    Needs an initialised Ray, or a `session` that starts one. Raises DataError for input that cannot
    be used, ConfigError for a language that has no tokenizer, StorageError if `out` cannot be
    written; then what stood at `out` before is still there.
    """
    started = time.monotonic()
    if settings.tokenizer != "sentencepiece":
        for side in SIDES:
            check_language(settings.tokenizer_settings(side))
    artifacts.check_destination(locate(settings.out), "corpus")
    for key, given in (("pairs", frame), ("valid_pairs", valid_frame)):
        if given is not None and getattr(settings, key) is not None:
            raise ConfigError(f"give a DataFrame or {key}, not both")
        if given is not None:
            named = settings.model_dump() | {key: frames.NAME}
            settings = settings_from(PrepareSettings, named, frames.NAME)
    train = open_input(settings, "train", frame)
    valid = None if settings.holds_out else open_input(settings, "valid", valid_frame)
    config = settings.model_dump(mode="json")
    config["tokenizer_settings"] = {
        side: settings.tokenizer_settings(side).model_dump() for side in SIDES
    }
    with session(), artifacts.create(settings.out, "corpus", config) as writer:
        scratch = _folder(writer, "scratch")
        build = _Build(settings, writer, scratch, progress)
        summary = build.run(train, valid, started)
        scratch.delete()
        writer.metrics.update(summary)
    return summary


@dataclass(frozen=True)
class _SumWordsOrLearn:
    """Two independent kinds of work that share one run of Ray Data."""

    sum_words: counts.SumWords
    learn_spacing: LearnSpacing

    def __call__(self, item: SpacingSample | tuple[str, int]) -> Spacing | counts.WordTotals:
        if isinstance(item, SpacingSample):
            return self.learn_spacing(item)
        return self.sum_words(item)


@dataclass(frozen=True)
class _Build:
    """One run, with the state that its stages share."""

    settings: PrepareSettings
    writer: ArtifactWriter
    scratch: Location
    progress: Progress

    def run(self, open_train: Index, open_valid: Index | None, started: float) -> dict[str, Any]:
        settings = self.settings
        pairs = self._index(open_train, "train")
        valid_pairs = self._index(open_valid, "valid") if open_valid else None
        models = train_models(settings, pairs, self.scratch, self.progress)
        partitions = 1 + len(pairs.rows) // PARTITION_PAIRS
        train = self._tokenize(pairs, "train", partitions, models)
        valid = None
        if valid_pairs is not None:
            valid = self._tokenize(valid_pairs, "valid", partitions, models)
        self._find_drops(train, valid, partitions)
        total = self._count_words(train, partitions)
        held_out = sum(part.rows for part in valid.parts) if valid else total.valid_pairs
        report.check_not_empty(train, valid, total.train_pairs, held_out)
        vocabularies, spacing = self._build_vocabularies(train, partitions, models, total.sampled)
        shares = {"source": settings.source_percentile, "target": settings.target_percentile}
        limits = {
            side: counts.percentile_length(total.lengths[side], shares[side]) for side in SIDES
        }
        written = self._write_ids(train, partitions, vocabularies, limits)
        if valid is not None:
            written += self._write_ids(valid, 0, vocabularies, limits)
        self._write_tokenizers(vocabularies, models, spacing)
        result = report.Result(
            settings, train, valid, total, limits, vocabularies, tuple(written), spacing,
            time.monotonic() - started,
        )  # fmt: skip
        return report.write(self.writer, result)

    def _index(self, index: Index, name: str) -> PairSource:
        return index(_folder(self.writer, f"scratch/{name}-plain"), self.progress)

    def _tokenize(self, pairs: PairSource, prefix: str, partitions: int, models: Models) -> Staged:
        settings = self.settings
        learns = prefix == "train" and settings.tokenizer != "sentencepiece"
        work = TokenizeBlock(
            settings, self.scratch, prefix, partitions, models["source"], models["target"],
            min(1.0, KEPT / len(pairs.rows)) if learns else 0.0,
        )  # fmt: skip
        parts = list(
            run_blocks(
                pairs, work, settings.lines_per_block, settings.max_line_bytes, "tokenising",
                self.progress,
            )
        )  # fmt: skip
        parts.sort(key=lambda part: part.first_row)
        tally = Tally()
        for part in parts:
            tally.merge(part.tally)
        report.check_bad_lines(tally, pairs, settings)
        return Staged(pairs, tuple(parts), tally)

    def _find_drops(self, train: Staged, valid: Staged | None, partitions: int) -> None:
        """Add duplicates, and sources that are in the validation files, to `train.tally`."""
        held_out = valid.parts if valid else ()
        drop_duplicates = self.settings.drop_duplicates
        work = counts.FindDrops(self.scratch, train.parts, held_out, drop_duplicates)
        for tally in run_items(range(partitions), work, "finding duplicates", self.progress):
            train.tally.merge(tally)

    def _count_words(self, train: Staged, partitions: int) -> PartCounts:
        rows = sum(part.rows for part in train.parts)
        share = min(1.0, SAMPLE / max(rows, 1))
        work = counts.CountWords(self.scratch, train.parts, partitions, share)
        total = PartCounts(0, 0, {side: np.zeros(1, int) for side in SIDES})
        for part in run_items(range(len(train.parts)), work, "counting words", self.progress):
            total = PartCounts(
                total.train_pairs + part.train_pairs,
                total.valid_pairs + part.valid_pairs,
                {side: _add(total.lengths[side], part.lengths[side]) for side in SIDES},
                total.sampled + part.sampled,
            )
        return total

    def _build_vocabularies(
        self, train: Staged, partitions: int, models: Models, sampled: tuple[str, ...]
    ) -> tuple[dict[str, Vocabulary], Spacing | None]:
        settings = self.settings
        sum_words = counts.SumWords(
            self.scratch, train.parts, settings.max_vocabulary, settings.min_count
        )
        work = _SumWordsOrLearn(sum_words, LearnSpacing(settings.tokenizer_settings("target")))
        items: list[Any] = [(side, number) for side in SIDES for number in range(partitions)]
        if settings.tokenizer != "sentencepiece":
            items.insert(0, SpacingSample(sampled))  # takes longest
        totals, spacing = [], None
        for result in run_items(items, work, "building vocabularies", self.progress):
            if isinstance(result, Spacing):
                spacing = result
            else:
                totals.append(result)
        best, occurrences = {}, {}
        for side in SIDES:
            of_side = [total for total in totals if total.side == side]
            best[side] = counts.merge_tops(self.scratch, of_side, settings.max_vocabulary)
            occurrences[side] = sum(total.occurrences for total in of_side)
            model = models[side]
            if model is not None:  # every sub-word has an id, seen or not
                tokenizer = SentencePieceTokenizer(settings.tokenizer_settings(side), model)
                best[side] = {piece: best[side].get(piece, 0) for piece in tokenizer.pieces()}
        if settings.tokenizer != "sentencepiece":
            best = counts.without_some_rare(best, occurrences, settings.unknown_share)
        vocabularies = {
            side: Vocabulary.build(best[side], settings.max_vocabulary, min_count=0)
            for side in SIDES
        }
        return vocabularies, spacing

    def _write_ids(
        self,
        staged: Staged,
        partitions: int,
        vocabularies: dict[str, Vocabulary],
        limits: dict[str, int],
    ) -> list[WrittenPart]:
        train, valid = (_folder(self.writer, name) for name in ("train", "valid"))
        work = counts.WriteIds(
            self.scratch, train, valid, staged.parts, partitions, vocabularies, limits
        )
        return list(run_items(range(len(staged.parts)), work, "writing ids", self.progress))

    def _write_tokenizers(
        self, vocabularies: dict[str, Vocabulary], models: Models, spacing: Spacing | None
    ) -> None:
        settings = self.settings
        if spacing is not None:
            self.writer.path("target.spacing.json").write_bytes(spacing.learned.to_bytes())
            warning = spacing.warning(settings.tokenizer_settings("target"))
            if warning is not None:
                _log.warning("warning: %s", warning)
        for side in SIDES:
            self.writer.path(f"{side}.vocab").write_bytes(vocabularies[side].to_bytes())
            model = models[side]
            if model is not None:
                self.writer.path(f"{side}.spm").write_bytes(model)
        self.writer.write_json(
            "tokenizers.json",
            {side: settings.tokenizer_settings(side).model_dump() for side in SIDES},
        )


def _folder(writer: ArtifactWriter, name: str) -> Location:
    """Make a folder of the artifact and return it."""
    writer.path(f"{name}/x")
    return writer.staging / name


def _add(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    longer, shorter = sorted((first, second), key=len, reverse=True)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total

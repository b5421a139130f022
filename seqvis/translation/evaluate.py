"""Score a trained translator on aligned files that it has not seen."""

import time
from typing import Any

from seqvis.decoding.beam import DecodingSettings
from seqvis.errors import DataError
from seqvis.seq2seq.state import SourceBatch, pad_ids
from seqvis.translation.batches import Batch
from seqvis.translation.metrics import (
    FreeRunningSums,
    Scoring,
    free_running_sums,
    score_texts,
)
from seqvis.translation.overlap import trained_share
from seqvis.translation.task import VALIDATION_BATCH, forced_loss
from seqvis.translation.translator import Translator


def evaluate(
    translator: Translator,
    sources: list[str],
    references: list[str],
    search: DecodingSettings,
    scoring: Scoring = "text",
    lowercase: bool | None = None,
    batch_size: int = 64,
) -> tuple[dict[str, Any], list[str]]:
    """BLEU, chrF, both of the seed's losses and accuracy, and the translations.

    `loss` is per real target word, `loss_with_padding` per position of batches of 200 sentences
    sorted by length as the seed validates, `accuracy` the share of real words that were the
    likeliest; in all three the model feeds on its own words. `forced_loss` gives it the right
    previous word. Pairs with an empty side take part in BLEU and chrF alone. Without `lowercase`
    being set, case counts if the translator was trained with it, as in training's validation.
    `trained_share` is the share of the pairs that were trained on, None if the translator does not
    record its training.

    Raises DataError if there are not as many references as sources, or no sentences.
    """
    if len(sources) != len(references):
        raise DataError(
            f"{len(sources):,} sources but {len(references):,} references; "
            f"both files need one sentence a line, aligned"
        )
    started = time.perf_counter()
    translations = [one.text for one in translator.translate(sources, search, batch_size)]
    seconds = time.perf_counter() - started
    language = translator.languages.target_tokenizer.settings.language
    if lowercase is None:
        lowercase = not translator.languages.keep_case
    share = trained_share(translator.artifact, translator.languages, sources, references)
    scores = score_texts(translations, references, scoring, language, lowercase)
    result = {
        "bleu": round(scores.bleu, 2),
        "chrf": round(scores.chrf, 2),
        **losses(translator, sources, references),
        "sentences": len(sources),
        "trained_share": None if share is None else round(share, 4),
        "sentences_per_second": round(len(sources) / seconds, 1),
        "signature": scores.signature,
    }
    return result, translations


def losses(translator: Translator, sources: list[str], references: list[str]) -> dict[str, float]:
    """The seed's losses and accuracy, and the loss with the right words fed."""
    languages = translator.languages
    read = [languages.read(text) for text in sources]
    pairs = [
        (list(source.ids), languages.target_ids(reference))
        for source, reference in zip(read, references, strict=True)
        if source.tokens and reference.strip()
    ]
    # Longest first, as the seed's SortSampler has it; its padding decides loss_with_padding.
    pairs.sort(key=lambda pair: -len(pair[1]))
    sums, forced = FreeRunningSums(0.0, 0.0, 0, 0, 0), 0.0
    for begin in range(0, len(pairs), VALIDATION_BATCH):
        part = pairs[begin : begin + VALIDATION_BATCH]
        target, lengths = pad_ids([target for _, target in part])
        source = SourceBatch.of([source for source, _ in part])
        batch = Batch(source, target, int(lengths.sum()), target.numel()).to(translator.device)
        sums = sums + free_running_sums(translator.model, batch)
        forced += forced_loss(translator.model, batch)
    return {**sums.means(), "forced_loss": forced / max(1, sums.words)}

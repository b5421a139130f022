"""Score a trained translator on aligned sentences, and recognise those that it was trained on."""

import io
import time
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from seqvis import artifacts
from seqvis.artifacts import Artifact, ArtifactWriter
from seqvis.corpus.pairs import PairTable
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.direction import as_written
from seqvis.errors import ConfigError, DataError
from seqvis.seq2seq.state import SourceBatch, pad_ids
from seqvis.text.languages import Languages
from seqvis.text.vocabulary import EOS
from seqvis.translation.batches import Batch
from seqvis.translation.confidence import CALIBRATION, calibrate, is_good
from seqvis.translation.metrics import LossSums, Scoring, score_texts, validation_losses
from seqvis.translation.results import Translation
from seqvis.translation.task import VALIDATION_BATCH
from seqvis.translation.translator import Translator

TRAINED_PAIRS = "trained_pairs.npz"
_BINS = 10  # of confidences
MOST_PAIRS = 1 << 20  # of a larger corpus a part is kept, chosen by the numbers themselves: 8 MB


def evaluate(
    translator: Translator,
    sources: list[str],
    references: list[str],
    search: DecodingSettings,
    scoring: Scoring = "text",
    lowercase: bool | None = None,
    batch_size: int = 64,
) -> tuple[dict[str, Any], list[str]]:
    """Return BLEU, chrF, losses and accuracy, and the translations.

    `loss` is per real target word, `loss_with_padding` per position of batches of 200 sentences
    sorted by length as the lesson validates, `accuracy` the share of real words that had the
    highest score; for all three the model is fed its own words. For `forced_loss` it is fed the
    right previous word. An ensemble has none of these four. Pairs with an empty side count for BLEU
    and chrF alone. If `lowercase` is None, case counts if the translator was trained with it, as in
    training's validation. `trained_share` is the share of the pairs that were trained on, of an
    ensemble's models the largest, None if no translator records it. What `reliability` says of the
    translator's confidence is there if it is calibrated.

    Raises DataError if there are not as many references as sources, or no sentences.
    """
    _check_aligned(sources, references)
    started = time.perf_counter()
    translated = translator.translate(sources, search, batch_size)
    seconds = time.perf_counter() - started
    translations = [translation.text for translation in translated]
    language = translator.languages.target_tokenizer.settings.language
    if lowercase is None:
        lowercase = not translator.languages.keep_case
    shares = [
        trained_share(model.artifact, translator.languages, sources, references)
        for model in translator.models
    ]
    share = max((share for share in shares if share is not None), default=None)
    scores = score_texts(translations, references, scoring, language, lowercase)
    result = {
        "bleu": round(scores.bleu, 2),
        "chrf": round(scores.chrf, 2),
        **({} if len(translator.models) > 1 else losses(translator, sources, references)),
        **reliability(translated, references, lowercase=not translator.languages.keep_case),
        "sentences": len(sources),
        "trained_share": None if share is None else round(share, 4),
        "sentences_per_second": round(len(sources) / seconds, 1),
        "signature": scores.signature,
    }
    return result, translations


def _check_aligned(sources: Sequence[str], references: Sequence[str]) -> None:
    if len(sources) != len(references):
        raise DataError(
            f"{len(sources):,} sources but {len(references):,} references; "
            f"both files need one sentence a line, aligned"
        )


def losses(translator: Translator, sources: list[str], references: list[str]) -> dict[str, float]:
    """Return the lesson's losses and accuracy, and the loss with the right words fed."""
    languages = translator.languages
    pairs = [
        (source.ids, languages.target_ids(reference))
        for source, reference in zip(translator.read(sources), references, strict=True)
        if source.tokens and reference.strip()
    ]
    # Longest first, as the lesson's SortSampler has it; its padding decides loss_with_padding.
    pairs.sort(key=lambda pair: -len(pair[1]))
    sums = LossSums()
    for begin in range(0, len(pairs), VALIDATION_BATCH):
        source, target = zip(*pairs[begin : begin + VALIDATION_BATCH], strict=True)
        ids, lengths = pad_ids(target)
        ids = as_written(ids, translator.direction)
        batch = Batch(SourceBatch.of(source), ids, int(lengths.sum()), ids.numel())
        sums += validation_losses(translator.model, batch.to(translator.device))
    return sums.means()


def store_calibration(
    translator: Translator, sources: Sequence[str], references: Sequence[str]
) -> None:
    """Calibrate a translator on these pairs, and store that in its artifact.

    Raises ConfigError for an ensemble, DataError as `evaluate` does.
    """
    _check_aligned(sources, references)
    if len(translator.models) > 1:
        raise ConfigError(
            f"--calibrate: calibrates one --model at a time, not {len(translator.models)}"
        )
    calibration = calibrate(
        translator.packed, translator.languages, translator.direction, sources, references
    )
    artifact = translator.artifact
    with artifacts.create(artifact.location, artifact.kind, artifact.config) as writer:
        writer.metrics.update(artifact.metrics)
        for name in artifact.files:
            writer.path(name).write_bytes(artifact.file(name).read_bytes())
        writer.write_json(CALIBRATION, calibration.model_dump())


def reliability(
    translations: Sequence[Translation], references: Sequence[str], lowercase: bool
) -> dict[str, float]:
    """Return how well confidences agree with what is good, beside references; {} if there are none.

    `good_share` is the share of good translations, `confidence` the mean, `calibration_error` the
    expected calibration error in ten bins (Guo et al. 2017), `confidence_auc` the probability that
    a good translation has more confidence than a bad one.
    """
    given = [translation.confidence for translation in translations]
    sure = np.array([confidence for confidence in given if confidence is not None])
    if len(sure) < len(given):
        return {}
    good = np.array(
        [
            is_good(translation.text, reference, lowercase)
            for translation, reference in zip(translations, references, strict=True)
        ]
    )
    bins = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    error = sum(abs((sure - good)[bins == number].sum()) for number in range(_BINS)) / len(sure)
    result = {
        "good_share": float(good.mean()),
        "confidence": float(sure.mean()),
        "calibration_error": float(error),
    }
    if good.any() and not good.all():
        bad = np.sort(sure[~good])
        below, not_above = (np.searchsorted(bad, sure[good], side) for side in ("left", "right"))
        result["confidence_auc"] = float((below + not_above).mean() / 2 / len(bad))
    return {name: round(value, 4) for name, value in result.items()}


def write_trained_pairs(writer: ArtifactWriter, pairs: PairTable) -> None:
    """Record one number for each training pair (8 bytes), of a larger corpus for every nth."""
    numbers = [_number(pairs.source[row], pairs.target[row]) for row in range(len(pairs))]
    every = -(-len(numbers) // MOST_PAIRS)
    content = io.BytesIO()
    np.savez(
        content,
        numbers=np.unique(
            np.array([number for number in numbers if number % every == 0], np.uint64)
        ),
        every=every,
        longest=[int(side.lengths.max()) for side in (pairs.source, pairs.target)],
    )
    writer.path(TRAINED_PAIRS).write_bytes(content.getvalue())


def trained_share(
    artifact: Artifact, languages: Languages, sources: Sequence[str], references: Sequence[str]
) -> float | None:
    """Return the share of the pairs that a translator was trained on; None if it does not say.

    After a training on more than a million pairs it is estimated from those of `sources` whose
    numbers would have been kept; None if there is none.
    """
    if TRAINED_PAIRS not in artifact.files:
        return None
    content = io.BytesIO(artifact.file(TRAINED_PAIRS).read_bytes())
    with np.load(content, allow_pickle=False) as kept:
        known, every = set(kept["numbers"].tolist()), int(kept["every"])
        longest_source, longest_target = kept["longest"].tolist()
    trained = []
    for source, reference in zip(sources, references, strict=True):
        target = _cut(languages.target_ids(reference), longest_target)
        # Some sources are trained on in small letters (prepare_corpus --uncased-share).
        forms = dict.fromkeys((source, source.lower()))
        numbers = [
            _number(_cut(languages.read_as_prepared(form).ids, longest_source), target)
            for form in forms
        ]
        if any(number % every == 0 for number in numbers):
            trained.append(any(number in known for number in numbers))
    return sum(trained) / len(trained) if trained else None


def _cut(ids: Sequence[int], longest: int) -> Sequence[int]:
    """Cut the ids as prepare_corpus does."""
    return ids if len(ids) <= longest else [*ids[: longest - 1], EOS]


def _number(source: Sequence[int] | np.ndarray, target: Sequence[int] | np.ndarray) -> int:
    digest = blake2b(digest_size=8)
    for side in (source, target):  # both end in _eos_, so no two pairs are the same bytes
        digest.update(np.asarray(side, dtype="<u2").tobytes())
    return int.from_bytes(digest.digest(), "little")

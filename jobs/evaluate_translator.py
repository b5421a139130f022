"""Score a translator: BLEU, chrF, losses, speed."""

import sys
from functools import partial
from typing import Any

from pydantic import Field, model_validator

from seqvis import artifacts
from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.config import OneOrMore
from seqvis.corpus.pairs import validation_texts
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.linear import Precision
from seqvis.storage import locate
from seqvis.text.lines import read_sentences, write_sentences
from seqvis.translation.evaluate import evaluate, store_calibration
from seqvis.translation.metrics import Scoring
from seqvis.translation.reranking import RerankingSettings
from seqvis.translation.translator import Translator


class EvaluateTranslator(JobSettings, RerankingSettings):  # type: ignore[misc]
    """Scores a translator on two aligned files: BLEU, chrF, losses, speed."""

    model: OneOrMore
    """Directory or URI that train_translator wrote. Several, trained on the same corpus, are an
    ensemble: each word has the mean of their probabilities."""
    source: str | None = None
    """File with a sentence a line to translate."""
    reference: str | None = None
    """File with their right translations, aligned."""
    corpus: str | None = None
    """Instead of the two files: a corpus that prepare_corpus wrote, whose validation part is
    translated."""
    beam: int = Field(1, ge=1)
    """Hypotheses kept while searching; 1 is greedy."""
    length_penalty: float = Field(1.0, ge=0)
    """Exponent of the length by which a beam's scores are divided."""
    scoring: Scoring = "text"
    """text: sacreBLEU on the texts as they are; moses: both sides Moses-normalised, tokenised
    and lowercased first, as published for Multi30k."""
    lowercase: bool | None = None
    """Compare without case, with --scoring text; default: as the translator was trained."""
    calibrate: bool = False
    """First learn from these sentences how sure the translator is, and store it in --model, as
    training does with the validation part. The scores of its confidence are then flattering."""
    batch_size: int = Field(64, ge=1)
    """Sentences translated at once."""
    output: str | None = None
    """File for the translations, a line each."""
    use_gpu: bool = False
    """Translate on a GPU."""
    precision: Precision = "float32"
    """Type of the matrix products. For CPUs alone: float16, whose weights are rounded to sixteen
    bits, and int8."""

    @model_validator(mode="after")
    def _one_text(self) -> "EvaluateTranslator":
        given = [bool(text) for text in (self.source, self.reference, self.corpus)]
        if given not in ([True, True, False], [False, False, True]):
            raise ValueError("give --source and --reference, or --corpus alone")
        return self


def run(settings: EvaluateTranslator) -> dict[str, Any]:
    """Translate, score, and return the scores."""
    translator = _load(settings)
    search = settings.part(DecodingSettings)
    sources, references = _texts(settings)
    if settings.calibrate:
        store_calibration(translator, sources, references)
        translator = _load(settings)
    result, translations = evaluate(
        translator,
        sources,
        references,
        search,
        settings.scoring,
        settings.lowercase,
        settings.batch_size,
    )
    share = result["trained_share"]
    if share:
        print(
            f"{share:.0%} of these sentence pairs were in the training: the scores say in part how "
            f"well the translator remembers them; give it others",
            file=sys.stderr,
        )
    if settings.output:
        write_sentences(locate(settings.output), translations)
    return result


def _load(settings: EvaluateTranslator) -> Translator:
    return Translator.load(
        settings.model,
        "cuda" if settings.use_gpu else "cpu",
        settings.precision,
        settings.part(RerankingSettings),
    )


def _texts(settings: EvaluateTranslator) -> tuple[list[str], list[str]]:
    if settings.corpus:
        return validation_texts(artifacts.load(settings.corpus, "corpus"))
    assert settings.source
    assert settings.reference
    return (
        list(read_sentences(locate(settings.source))),
        list(read_sentences(locate(settings.reference))),
    )


main = partial(run_job, EvaluateTranslator, run)

if __name__ == "__main__":
    leave(main())

"""Translate a sentence, a file, or standard input."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BufferedIOBase
from typing import Any, Literal, cast

from pydantic import Field
from pydantic_settings import CliPositionalArg

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.config import OneOrMore
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.linear import Precision
from seqvis.errors import ConfigError, DataError
from seqvis.storage import locate
from seqvis.text.lines import lines_at_hand, read_sentences, write_sentences
from seqvis.translation.reranking import RerankingSettings
from seqvis.translation.results import Translation, draw_alignment
from seqvis.translation.translator import Translator

_MOST_UNKNOWN = 20  # unknown words that are named


class Translate(JobSettings, RerankingSettings):  # type: ignore[misc]
    """Translates a sentence, a file (--input), or standard input; one sentence a line.

    Of standard input each line is translated when it is there, without waiting for the end.
    """

    model: OneOrMore
    """Directory or URI that train_translator wrote. Several, trained on the same corpus, are an
    ensemble: each word has the mean of their probabilities."""
    text: CliPositionalArg[tuple[str, ...]] = ()
    """Sentences to translate."""
    input: str | None = None
    """File with a sentence a line; without it and without sentences, standard input."""
    output: str | None = None
    """File for the translations, a line each; default: standard output."""
    beam: int = Field(1, ge=1)
    """Hypotheses kept while searching; 1 is greedy."""
    n_best: int = Field(1, ge=1)
    """Translations of each sentence, at most --beam; more than one gives JSON."""
    format: Literal["text", "json"] | None = None
    """json: a line of JSON for each sentence, with scores, the words that the model does not know,
    and its confidence. Default: text for one translation of each, else json."""
    min_confidence: float = Field(0.0, ge=0, le=1)
    """Least probability that a translation is good. One of less is refused: its line stays empty,
    and the job ends with 1."""
    length_penalty: float = Field(1.0, ge=0)
    """Exponent of the length by which a beam's scores are divided."""
    attention: str | None = None
    """PNG file for a picture of how the words of the first sentence are aligned."""
    batch_size: int = Field(64, ge=1)
    """Sentences translated at once; the translations do not depend on it."""
    use_gpu: bool = False
    """Translate on a GPU."""
    precision: Precision = "float32"
    """Type of the matrix products. For CPUs alone: float16, whose weights are rounded to sixteen
    bits, and int8."""


def run(settings: Translate) -> dict[str, Any] | None:
    """Translate; return None where the translations themselves are the output."""
    if settings.n_best > settings.beam:
        raise ConfigError(f"--n-best {settings.n_best}: needs --beam of at least as many")
    if settings.n_best > 1 and settings.format == "text":
        raise ConfigError(f"--format text: shows one translation, not --n-best {settings.n_best}")
    if settings.text and settings.input is not None:
        raise ConfigError("--input: cannot be combined with sentences on the command line")
    translator = Translator.load(
        settings.model,
        "cuda" if settings.use_gpu else "cpu",
        settings.precision,
        settings.part(RerankingSettings),
    )
    search = settings.part(DecodingSettings)
    seen = _Seen()
    lines = _as_lines(_translations(translator, search, settings), settings, seen)
    result = None
    if settings.output is None:
        for line in lines:
            print(line, flush=settings.input is None)
        for note in seen.notes():
            print(note, file=sys.stderr)
    else:
        result = {
            "sentences": write_sentences(locate(settings.output), lines),
            "unknown_words": dict(seen.unknown.most_common(_MOST_UNKNOWN)),
            "unsure": seen.unsure,
            "out": settings.output,
        }
    if seen.refused:
        raise DataError(
            f"{seen.refused:,} of {seen.sentences:,} translations were refused, and have empty "
            f"lines; the first is of {seen.first_refusal}"
        )
    return result


def _translations(
    translator: Translator, search: DecodingSettings, settings: Translate
) -> Iterator[Translation]:
    groups: Iterable[Iterable[str]] = [settings.text]
    if settings.input is not None:
        groups = [read_sentences(locate(settings.input))]
    elif not settings.text:
        groups = lines_at_hand(
            cast(BufferedIOBase, sys.stdin.buffer), "standard input", 16 * settings.batch_size
        )
    for lines in groups:
        yield from translator.translate_stream(
            lines, search, settings.batch_size, min_confidence=settings.min_confidence
        )


@dataclass
class _Seen:
    """What was seen of the translations, all together."""

    sentences: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    unsure: int = 0  # that are more likely bad than good
    refused: int = 0
    first_refusal: str = ""

    def add(self, translation: Translation) -> None:
        self.sentences += 1
        self.unknown.update(translation.unknown)
        self.unsure += translation.confidence is not None and translation.confidence < 0.5
        if translation.refused:
            self.refused += 1
            reason = f"{translation.source!r:.200}: {translation.refused}"
            self.first_refusal = self.first_refusal or reason

    def notes(self) -> Iterator[str]:
        """Yield what a reader of the translations should know."""
        if self.unknown:
            yield _unknown_words(self.unknown)
        if self.unsure > self.refused:
            yield (
                f"unsure of {self.unsure:,} of {self.sentences:,} translations: they are more "
                "likely bad than good (--format json shows which)"
            )


def _as_lines(
    translations: Iterator[Translation], settings: Translate, seen: _Seen
) -> Iterator[str]:
    """Yield the lines to write."""
    as_text = settings.n_best == 1 and settings.format != "json"
    for number, translation in enumerate(translations):
        seen.add(translation)
        if number == 0 and settings.attention:
            draw_alignment(locate(settings.attention), translation)
        if as_text:
            yield "" if translation.refused else translation.text
            continue
        alternatives = [] if translation.refused else translation.alternatives
        sure = translation.confidence
        result = {
            "source": translation.source,
            "unknown_words": translation.unknown,
            "confidence": None if sure is None else round(sure, 4),
            "refused": translation.refused,
            "translations": [
                {"text": candidate.text, "score": round(candidate.score, 4)}
                for candidate in alternatives
            ],
        }
        yield json.dumps(result, ensure_ascii=False)


def _unknown_words(unknown: Counter[str]) -> str:
    shown = [word for word, _ in unknown.most_common(_MOST_UNKNOWN)]
    more = f" and {len(unknown) - len(shown):,} more" if len(unknown) > len(shown) else ""
    return f"new to the model, and copied where it could: {', '.join(shown)}{more}"


main = partial(run_job, Translate, run)

if __name__ == "__main__":
    leave(main())

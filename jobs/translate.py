"""Translate a sentence, a file, or standard input."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from io import BufferedIOBase
from typing import Any, cast

from pydantic import Field
from pydantic_settings import CliPositionalArg

from seqvis.cli.job import JobSettings, leave, run_job
from seqvis.config import OneOrMore
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.linear import Precision
from seqvis.errors import ConfigError
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
    """Translations of each sentence, at most --beam; more than one gives JSON with scores."""
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
    if settings.text and settings.input is not None:
        raise ConfigError("--input: cannot be combined with sentences on the command line")
    translator = Translator.load(
        settings.model,
        "cuda" if settings.use_gpu else "cpu",
        settings.precision,
        settings.part(RerankingSettings),
    )
    search = settings.part(DecodingSettings)
    unknown: Counter[str] = Counter()
    lines = _as_lines(_translations(translator, search, settings), settings, unknown)
    if settings.output is None:
        for line in lines:
            print(line, flush=settings.input is None)
        if unknown:
            print(_unknown_words(unknown), file=sys.stderr)
        return None
    return {
        "sentences": write_sentences(locate(settings.output), lines),
        "unknown_words": dict(unknown.most_common(_MOST_UNKNOWN)),
        "out": settings.output,
    }


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
        yield from translator.translate_stream(lines, search, settings.batch_size)


def _as_lines(
    translations: Iterator[Translation], settings: Translate, unknown: Counter[str]
) -> Iterator[str]:
    """Yield the lines to write, and count in `unknown` the words that the model does not know."""
    for number, translation in enumerate(translations):
        unknown.update(translation.unknown)
        if number == 0 and settings.attention:
            draw_alignment(locate(settings.attention), translation)
        if settings.n_best == 1:
            yield translation.text
            continue
        result = {
            "source": translation.source,
            "unknown_words": translation.unknown,
            "translations": [
                {"text": candidate.text, "score": round(candidate.score, 4)}
                for candidate in translation.alternatives
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

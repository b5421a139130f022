"""Learn from a corpus's target text where spaces belong, and measure how well they are restored.

A single task works on a sample of the training sentences. The sample is chosen by hash, so it does
not depend on how the work was divided. More lines than needed are stored at first, because filters
may leave few of them.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seqvis.text.spacing import RULED, LearnedSpacing, as_kept, learn, restore_case, separators
from seqvis.text.tokenizers import Tokenizer, TokenizerSettings, clean_line, load_tokenizer

SAMPLE = 20_000  # sentences; about 50 MB in the task
KEPT = 10 * SAMPLE  # lines kept on disk before duplicates and filters are known
MEASURED = 10  # one sentence of so many is put back instead of learned from
LOW_SHARE = 0.9  # of sentences put back exactly
ENOUGH = 20  # sentences measured, to judge the share by

_HASHES = 2**32
Sentence = tuple[list[str], list[str], list[str]]  # tokens; before each: by rule, in the text


def in_sample(texts: Sequence[str], share: float) -> list[bool]:
    """Return which texts belong to a sample of `share`; a smaller share chooses among the same."""
    if share == 0:
        return [False] * len(texts)
    return [zlib.crc32(text.encode()) < share * _HASHES for text in texts]


@dataclass(frozen=True)
class SpacingSample:
    """A sample of training sentences in the target language."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class Spacing:
    """What was learned, and how many of the measured sentences get exactly their own spaces."""

    learned: LearnedSpacing
    measured: int
    exact: int

    def warning(self, settings: TokenizerSettings) -> str | None:
        """Return what a user should know before training on the corpus."""
        share = f"{self.exact} of {self.measured} sampled sentences come back with the same spaces"
        if settings.kind == "spacy" and settings.language not in RULED:
            return (
                f"{settings.language}: there are no rules for putting its text back, only what was "
                f"learned from the corpus: {share}; if that is too few, use "
                "--tokenizer sentencepiece, which keeps spaces"
            )
        if self.measured >= ENOUGH and self.exact < LOW_SHARE * self.measured:
            return (
                f"{settings.language}: only {share}; check --target-lang, or use "
                "--tokenizer sentencepiece, which keeps spaces"
            )
        return None


@dataclass(frozen=True)
class LearnSpacing:
    """Learns from most of a sample and measures on the rest."""

    settings: TokenizerSettings

    def __call__(self, sample: SpacingSample) -> Spacing:
        tokenizer = load_tokenizer(self.settings)
        learned = learn(self._sentences(tokenizer, sample.texts, measured=False))
        measured = exact = 0
        for tokens, ruled, written in self._sentences(tokenizer, sample.texts, measured=True):
            measured += 1
            exact += learned.correct(tokens, ruled) == written
        return Spacing(learned, measured, exact)

    def _sentences(
        self, tokenizer: Tokenizer, texts: Sequence[str], measured: bool
    ) -> Iterator[Sentence]:
        language = self.settings.language if self.settings.kind == "spacy" else None
        for text in texts:
            if (zlib.crc32(text.encode()) % MEASURED == 0) == measured:
                tokens, written = with_separators(tokenizer, text)
                yield tokens, separators(tokens, language), written


def with_separators(tokenizer: Tokenizer, text: str) -> tuple[list[str], list[str]]:
    """Return the tokens of a text without their case marks, and what stands before each."""
    tokens: list[str] = []
    written: list[str] = []
    before = ""
    for part in re.split(r"(\s+)", clean_line(text, tokenizer.settings).strip()):
        if part.isspace():
            before = as_kept(part)
            continue
        word = restore_case(tokenizer.tokenize(part))
        tokens += word
        written += [before, *[""] * (len(word) - 1)][: len(word)]
    return tokens, written

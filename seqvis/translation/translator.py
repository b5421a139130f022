"""A trained translator of readable text into readable text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Self, overload

import torch
from torch import Tensor

from seqvis.artifacts import Artifact
from seqvis.decoding.beam import DecodingSettings, Hypothesis
from seqvis.decoding.linear import Precision
from seqvis.decoding.native import pack_models
from seqvis.decoding.search import search_many
from seqvis.errors import ConfigError
from seqvis.seq2seq.model import Seq2Seq
from seqvis.storage import Location
from seqvis.text.languages import Languages, SourceSentence, load_languages
from seqvis.text.tokenizers import FEW_WORDS
from seqvis.translation.direction import Direction, as_read
from seqvis.translation.reranking import Reranker, RerankingSettings
from seqvis.translation.trained import TrainedModel, check_same_direction, check_same_words
from seqvis.vectors.store import is_marker


@dataclass(frozen=True)
class Alternative:
    """One translation of a sentence."""

    text: str
    tokens: list[str]
    score: float  # mean log probability a word, as the search's length penalty defines it
    attention: Tensor | None  # (tokens or fewer, source tokens + 1): the last column is `_eos_`
    complete: bool  # False if it was cut at the longest length


@dataclass(frozen=True)
class Translation:
    """A sentence and its translations, best first. There is always at least one."""

    source: str
    source_tokens: list[str]
    alternatives: list[Alternative]
    unknown: list[str]  # words of the source that the model does not know, as written

    @property
    def text(self) -> str:
        return self.alternatives[0].text


class Translator:
    """A model, or an ensemble of several, with its vocabularies and tokenisers."""

    def __init__(
        self,
        models: Sequence[TrainedModel],
        languages: Languages,
        precision: Precision = "float32",
        reranker: Reranker | None = None,
    ):
        """
        Args:
            models: several translate together. Their words are the same, and their direction.
            reranker: chooses among what a beam finds in `translate`; in-flight requests go
                without.
        """
        self.models = models
        self.packed = pack_models([trained.model for trained in models], precision)
        self.languages = languages
        self.reranker = reranker

    @classmethod
    def load(
        cls,
        uri: str | Location | Sequence[str | Location],
        device: str = "cpu",
        precision: Precision = "float32",
        reranking: RerankingSettings | None = None,
    ) -> Self:
        """Open a translator, or several as an ensemble: each word has the mean of their
        probabilities.

        Raises ArtifactError if one is incomplete or altered, ConfigError for int8 on a GPU or if
        the models cannot work together.
        """
        uris = [uri] if isinstance(uri, (str, Location)) else uri
        models = [TrainedModel.load(each, device) for each in uris]
        check_same_words(models)
        check_same_direction(models)
        reranker = Reranker.load(reranking, models[0], device) if reranking else None
        languages = load_languages(models[0].artifact, FEW_WORDS)
        return cls(models, languages, precision, reranker)

    @property
    def model(self) -> Seq2Seq:
        """The network, of an ensemble the first."""
        return self.models[0].model

    @property
    def artifact(self) -> Artifact:
        """What the network was read from, of an ensemble the first."""
        return self.models[0].artifact

    @property
    def direction(self) -> Direction:
        """In which the model writes."""
        return self.models[0].direction

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @overload
    def translate(  # type: ignore[overload-overlap]
        self, texts: str, settings: DecodingSettings | None = None, batch_size: int = 64
    ) -> Translation: ...
    @overload
    def translate(
        self, texts: Sequence[str], settings: DecodingSettings | None = None, batch_size: int = 64
    ) -> list[Translation]: ...
    def translate(
        self,
        texts: str | Sequence[str],
        settings: DecodingSettings | None = None,
        batch_size: int = 64,
    ) -> Translation | list[Translation]:
        """Translate a sentence, or a list of sentences; an empty one stays empty.

        Args:
            texts: a sentence, which gives one translation, or a list of them, which gives a list.
            settings: greedy search by default.
            batch_size: sentences searched at once, by all of PyTorch's threads together. The
                results do not depend on it, up to the rounding of float32 where two words are
                equally likely.
        """
        if isinstance(texts, str):
            return self.translate([texts], settings, batch_size)[0]
        settings = settings or DecodingSettings()
        sources = self.read(texts)
        results = [self.translation(source, []) for source in sources]
        order = [row for row, source in enumerate(sources) if source.tokens]
        order.sort(key=lambda row: len(sources[row].tokens))
        n_best = self._search([sources[row] for row in order], settings, batch_size)
        for row, hypotheses in zip(order, n_best, strict=True):
            results[row] = self.translation(sources[row], hypotheses)
        return results

    def _search(
        self, sources: Sequence[SourceSentence], settings: DecodingSettings, batch_size: int
    ) -> list[list[Hypothesis]]:
        ids = [source.ids for source in sources]
        if self.reranker is None:
            return search_many(self.packed, ids, settings, batch_size)
        n_best = search_many(self.packed, ids, self.reranker.widened(settings), batch_size)

        def text(row: int, hypothesis: Hypothesis) -> str:
            return self.translation(sources[row], [hypothesis]).text

        ranked = self.reranker.rank(ids, n_best, settings.length_penalty, self.direction, text)
        return [hypotheses[: settings.n_best] for hypotheses in ranked]

    def read(self, texts: Sequence[str]) -> list[SourceSentence]:
        """Read sentences as the model sees them. Raises TypeError for anything but text."""
        if isinstance(texts, str):
            raise TypeError("give a list of sentences, not a single text")
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a sentence is a str, not {type(text).__name__}: {text!r:.80}")
        return [self.languages.read(text) for text in texts]

    def translate_stream(
        self, lines: Iterable[str], settings: DecodingSettings | None = None, batch_size: int = 64
    ) -> Iterator[Translation]:
        """Translate any number of lines, a few batches at a time, in order."""
        if isinstance(lines, str):
            raise TypeError("give lines of text, not a single text")
        waiting: list[str] = []
        for line in lines:
            waiting.append(line)
            if len(waiting) == 16 * batch_size:
                yield from self.translate(waiting, settings, batch_size)
                waiting = []
        if waiting:
            yield from self.translate(waiting, settings, batch_size)

    def translation(self, source: SourceSentence, hypotheses: Sequence[Hypothesis]) -> Translation:
        """Return the hypotheses for a sentence as text.

        A sentence without tokens has an empty translation, or the pictographs it consists of.
        """
        if not source.tokens:
            hypotheses = [Hypothesis([], 0.0, None, True)]
        alternatives = []
        for written in hypotheses:
            hypothesis = as_read(written, self.direction)
            ids, attention = hypothesis.ids, hypothesis.attention
            tokens, text = self.languages.target_text(ids, source, attention)
            alternatives.append(
                Alternative(text, tokens, hypothesis.score, attention, hypothesis.finished)
            )
        return Translation(source.text, list(source.tokens), alternatives, source.unknown)

    def text_so_far(self, source: SourceSentence, ids: Sequence[int]) -> str:
        """Return the words that a search has found so far as text.

        A right-to-left model finds the end of the text first.
        """
        hypothesis = as_read(Hypothesis(list(ids), 0.0, None, False), self.direction)
        return self.languages.target_text(hypothesis.ids, source, None)[1]


def draw_alignment(location: Location, translation: Translation, by_word: bool = False) -> None:
    """Draw which source words each word of a translation attended to, as a PNG.

    Case marks are no words: they are left out, and attention to one counts for its word. Raises
    ConfigError if the model has no attention or the sentence no words.

    `by_word`: in lesson 11's form, a line for each of the first nine words; else as a map of all.
    """
    # matplotlib takes a second to load
    from seqvis.plots.attention import plot_attention, plot_attention_steps

    best = translation.alternatives[0]
    if best.attention is None:
        raise ConfigError(
            "--attention: this model has no attention (or the sentence is empty); "
            "train the variant attn or all"
        )
    rows = [not is_marker(token) for token in best.tokens]
    columns = [not is_marker(token) for token in translation.source_tokens]
    weights = best.attention[: len(best.tokens)].numpy()[rows]
    for place, is_word in enumerate(columns):
        if not is_word:
            weights[:, place + 1] += weights[:, place]
    source = [*compress(translation.source_tokens, columns), "end"]
    plot = plot_attention_steps if by_word else plot_attention
    location.parent().make_directory()
    with location.local_output() as path:
        target = list(compress(best.tokens, rows))
        plot(path, weights[:, [*columns, True]], source, target, title=best.text)

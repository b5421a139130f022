"""A trained translator of readable text into readable text."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, overload

import torch

from seqvis.artifacts import Artifact
from seqvis.config import settings_from
from seqvis.decoding.beam import DecodingSettings, Hypothesis
from seqvis.decoding.direction import Direction, as_read
from seqvis.decoding.linear import Precision
from seqvis.decoding.native import pack_models
from seqvis.decoding.search import search_many
from seqvis.errors import ConfigError
from seqvis.hub.onhub import OnHub
from seqvis.seq2seq.model import Seq2Seq
from seqvis.storage import Place
from seqvis.text.languages import Languages, SourceSentence, load_languages
from seqvis.text.tokenizers import FEW_WORDS
from seqvis.translation.confidence import Calibration
from seqvis.translation.reranking import Reranker, RerankingSettings
from seqvis.translation.results import Alternative, Translation, Translations
from seqvis.translation.trained import TrainedModel, check_same_direction, check_same_words


class Translator(OnHub):
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
        self.calibration = Calibration.load(self.artifact)  # of an ensemble the first's

    @classmethod
    def load(
        cls,
        uri: Place | Sequence[Place],
        device: str = "cpu",
        precision: Precision = "float32",
        reranking: RerankingSettings | None = None,
    ) -> Self:
        """Open a translator, or several as an ensemble: each word has the mean of their
        probabilities.

        Args:
            uri: directory or URI that `train_translator` wrote, or a list of several.
            device: of torch, such as "cpu" or "cuda".
            precision: of the matrix products. For CPUs alone: "float16", whose weights are rounded
                to sixteen bits, and "int8".
            reranking: other models that choose among what a beam finds.

        Raises:
            ArtifactError: one is missing, incomplete or altered.
            ConfigError: for int8 on a GPU, or if the models cannot work together.
        """
        several = isinstance(uri, Sequence) and not isinstance(uri, str)
        uris: Sequence[Place] = uri if several else [uri]  # type: ignore[assignment,list-item]
        models = [TrainedModel.load(each, device) for each in uris]
        check_same_words(models)
        check_same_direction(models)
        reranker = Reranker.load(reranking, models[0], device) if reranking else None
        languages = load_languages(models[0].artifact, FEW_WORDS)
        return cls(models, languages, precision, reranker)

    @classmethod
    def _open_from_hub(cls, uri: str, **options: Any) -> Self:
        return cls.load(uri, **options)

    def _as_artifact(self, folder: Path) -> Artifact:
        if len(self.models) > 1:
            raise ConfigError("an ensemble is published model by model, from Translator.load(PATH)")
        return self.artifact

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
        """Where the networks run."""
        return next(self.model.parameters()).device

    @overload
    def translate(  # type: ignore[overload-overlap]
        self,
        texts: str,
        settings: DecodingSettings | None = None,
        batch_size: int = 64,
        *,
        beam: int | None = None,
        n_best: int | None = None,
        min_confidence: float = 0.0,
    ) -> Translation: ...
    @overload
    def translate(
        self,
        texts: Sequence[str],
        settings: DecodingSettings | None = None,
        batch_size: int = 64,
        *,
        beam: int | None = None,
        n_best: int | None = None,
        min_confidence: float = 0.0,
    ) -> Translations: ...
    def translate(
        self,
        texts: str | Sequence[str],
        settings: DecodingSettings | None = None,
        batch_size: int = 64,
        *,
        beam: int | None = None,
        n_best: int | None = None,
        min_confidence: float = 0.0,
    ) -> Translation | Translations:
        """Translate a sentence, or a list of sentences; an empty one stays empty.

        Args:
            texts: a sentence, which gives one translation, or a list of them, which gives a list.
            settings: greedy search by default.
            batch_size: sentences searched at once, by all of PyTorch's threads together. The
                results do not depend on it, up to the rounding of float32 where two words are
                equally likely.
            beam: hypotheses kept at each step, in place of that of `settings`; 1 is greedy search.
            n_best: translations returned for a sentence, likewise; without `beam`, the beam is as
                wide as it needs to be.
            min_confidence: translations of less confidence have `refused` set to the reason.

        Raises:
            TypeError: for anything but text.
            ConfigError: for a beam below 1 or `n_best` above the beam, or a `min_confidence` if
                the model is not calibrated.
        """
        if isinstance(texts, str):
            return self.translate(
                [texts],
                settings,
                batch_size,
                beam=beam,
                n_best=n_best,
                min_confidence=min_confidence,
            )[0]
        self.check_confidence(min_confidence)
        settings = _chosen(settings or DecodingSettings(), beam, n_best)
        sources = self.read(texts)
        order = [row for row, source in enumerate(sources) if source.tokens]
        order.sort(key=lambda row: len(sources[row].tokens))
        n_best_lists = self._search([sources[row] for row in order], settings, batch_size)
        by_row = dict(zip(order, n_best_lists, strict=True))
        return Translations(
            self.translation(source, by_row.get(row, [])).checked(min_confidence)
            for row, source in enumerate(sources)
        )

    def check_confidence(self, least: float) -> None:
        """Raise ConfigError if translations cannot be told to have this much confidence."""
        if not 0 <= least <= 1:
            raise ConfigError(f"min_confidence is {least:g}; it is a probability, from 0 to 1")
        if least and self.calibration is None:
            raise ConfigError(
                "min_confidence: this translator is not calibrated, so it does not know how sure "
                "it is; seqvis evaluate-translator --calibrate adds that"
            )

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
        if isinstance(texts, bytes) or not isinstance(texts, Iterable):
            raise TypeError(
                f"a sentence is a str, and several are a list of them; not {type(texts).__name__}: "
                f"{texts!r:.80}"
            )
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"a sentence is a str, not {type(text).__name__}: {text!r:.80}")
        return [self.languages.read(text) for text in texts]

    def translate_stream(
        self,
        lines: Iterable[str],
        settings: DecodingSettings | None = None,
        batch_size: int = 64,
        *,
        min_confidence: float = 0.0,
    ) -> Iterator[Translation]:
        """Translate any number of lines, a few batches at a time, in order; see `translate`."""
        if isinstance(lines, str):
            raise TypeError("give lines of text, not a single text")

        def translated(waiting: list[str]) -> list[Translation]:
            return self.translate(waiting, settings, batch_size, min_confidence=min_confidence)

        waiting: list[str] = []
        for line in lines:
            waiting.append(line)
            if len(waiting) == 16 * batch_size:
                yield from translated(waiting)
                waiting = []
        if waiting:
            yield from translated(waiting)

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
        confidence = None
        if self.calibration is not None:
            confidence = self.calibration.confidence(source, hypotheses[0])
        return Translation(
            source.text, list(source.tokens), alternatives, source.unknown, confidence
        )

    def text_so_far(self, source: SourceSentence, ids: Sequence[int]) -> str:
        """Return the words that a search has found so far as text.

        A right-to-left model finds the end of the text first.
        """
        hypothesis = as_read(Hypothesis(list(ids), 0.0, None, False), self.direction)
        return self.languages.target_text(hypothesis.ids, source, None)[1]


def _chosen(settings: DecodingSettings, beam: int | None, n_best: int | None) -> DecodingSettings:
    """Return the settings with another beam and number of translations, where these are given."""
    given = {"beam": beam, "n_best": n_best}
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not changed:
        return settings
    chosen: DecodingSettings = settings_from(
        DecodingSettings, settings.model_dump() | changed, "translate", flags=False
    )
    if chosen.n_best > chosen.beam:
        if beam is not None:
            raise ConfigError(f"n_best {chosen.n_best}: needs a beam of at least as many")
        return chosen.model_copy(update={"beam": chosen.n_best})
    return chosen

"""A trained translator: readable text in, readable text out.

`Translator.load` opens the artifact that `train_translator` wrote; `translate` tokenises, sorts
by length, searches in batches and puts the results back into the order they came in.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from seqvis import artifacts
from seqvis.artifacts import Artifact
from seqvis.config import settings_from
from seqvis.storage import Location
from seqvis.training.checkpoints import restore_model
from seqvis.translation.decode import search_many
from seqvis.translation.inference import Inference
from seqvis.translation.languages import Languages, load_languages
from seqvis.translation.model import Seq2Seq
from seqvis.translation.products import Precision
from seqvis.translation.sentences import Hypothesis, SearchSettings
from seqvis.translation.settings import ModelSettings


@dataclass(frozen=True)
class Candidate:
    """One translation of a sentence."""

    text: str
    tokens: list[str]
    score: float  # mean log probability a word, as the search's length penalty defines it
    attention: Tensor | None  # (tokens or fewer, source tokens + 1): the last column is `_eos_`
    complete: bool  # False if it was cut at the longest length


@dataclass(frozen=True)
class Translation:
    """A sentence and its translations, best first; there is always one."""

    source: str
    source_tokens: list[str]
    candidates: list[Candidate]

    @property
    def text(self) -> str:
        return self.candidates[0].text


class Translator:
    """A model with its vocabularies and tokenisers."""

    def __init__(
        self,
        model: Seq2Seq,
        languages: Languages,
        artifact: Artifact,
        precision: Precision = "float32",
    ):
        self.model = model.eval()
        self.inference = Inference(model, precision)
        self.languages = languages
        self.artifact = artifact

    @classmethod
    def load(
        cls, uri: str | Location, device: str = "cpu", precision: Precision = "float32"
    ) -> Self:
        """Opens a translator.

        Raises ArtifactError if it is incomplete or altered, ConfigError for int8 on a GPU.
        """
        artifact = artifacts.load(uri, "translator")
        languages = load_languages(artifact)
        settings = settings_from(ModelSettings, artifact.config["model"], artifact.location.uri)
        sizes = len(languages.source_vocabulary), len(languages.target_vocabulary)
        model = Seq2Seq(settings, *sizes)
        weights = artifact.file("model.safetensors")
        restore_model(model, load_tensors(weights.read_bytes()), weights.uri)
        return cls(model.to(device), languages, artifact, precision)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def translate(
        self,
        texts: Sequence[str],
        settings: SearchSettings | None = None,
        batch_size: int = 64,
    ) -> list[Translation]:
        """Translates sentences; an empty one stays empty.

        Args:
            texts: one sentence each.
            settings: greedy search by default.
            batch_size: sentences searched at once, by all of PyTorch's threads together. The
                results do not depend on it, up to the rounding of float32 where two words are
                equally likely.
        """
        tokens = self.languages.source_tokenizer.tokenize_many(texts)
        order = sorted((i for i, found in enumerate(tokens) if found), key=lambda i: len(tokens[i]))
        ids = [self.languages.source_ids(tokens[row]) for row in order]
        found = search_many(self.inference, ids, settings or SearchSettings(), batch_size)
        results = [self.translation(text, [], []) for text in texts]
        for row, hypotheses in zip(order, found, strict=True):
            results[row] = self.translation(texts[row], tokens[row], hypotheses)
        return results

    def translate_stream(
        self, lines: Iterable[str], settings: SearchSettings | None = None, batch_size: int = 64
    ) -> Iterator[Translation]:
        """Translates any number of lines, a few batches at a time, in order."""
        waiting: list[str] = []
        for line in lines:
            waiting.append(line)
            if len(waiting) == 16 * batch_size:
                yield from self.translate(waiting, settings, batch_size)
                waiting = []
        if waiting:
            yield from self.translate(waiting, settings, batch_size)

    def translation(
        self, text: str, tokens: list[str], hypotheses: Sequence[Hypothesis]
    ) -> Translation:
        """What was found for a tokenised sentence, as text; no tokens: an empty translation."""
        if not tokens:
            return Translation(text, [], [Candidate("", [], 0.0, None, True)])
        return Translation(text, tokens, [self._candidate(tokens, one) for one in hypotheses])

    def _candidate(self, source_tokens: list[str], one: Hypothesis) -> Candidate:
        tokens = self.languages.target_tokens(one.ids, source_tokens, one.attention)
        text = self.languages.target_tokenizer.detokenize(tokens)
        return Candidate(text, tokens, one.score, one.attention, one.finished)

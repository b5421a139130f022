"""`TranslationTask`: training a translator, as a task of the one training loop.

It brings a prepared corpus, the model, the loss of a batch and the validation to `training.fit`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from seqvis.artifacts import Artifact
from seqvis.config import Settings
from seqvis.corpus.pairs import PairTable, load_pairs, training_pairs
from seqvis.decoding.beam import DecodingSettings, Hypothesis
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.decoding.search import search
from seqvis.errors import ConfigError, DataError
from seqvis.seq2seq.dropout import mask_like
from seqvis.seq2seq.forcing import ForcingSettings, draw_coins, probability
from seqvis.seq2seq.losses import SequenceLoss, projected_cross_entropy
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import DropoutSettings, ModelSettings
from seqvis.text.languages import Languages, SourceSentence, load_languages
from seqvis.text.vocabulary import PAD, UNK, Vocabulary
from seqvis.training.step import StepLoss
from seqvis.training.workers import Workers
from seqvis.translation.batches import (
    Batch,
    BatchSettings,
    make_batch,
    plan_epoch,
    plan_validation,
)
from seqvis.translation.metrics import (
    FreeRunningSums,
    Scoring,
    TextScores,
    free_running_sums,
    score_texts,
)
from seqvis.vectors.store import (
    WordVectors,
    embedding_matrix,
    is_marker,
    words_without_vector,
)

VALIDATION_BATCH = 200  # sentences; the seed's 125 * 1.6, on which its loss with padding depends


class LossSettings(Settings):
    """What is minimised."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Probability spread over all words instead of the right one."""
    count_padding: bool = False
    """Learn to predict the padding after a sentence too, as the seed does."""


@dataclass(frozen=True)
class TranslationTask:
    """A prepared corpus and the model to train on it."""

    unit: ClassVar[str] = "tokens"

    corpus: Artifact
    model_settings: ModelSettings
    forcing: ForcingSettings
    batches_settings: BatchSettings
    loss_settings: LossSettings
    seed: int
    vectors_source: WordVectors | None = None
    vectors_target: WordVectors | None = None
    scoring: Scoring = "text"
    samples: int = 3

    @cached_property
    def train(self) -> PairTable:
        return training_pairs(self.corpus)

    @cached_property
    def valid(self) -> PairTable:
        return load_pairs(self.corpus, "valid")

    @cached_property
    def languages(self) -> Languages:
        return load_languages(self.corpus)

    def build_model(self) -> nn.Module:
        source = self.languages.source_vocabulary
        target = self.languages.target_vocabulary
        model = Seq2Seq(self.model_settings, len(source), len(target))
        sides = [
            (model.encoder.embedding, source, self.vectors_source, "--vectors-source"),
            (model.decoder.embedding, target, self.vectors_target, "--vectors-target"),
        ]
        for embedding, vocabulary, vectors, flag in sides:
            if vectors is not None:
                _fill(embedding, vocabulary, vectors, flag, self.seed)
            with torch.no_grad():
                embedding.weight.mul_(self.model_settings.embedding_deviation)
        return model

    def missing_vectors(self) -> list[str]:
        """What to say of words that the given word vectors lack, a line for each side.

        Raises DataError if they lack all words of a side.
        """
        sides = (
            ("--vectors-source", self.languages.source_vocabulary, self.vectors_source),
            ("--vectors-target", self.languages.target_vocabulary, self.vectors_target),
        )
        lines = []
        for flag, vocabulary, vectors in sides:
            missing = words_without_vector(vocabulary, vectors) if vectors is not None else []
            words = sum(not is_marker(word) for word in vocabulary.words)
            if missing and len(missing) == words:
                raise DataError(
                    f"{flag}: has a vector for none of the corpus's {words:,} words; is it of the "
                    f"right language?"
                )
            if missing:
                lines.append(
                    f"{flag}: {len(missing):,} of {words:,} words have no vector and begin at "
                    f"random, such as {', '.join(missing[:5])}"
                )
        return lines

    def parameter_groups(self, model: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
        return [(list(model.parameters()), 1.0)]

    def fingerprint(self) -> str:
        return self.corpus.fingerprint()

    def steps_in_epoch(self, epoch: int) -> int:
        return len(self._plan(epoch))

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[Batch]:
        for rows in self._plan(epoch)[first:]:
            batch = make_batch(self.train, rows, workers.rank, workers.count)
            yield batch.to(workers.device)

    def _plan(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch; dealing out a large corpus takes a while, so one is kept."""
        if epoch not in self._plans:
            self._plans.clear()
            self._plans[epoch] = plan_epoch(self.train, self.batches_settings, self.seed, epoch)
        return self._plans[epoch]

    @cached_property
    def _plans(self) -> dict[int, list[NDArray[np.int64]]]:
        return {}

    def loss(self, model: nn.Module, batch: Batch, epoch: float) -> StepLoss:
        assert isinstance(model, Seq2Seq)
        steps = batch.target.shape[1]
        # All workers throw the same coins: the model's seed is the worker's, this one is not.
        generator = torch.Generator().manual_seed(self.seed + round(epoch * 1e6))
        coins = draw_coins(steps, probability(self.forcing, float(int(epoch))), generator)
        rates = self.model_settings.dropout
        by_step = batch.target.t()
        counted = torch.ones_like(by_step, dtype=torch.bool)
        if not self.loss_settings.count_padding:
            counted = by_step != PAD
        projection = model.decoder.projection
        mask = None
        if model.training and rates.output:
            drawn = 1 if rates.variational else steps
            like = projection.bias.new_empty(drawn, len(batch.target), projection.in_features)
            mask = mask_like(like, rates.output)
        smoothing = self.loss_settings.label_smoothing
        losses = SequenceLoss(projection, by_step, counted, mask, smoothing)
        output = model(batch.source, batch.target, coins, losses.choose)
        total, plain, dropped = losses.of(output.features)
        everyone = batch.positions if self.loss_settings.count_padding else batch.target_words
        # Gradients are averaged over workers; this makes that the mean over all their words.
        loss = total * (batch.workers / everyone)
        loss = loss + _activation_penalty(dropped, output.hidden, by_step != PAD, rates)
        return StepLoss(loss, plain, int(counted.sum()))

    def schedules(self, epoch: int) -> dict[str, float]:
        if self.forcing.schedule is None:
            return {}
        return {"teacher_forcing": probability(self.forcing, float(epoch))}

    def flops(self, model: nn.Module, batch: Batch) -> float:
        assert isinstance(model, Seq2Seq)
        source, target = model.flops_per_word()
        words = int(batch.source.lengths.sum())
        # A backward pass costs twice a forward pass.
        return 3.0 * (source * words + target * batch.target_words / batch.workers)

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        """Losses, accuracy, BLEU and chrF of greedy translations, and a few of them."""
        assert isinstance(model, Seq2Seq)
        rows = plan_validation(self.valid, VALIDATION_BATCH)[workers.rank :: workers.count]
        sums = FreeRunningSums(0.0, 0.0, 0, 0, 0)
        forced, texts = 0.0, {}
        reduced = torch.is_autocast_enabled(workers.device.type)
        packed = PackedSeq2Seq(model, "bfloat16" if reduced else "float32")
        for number in rows:
            batch = make_batch(self.valid, number).to(workers.device)
            sums = sums + free_running_sums(model, batch)
            forced += forced_loss(model, batch)
            found = search(packed, batch.source, DecodingSettings())
            for row, hypotheses in zip(number.tolist(), found, strict=True):
                texts[row] = self._text(row, hypotheses[0])
        gathered = workers.gather((sums, forced, texts))
        total = gathered[0][0]
        for one in gathered[1:]:
            total = total + one[0]
        everything = {row: text for one in gathered for row, text in one[2].items()}
        translations = [everything[row] for row in range(len(self.valid))]
        references = self.valid.target_texts or []
        scores = self._scores(translations, references)
        return {
            **total.means(),
            "forced_loss": sum(one[1] for one in gathered) / max(1, total.words),
            "bleu": scores.bleu,
            "chrf": scores.chrf,
            "samples": self._samples(translations),
        }

    @property
    def signature(self) -> str:
        """How validation BLEU and chrF are computed, in sacreBLEU's words."""
        return self._scores(["."], ["."]).signature

    def _scores(self, translations: list[str], references: list[str]) -> TextScores:
        language = self.languages.target_tokenizer.settings.language
        lowercase = not self.languages.keep_case
        return score_texts(translations, references, self.scoring, language, lowercase)

    def _text(self, row: int, hypothesis: Hypothesis) -> str:
        assert self.valid.source_texts is not None
        source = SourceSentence("", (), (), ())
        if UNK in hypothesis.ids:  # then the source's words are needed, and its tokenizer loaded
            source = self.languages.read_as_prepared(self.valid.source_texts[row])
        return self.languages.target_text(hypothesis.ids, source, hypothesis.attention)[1]

    def _samples(self, translations: list[str]) -> list[dict[str, str]]:
        """The same few sentences each epoch, spread over the validation part."""
        assert self.valid.source_texts is not None
        assert self.valid.target_texts is not None
        count = min(self.samples, len(self.valid))
        rows = [round((i + 0.5) * len(self.valid) / count) for i in range(count)]
        return [
            {
                "source": self.valid.source_texts[row],
                "reference": self.valid.target_texts[row],
                "translation": translations[row],
            }
            for row in rows
        ]


@torch.no_grad()
def forced_loss(model: Seq2Seq, batch: Batch) -> float:
    """Sum of the negative log-likelihood of the real target words, each given those before it."""
    coins = torch.ones(batch.target.shape[1], dtype=torch.bool)
    output = model(batch.source, batch.target, coins)
    by_step = batch.target.t()
    real = by_step != PAD
    projection = model.decoder.projection
    _, plain = projected_cross_entropy(
        output.features[real], projection.weight, projection.bias, by_step[real]
    )
    return float(plain)


def _activation_penalty(
    dropped: Tensor, states: Tensor, real: Tensor, rates: DropoutSettings
) -> Tensor | float:
    """AR and TAR (Merity et al. 2017, section 4.6), over real positions only."""
    penalty: Tensor | float = 0.0
    if rates.activation:
        penalty = penalty + rates.activation * dropped[real].float().pow(2).mean()
    if rates.temporal_activation and len(states) > 1:
        change = (states[1:] - states[:-1])[real[1:]]
        penalty = penalty + rates.temporal_activation * change.float().pow(2).mean()
    return penalty


def _fill(
    embedding: nn.Embedding, vocabulary: Vocabulary, vectors: WordVectors, flag: str, seed: int
) -> None:
    if vectors.dimension != embedding.embedding_dim:
        raise ConfigError(
            f"{flag}: has {vectors.dimension} dimensions, the model's embeddings have "
            f"{embedding.embedding_dim}; set --model.embedding-size {vectors.dimension}"
        )
    matrix = embedding_matrix(vocabulary, vectors, seed)
    with torch.no_grad():
        embedding.weight.copy_(torch.from_numpy(matrix))

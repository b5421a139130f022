"""What the training loop needs to train a translator: settings, model, loss and validation."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from seqvis import artifacts
from seqvis.artifacts import Artifact
from seqvis.config import MayChange, Settings
from seqvis.corpus.pairs import PairTable, load_pairs, training_pairs
from seqvis.decoding.beam import DecodingSettings, Hypothesis
from seqvis.decoding.direction import Direction, as_read
from seqvis.decoding.native import pack_models
from seqvis.decoding.search import search_many
from seqvis.graphs import Graphs
from seqvis.seq2seq.dropout import mask_like
from seqvis.seq2seq.losses import SequenceLoss, activation_penalty
from seqvis.seq2seq.model import Seq2Seq, draw_coins
from seqvis.seq2seq.settings import (
    ForcingSettings,
    ModelSettings,
    Variant,
    forcing_probability,
    resolve_variant,
)
from seqvis.text.languages import Languages, SourceSentence, load_languages
from seqvis.text.vocabulary import PAD, UNK
from seqvis.training.checkpoints import Identity
from seqvis.training.fit import FitSettings
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import ParameterGroup, Recordable, StepLoss
from seqvis.training.workers import Workers
from seqvis.translation.batches import (
    Batch,
    BatchSettings,
    EpochPlans,
    make_batch,
    make_batches,
    plan_validation,
)
from seqvis.translation.initial_weights import (
    Donor,
    SideVectors,
    ThawSettings,
    donors,
    groups_by_depth,
)
from seqvis.translation.metrics import LossSums, Scoring, TextScores, score_texts, validation_losses
from seqvis.vectors.store import WordVectors

VALIDATION_BATCH = 200  # sentences; the lesson's 125 * 1.6, on which its loss with padding depends
PLACES = (
    "corpus", "out", "vectors_source", "vectors_target", "init", "init_encoder", "init_decoder",
)  # fmt: skip
"""The settings that are directories or URIs."""
DONATED = "donated"  # in a checkpoint's identity: the weights that other models gave
RECORDED_LENGTHS = 8  # what lengths are multiples of where steps are recorded: few shapes


class LossSettings(Settings):
    """What is minimised."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Probability spread over all words instead of the right one."""
    count_padding: bool = False
    """Learn to predict the padding after a sentence too, as lesson 11 does."""
    sampled_words: int = Field(0, ge=0)
    """Words that are scored in a training step, those of the batch among them; 0: all. For
    vocabularies above some 100,000 words."""


class TrainSettings(Settings):
    """Everything that decides what a translator becomes."""

    corpus: Annotated[str, MayChange.FREELY]
    """Directory or URI that prepare_corpus wrote."""
    out: Annotated[str, MayChange.FREELY]
    """Directory or URI of the translator; OUT.run beside it holds checkpoints and curves."""
    variant: Variant = "all"
    """Of lesson 11: plain, bidir (encoder in both directions), force (teacher forcing), attn
    (attention and forcing), all."""
    direction: Direction = "left-to-right"
    """Order in which the target's words are predicted. A right-to-left model translates by itself,
    and may rescore the translations of another (translate --rescore)."""
    epochs: int = Field(12, ge=1)
    """Passes over the corpus. A run that is given more goes on at the last rate of its cycle."""
    vectors_source: Annotated[str | None, MayChange.FREELY] = None
    """Word vectors of the source language, from build_vectors, to start from."""
    vectors_target: Annotated[str | None, MayChange.FREELY] = None
    """Word vectors of the target language, from build_vectors, to start from."""
    init: Annotated[str | None, MayChange.ELSEWHERE] = None
    """Translator to start from, of the same sizes; words that it does not know start at random."""
    init_encoder: Annotated[str | None, MayChange.ELSEWHERE] = None
    """Translator whose encoder to start from, or what pretrain wrote."""
    init_decoder: Annotated[str | None, MayChange.ELSEWHERE] = None
    """Translator whose decoder to start from, or what pretrain wrote."""
    thaw: Annotated[ThawSettings, MayChange.IF_ASKED] = ThawSettings()
    scoring: Scoring = "text"
    """How validation BLEU is computed: text (sacreBLEU, without case) or moses (tokenised and
    lowercased, as published for Multi30k)."""
    samples: Annotated[int, MayChange.FREELY] = Field(3, ge=0)
    """Validation sentences shown after each epoch."""
    model: ModelSettings = ModelSettings()
    forcing: Annotated[ForcingSettings, MayChange.IF_ASKED] = ForcingSettings()
    batches: BatchSettings = BatchSettings()
    loss: Annotated[LossSettings, MayChange.IF_ASKED] = LossSettings()
    optimizer: Annotated[OptimizerSettings, MayChange.IF_ASKED] = OptimizerSettings()
    fit: FitSettings = FitSettings()

    @model_validator(mode="after")
    def _thaws_what_is_given(self) -> Self:
        given = self.init or self.init_encoder or self.init_decoder
        if self.thaw != ThawSettings() and not given:
            raise ValueError(
                "--thaw.*: is for the weights of another model; give that one by --init, "
                "--init-encoder or --init-decoder, or leave this out"
            )
        return self

    def resolved(self) -> "TrainSettings":
        """Return the settings with what the variant says filled in."""
        model, forcing = resolve_variant(self.variant, self.model, self.forcing)
        return self.model_copy(update={"model": model, "forcing": forcing})

    def identity(self) -> Identity:
        """Return what a run is known by when it goes on."""
        return Identity.of(self.resolved())


@dataclass(frozen=True)
class TranslationTask:
    """A prepared corpus and the model to train on it."""

    unit: ClassVar[str] = "tokens"

    settings: TrainSettings  # resolved
    resumed: Collection[str] | None = field(default=None, kw_only=True)
    """Names of the weights that a run was begun with from other models, if a checkpoint that says
    so brings all weights: then neither these models nor word vectors are read again."""

    @cached_property
    def corpus(self) -> Artifact:
        return artifacts.load(self.settings.corpus, "corpus")

    @cached_property
    def train(self) -> PairTable:
        return training_pairs(self.corpus)

    @cached_property
    def valid(self) -> PairTable:
        return load_pairs(self.corpus, "valid")

    @cached_property
    def languages(self) -> Languages:
        return load_languages(self.corpus)

    @cached_property
    def _side_vectors(self) -> list[SideVectors]:
        settings, languages = self.settings, self.languages
        sides = (
            ("--vectors-source", "encoder", languages.source_vocabulary, settings.vectors_source),
            ("--vectors-target", "decoder", languages.target_vocabulary, settings.vectors_target),
        )
        return [
            SideVectors(flag, part, vocabulary, WordVectors.open(uri))
            for flag, part, vocabulary, uri in sides
            if uri
        ]

    @cached_property
    def _donors(self) -> list[Donor]:
        return donors(self.settings.init, self.settings.init_encoder, self.settings.init_decoder)

    @cached_property
    def _donated(self) -> list[str]:
        if self.resumed is not None:
            return sorted(self.resumed)
        return sorted({name for donor in self._donors for name in donor.weights})

    def identity(self) -> Identity:
        """Return what the run is known by when it goes on, with what it was begun from."""
        identity = self.settings.identity()
        return replace(identity, values={**identity.values, DONATED: self._donated})

    def build_model(self) -> nn.Module:
        settings, languages = self.settings.model, self.languages
        sizes = len(languages.source_vocabulary), len(languages.target_vocabulary)
        model = Seq2Seq(settings, *sizes)
        if self.resumed is not None:
            return model
        for side in self._side_vectors:
            side.fill(model, self.settings.fit.seed)
        with torch.no_grad():
            for embedding in (model.encoder.embedding, model.decoder.embedding):
                embedding.weight.mul_(settings.embedding_deviation)
        for donor in self._donors:
            donor.give(model, languages)
        return model

    def begins_at_random(self) -> list[str]:
        """Describe what word vectors and other translators leave out, a line for each; nothing of
        a run that goes on.

        Raises DataError if word vectors lack all words of a side, ConfigError if a translator's
        shapes differ.
        """
        if self.resumed is not None:
            return []
        lines = [line for side in self._side_vectors for line in side.missing()]
        for donor in self._donors:
            lines += donor.describe(self.settings.model, self.languages, self.settings.direction)
        return lines

    def parameter_groups(self, model: nn.Module) -> list[ParameterGroup]:
        return groups_by_depth(model, self._donated, self.settings.thaw)

    def fingerprint(self) -> str:
        return self.corpus.fingerprint()

    def steps_in_epoch(self, epoch: int) -> int:
        return len(self._plans.of(epoch))

    def batches(self, epoch: int, first: int, workers: Workers) -> Iterator[Batch]:
        few_shapes = Graphs().on and not self.settings.loss.count_padding
        multiple = RECORDED_LENGTHS if few_shapes else 1
        given = workers.rank, workers.count, multiple, self.settings.direction
        plan = self._plans.of(epoch)[first:]
        return make_batches(plan, lambda rows: make_batch(self.train, rows, *given), workers.device)

    @cached_property
    def _plans(self) -> EpochPlans:
        return EpochPlans(self.train, self.settings.batches, self.settings.fit.seed)

    def loss(self, model: nn.Module, batch: Batch, epoch: float) -> StepLoss:
        assert isinstance(model, Seq2Seq)
        rates, settings = self.settings.model.dropout, self.settings.loss
        by_step = batch.target.t()
        steps = len(by_step)
        # All workers draw the same coins: the model's seed is the worker's, this one is not.
        generator = torch.Generator().manual_seed(self.settings.fit.seed + round(epoch * 1e6))
        forced = forcing_probability(self.settings.forcing, float(int(epoch)))
        coins = draw_coins(steps, forced, generator)
        real = by_step != PAD
        counted = torch.ones_like(real) if settings.count_padding else real
        projection = model.decoder.projection
        mask = None
        if model.training and rates.output:
            drawn = 1 if rates.variational else steps
            like = projection.bias.new_empty(drawn, len(batch.target), projection.in_features)
            mask = mask_like(like, rates.output)
        smoothing, sampled = settings.label_smoothing, settings.sampled_words
        weight, bias = projection.weight, projection.bias
        losses = SequenceLoss(weight, bias, by_step, counted, mask, smoothing, sampled)
        output = model(batch.source, batch.target, coins, losses.choose)
        total, plain, dropped = losses.of(output.features)
        scale = batch.share(settings.count_padding) if batch.scale is None else batch.scale
        loss = total * scale + activation_penalty(dropped, output.hidden, real, rates)
        return StepLoss(loss, plain, self._tokens(batch))

    def _tokens(self, batch: Batch) -> int:
        if self.settings.loss.count_padding:
            return batch.target.numel()
        return batch.target_words if batch.own_words is None else batch.own_words

    def recordable(self, batch: Batch, epoch: float) -> Recordable | None:
        if forcing_probability(self.settings.forcing, float(int(epoch))) < 1:
            return None  # each batch has its own coins
        share = batch.share(self.settings.loss.count_padding)
        scale = torch.full((), share, device=batch.target.device)

        def again(ids: Tensor, target: Tensor, scale: Tensor) -> Batch:
            source = replace(batch.source, ids=ids)
            return replace(batch, source=source, target=target, scale=scale)

        inputs = (batch.source.ids, batch.target, scale)
        return Recordable(inputs, again, self._tokens(batch))

    def schedules(self, epoch: int) -> dict[str, float]:
        return {"teacher_forcing": forcing_probability(self.settings.forcing, float(epoch))}

    def flops(self, model: nn.Module, batch: Batch) -> float:
        assert isinstance(model, Seq2Seq)
        source, target = model.flops_per_word()
        words = int(batch.source.lengths.sum())
        # A backward pass costs twice a forward pass.
        return 3.0 * (source * words + target * batch.target_words / batch.workers)

    def evaluate(self, model: nn.Module, workers: Workers) -> dict[str, Any]:
        """Return losses, and scores of greedy translations, a few of these, and warnings."""
        assert isinstance(model, Seq2Seq)
        sums, texts, direction = LossSums(), {}, self.settings.direction
        reduced = torch.is_autocast_enabled(workers.device.type)
        packed = pack_models([model], "bfloat16" if reduced else "float32")
        plan = plan_validation(self.valid, VALIDATION_BATCH)
        for rows in plan[workers.rank :: workers.count]:
            batch = make_batch(self.valid, rows, direction=direction).to(workers.device)
            sums += validation_losses(model, batch)
            sentences = [self.valid.source[row].tolist() for row in rows]
            results = search_many(packed, sentences, DecodingSettings(), VALIDATION_BATCH)
            for row, hypotheses in zip(rows.tolist(), results, strict=True):
                texts[row] = self._text(row, as_read(hypotheses[0], direction))
        total = LossSums()
        by_row: dict[int, str] = {}
        for part, part_texts in workers.gather((sums, texts)):
            total += part
            by_row |= part_texts
        translations = [by_row[row] for row in range(len(self.valid))]
        scores = self._scores(translations, self.valid.target_texts or [])
        shown = {"samples": self._samples(translations), "warnings": total.warnings()}
        return {**total.means(), "bleu": scores.bleu, "chrf": scores.chrf, **shown}

    @property
    def signature(self) -> str:
        """sacreBLEU's description of how validation BLEU and chrF are computed."""
        return self._scores(["."], ["."]).signature

    def _scores(self, translations: list[str], references: list[str]) -> TextScores:
        language = self.languages.target_tokenizer.settings.language
        lowercase = not self.languages.keep_case
        return score_texts(translations, references, self.settings.scoring, language, lowercase)

    def _text(self, row: int, hypothesis: Hypothesis) -> str:
        assert self.valid.source_texts is not None
        source = SourceSentence("", (), (), ())
        if UNK in hypothesis.ids:  # then the source's words are needed, and its tokenizer loaded
            source = self.languages.read_as_prepared(self.valid.source_texts[row])
        return self.languages.target_text(hypothesis.ids, source, hypothesis.attention)[1]

    def _samples(self, translations: list[str]) -> list[dict[str, str]]:
        """Return the same few sentences each epoch, spread over the validation part."""
        assert self.valid.source_texts is not None
        assert self.valid.target_texts is not None
        count = min(self.settings.samples, len(self.valid))
        last = len(self.valid) - 1
        rows = [min(last, round((i + 0.5) * len(self.valid) / count)) for i in range(count)]
        return [
            {
                "source": self.valid.source_texts[row],
                "reference": self.valid.target_texts[row],
                "translation": translations[row],
            }
            for row in rows
        ]

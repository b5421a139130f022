"""What a translator's training does on a GPU: it never waits for one, and records its steps."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from seqvis.graphs import Graphs
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq import model, recurrent
from seqvis.seq2seq.language_model import DecoderLanguageModel, EncoderLanguageModel
from seqvis.seq2seq.losses import mean_square
from seqvis.seq2seq.settings import DropoutSettings, ModelSettings, Variant
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.vocabulary import PAD
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import StepLoss, TrainingStep
from seqvis.training.workers import Workers
from seqvis.translation import metrics, task
from seqvis.translation.batches import Batch, make_batch, make_batches
from seqvis.translation.pretrain import LanguageTask, PretrainSettings
from seqvis.translation.task import LossSettings, TrainSettings, TranslationTask
from tests.support.corpora import write_corpus
from tests.support.fakecuda import Cudnn, fake_cuda
from tests.support.models import build
from tests.support.recording import record

RATES = DropoutSettings(
    embedding=0.1, weight=0.1, decoder_input=0.1, activation=2.0, temporal_activation=1.0
)


def translation_task(variant: Variant, corpus: str = "", **more: Any) -> TranslationTask:
    sizes = ModelSettings(embedding_size=12, hidden_size=10, dropout=RATES)
    settings = TrainSettings(corpus=corpus, out="", variant=variant, model=sizes, **more)
    return TranslationTask(settings.resolved())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("variant", "cell", "loss"),
    [
        ("plain", "gru", LossSettings(label_smoothing=0.1, count_padding=True)),
        ("all", "gru", LossSettings(label_smoothing=0.1, sampled_words=20)),
        ("all", "lstm", LossSettings()),
    ],
)
def test_no_loss_waits_for_a_gpu(
    variant: Variant,
    cell: str,
    precision: str,
    loss: LossSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cudnn = Cudnn()
    monkeypatch.setattr(recurrent, f"_{cell}", cudnn)
    monkeypatch.setattr(task, "draw_coins", lambda *_: None)
    monkeypatch.setattr(model, "stretches", lambda _: [(0, 3), (3, 4), (4, 6)])
    training = translation_task(variant, loss=loss)
    reduced = precision == "bfloat16"
    with fake_cuda(), torch.autocast("cuda", torch.bfloat16, enabled=reduced):
        with torch.device("cuda"):
            made = build(variant, cell=cell, dropout=RATES)
            ids, target = (torch.zeros(3, steps, dtype=torch.long) for steps in (5, 6))
        batch = Batch(SourceBatch(ids, torch.zeros(3)), target, 12, 18)
        result = training.loss(made.train(), batch, 0.0)
        assert result.loss.is_cuda
        assert result.tokens == (18 if loss.count_padding else 12)
        losses, words = metrics._own_steps(made.eval(), batch)
        assert losses.shape == words.shape == (6, 3)
        assert metrics._forced_sums(made, batch).is_cuda
    assert cudnn.types == {torch.bfloat16 if reduced else torch.float32}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("side", "variant", "cell"),
    [("source", "all", "gru"), ("source", "plain", "lstm"), ("target", "all", "gru")],
)
def test_no_loss_of_a_language_model_waits_for_a_gpu(
    side: Literal["source", "target"],
    variant: Variant,
    cell: Literal["gru", "lstm"],
    precision: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cudnn = Cudnn()
    monkeypatch.setattr(recurrent, f"_{cell}", cudnn)
    sizes = ModelSettings(embedding_size=12, hidden_size=10, dropout=RATES, cell=cell)
    given = {"corpus": "", "out": "", "side": side, "variant": variant, "model": sizes}
    training = LanguageTask(PretrainSettings.model_validate(given).resolved())
    reduced = precision == "bfloat16"
    made: EncoderLanguageModel | DecoderLanguageModel
    with fake_cuda(), torch.autocast("cuda", torch.bfloat16, enabled=reduced):
        with torch.device("cuda"):
            kind = EncoderLanguageModel if side == "source" else DecoderLanguageModel
            made = kind(training.settings.model, 40)
            ids = torch.zeros(3, 5, dtype=torch.long)
        batch = Batch(SourceBatch(ids, torch.zeros(3)), ids, 12, 15, own_words=12)
        result = training.loss(made.train(), batch, 0.0)
        assert result.loss.is_cuda
        assert result.tokens == (9 if side == "source" else 12)


def test_a_penalty_is_the_same_on_a_gpu() -> None:
    torch.manual_seed(0)
    values, real = torch.randn(5, 4, 3), torch.rand(5, 4) < 0.7
    exact = mean_square(values, real, pack=True)
    torch.testing.assert_close(mean_square(values, real, pack=False), exact)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "corpus"
    return write_corpus(folder, generate_pairs(300, 1), generate_pairs(5, 2))


def _train(training: TranslationTask, graphs: Graphs | None, epoch: float) -> list[Tensor]:
    """Weights and losses after two passes over a few batches."""
    step = TrainingStep(training, OptimizerSettings(), "float32", 1, Workers())
    if graphs is not None:
        step.graphs = graphs
    steps: list[StepLoss] = []
    for number, batch in enumerate(list(training.batches(0, 0, Workers()))[:3] * 3):
        steps.append(step.step(batch, number, epoch, 1e-2, 0.9))
    losses = [value for loss in steps for value in (loss.loss, loss.total)]
    return [*losses, torch.tensor([loss.tokens for loss in steps]), *step.model.parameters()]


def test_batches_that_are_made_ahead_are_the_same(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order; without a GPU there is no memory to pin."""
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda ids: pinned.append(ids) or ids.clone())
    training = translation_task("all", str(corpus), batches={"size": 16})
    plan = training._plans.of(0)
    make = partial(make_batch, training.train)
    made = make_batches(plan, make, torch.device("cpu"), ahead=True)
    for ours, theirs in zip(made, training.batches(0, 0, Workers()), strict=True):
        assert torch.equal(ours.target, theirs.target)
        assert torch.equal(ours.source.ids, theirs.source.ids)
        assert ours.target_words == theirs.target_words
    assert len(pinned) == 2 * len(plan)


@pytest.mark.parametrize("variant", ["plain", "all"])
def test_validation_that_does_not_look_for_the_end_loses_the_same(
    variant: Variant, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = translation_task(variant, str(corpus))
    made = training.build_model().eval()
    assert isinstance(made, model.Seq2Seq)
    with torch.no_grad():
        made.decoder.projection.bias[PAD] += 2
    batch = make_batch(training.valid, np.arange(5))
    expected = metrics.validation_losses(made, batch)
    whole = partial(metrics._own_steps, whole=True)
    with torch.no_grad():
        left_out = (metrics._own_steps(made, batch)[0] == 0).all(1)
        assert left_out.any()
        assert (whole(made, batch)[0] > 0).all()
    monkeypatch.setattr(metrics, "_own_steps", whole)
    assert metrics.validation_losses(made, batch) == expected


@pytest.mark.parametrize("epoch", [0.0, 5.0])
def test_recorded_steps_train_to_the_same_weights(corpus: Path, epoch: float) -> None:
    """Where the decoder is fed its own words, steps differ from batch to batch and run as ever."""
    training = translation_task("all", str(corpus))
    graphs, replays = record()
    recorded = _train(training, graphs, epoch)
    assert (replays() > 0) == (epoch == 0)
    for ours, theirs in zip(recorded, _train(training, None, epoch), strict=True):
        assert torch.equal(ours, theirs)


def test_batches_of_few_shapes_lose_the_same(corpus: Path) -> None:
    training = translation_task("all", str(corpus))
    rows = training._plans.of(0)[0]
    made = training.build_model().eval()
    plain = make_batch(training.train, rows)
    wide = make_batch(training.train, rows, multiple=8)
    assert wide.target.shape[1] % 8 == wide.source.ids.shape[1] % 8 == 0
    assert replace(wide, source=plain.source, target=plain.target) == plain
    expected, actual = (training.loss(made, batch, 0.0) for batch in (plain, wide))
    torch.testing.assert_close(actual.loss, expected.loss)
    assert actual.tokens == expected.tokens

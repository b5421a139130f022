"""What a translator's training does on a GPU: it never waits for one, and records its steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqvis.graphs import Graphs
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq import model, recurrent
from seqvis.seq2seq.losses import mean_square
from seqvis.seq2seq.settings import DropoutSettings, ModelSettings, Variant
from seqvis.seq2seq.state import SourceBatch
from seqvis.training.schedules import OptimizerSettings
from seqvis.training.step import StepLoss, TrainingStep
from seqvis.training.workers import Workers
from seqvis.translation import metrics, task
from seqvis.translation.batches import Batch
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
    ("variant", "cell", "count_padding"),
    [("plain", "gru", True), ("all", "gru", False), ("all", "lstm", False)],
)
def test_no_loss_waits_for_a_gpu(
    variant: Variant,
    cell: str,
    precision: str,
    count_padding: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cudnn = Cudnn()
    monkeypatch.setattr(recurrent, f"_{cell}", cudnn)
    monkeypatch.setattr(task, "draw_coins", lambda *_: None)
    monkeypatch.setattr(model, "stretches", lambda _: [(0, 3), (3, 4), (4, 6)])
    loss = LossSettings(label_smoothing=0.1, count_padding=count_padding)
    training = translation_task(variant, loss=loss)
    reduced = precision == "bfloat16"
    with fake_cuda(), torch.autocast("cuda", torch.bfloat16, enabled=reduced):
        with torch.device("cuda"):
            made = build(variant, cell=cell, dropout=RATES)
            ids, target = (torch.zeros(3, steps, dtype=torch.long) for steps in (5, 6))
        batch = Batch(SourceBatch(ids, torch.zeros(3)), target, 12, 18)
        result = training.loss(made.train(), batch, 0.0)
        assert result.loss.is_cuda
        assert result.tokens == (18 if count_padding else 12)
        losses, words = metrics._own_steps(made.eval(), batch)
        assert losses.shape == words.shape == (6, 3)
        assert metrics._forced_sums(made, batch).is_cuda
    assert cudnn.types == {torch.bfloat16 if reduced else torch.float32}


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
    plain = task.make_batch(training.train, rows)
    wide = task.make_batch(training.train, rows, multiple=8)
    assert wide.target.shape[1] % 8 == wide.source.ids.shape[1] % 8 == 0
    assert replace(wide, source=plain.source, target=plain.target) == plain
    expected, actual = (training.loss(made, batch, 0.0) for batch in (plain, wide))
    torch.testing.assert_close(actual.loss, expected.loss)
    assert actual.tokens == expected.tokens

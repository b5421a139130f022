"""The sequence-to-sequence model: its variants, padding, forcing, and the lesson's formulas."""

import pytest
import torch

from seqvis.seq2seq.dropout import mask_like
from seqvis.seq2seq.model import Seq2Seq, draw_coins, stretches
from seqvis.seq2seq.settings import (
    DropoutSettings,
    ForcingSettings,
    ModelSettings,
    forcing_probability,
    resolve_variant,
)
from seqvis.seq2seq.state import SourceBatch, pad_ids
from seqvis.translation.batches import Batch
from seqvis.translation.metrics import validation_losses
from tests.support.lesson import lesson_forward, lesson_loss

SOURCE_WORDS, TARGET_WORDS = 40, 30


def build(variant: str = "all", **options: object) -> Seq2Seq:
    torch.manual_seed(0)
    sizes = {"embedding_size": 12, "hidden_size": 10}
    settings, _ = resolve_variant(variant, ModelSettings(**sizes | options), ForcingSettings())  # type: ignore[arg-type]
    return Seq2Seq(settings, SOURCE_WORDS, TARGET_WORDS)


def sentences(*lengths: int, words: int = SOURCE_WORDS) -> list[list[int]]:
    generator = torch.Generator().manual_seed(sum(lengths))
    return [[*torch.randint(4, words, (n - 1,), generator=generator).tolist(), 2] for n in lengths]


@pytest.mark.parametrize(
    ("variant", "directions", "attends", "schedule"),
    [
        ("plain", 1, False, "constant"),
        ("bidir", 2, False, "constant"),
        ("force", 1, False, "linear"),
        ("attn", 1, True, "linear"),
        ("all", 2, True, "linear"),
    ],
)
def test_each_variant_is_what_the_lesson_describes(
    variant: str, directions: int, attends: bool, schedule: str
) -> None:
    settings, forcing = resolve_variant(variant, ModelSettings(), ForcingSettings())  # type: ignore[arg-type]
    model = Seq2Seq(settings, 100, 90)
    assert [len(layer) for layer in model.encoder.layers] == [directions] * 2  # type: ignore[arg-type]
    assert model.encoder.output_size == 256 * directions
    assert (model.decoder.attention is not None) == attends
    assert model.decoder.projection.weight is model.decoder.embedding.weight
    assert model.decoder.embedding.weight.shape == (90, 300)
    assert forcing.schedule == schedule
    assert forcing_probability(forcing, 0) == (1 if schedule == "linear" else 0)


def test_only_the_first_layer_may_be_bidirectional() -> None:
    model = build("all", bidirectional="first", layers=3, decoder_layers=2)
    assert [len(layer) for layer in model.encoder.layers] == [2, 1, 1]  # type: ignore[arg-type]
    source = SourceBatch.of(sentences(5, 3))
    state = model.encode(source)
    assert state.hidden.shape == (2, 2, 12)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("variant", ["plain", "bidir", "attn", "all"])
def test_padding_and_neighbours_change_nothing(variant: str, cell: str) -> None:
    model = build(variant, cell=cell).eval()
    texts = sentences(3, 9, 6)
    target, _ = pad_ids(sentences(5, 5, 5, words=TARGET_WORDS))
    forced = torch.ones(5, dtype=torch.bool)
    source = SourceBatch.of(texts)
    together = model(source, target, forced)
    for row, text in enumerate(texts):
        alone = model(SourceBatch.of([text]), target[row : row + 1], forced)
        torch.testing.assert_close(together.features[:, row], alone.features[:, 0])
        if together.attention is not None and alone.attention is not None:
            assert (together.attention[:, row, len(text) :] == 0).all()
            torch.testing.assert_close(
                together.attention[:, row, : len(text)], alone.attention[:, 0]
            )


@pytest.mark.parametrize(("variant", "cell"), [("force", "gru"), ("all", "gru"), ("all", "lstm")])
def test_running_in_stretches_equals_one_step_at_a_time(variant: str, cell: str) -> None:
    model = build(variant, cell=cell).eval()
    source = SourceBatch.of(sentences(4, 7))
    target, _ = pad_ids(sentences(8, 8, words=TARGET_WORDS))
    coins = torch.tensor([True, True, False, True, True, False, False, True])
    assert stretches(coins) == [(0, 2), (2, 5), (5, 6), (6, 8)]
    features = model(source, target, coins).features
    state = model.encode(source)
    word = torch.zeros(2, dtype=torch.long)
    for step in range(8):
        if step and coins[step]:
            word = target[:, step - 1]
        output, state = model.decoder.run(word.unsqueeze(0), state)
        torch.testing.assert_close(features[step], output.features[0])
        word = model.decoder.projection(output.features[0]).argmax(-1)


@pytest.mark.parametrize("bias_of_padding", [-5.0, 60.0])
def test_the_losses_of_plain_are_the_seeds(bias_of_padding: float) -> None:
    """With a large bias the model predicts `_pad_` at once and the lesson's loop breaks early."""
    model = build("plain").eval()
    with torch.no_grad():
        model.decoder.projection.bias[1] = bias_of_padding
    for length in (3, 6, 11):
        text, target = sentences(length), sentences(length + 2, words=TARGET_WORDS)
        padded = torch.tensor([target[0] + [1] * 4])  # as in a batch with a longer sentence
        source = SourceBatch.of(text)
        sums = validation_losses(model, Batch(source, padded, length + 2, padded.numel()))
        logits = lesson_forward(model, text, padded.shape[1])
        means = sums.means()
        expected = float(lesson_loss(logits, padded.t()))
        assert means["loss_with_padding"] == pytest.approx(expected, rel=1e-5)
        without = float(lesson_loss(logits, padded.t(), ignore_index=1))
        assert means["loss"] == pytest.approx(without, rel=1e-5)


@pytest.mark.usefixtures("either_way")
def test_attentions_entropy_is_measured_by_that_of_even_attention() -> None:
    source = SourceBatch.of(sentences(7, 2, 12))
    target, lengths = pad_ids(sentences(5, 9, 3, words=TARGET_WORDS))
    batch = Batch(source, target, int(lengths.sum()), target.numel())
    model = build("all").eval()
    assert model.decoder.attention is not None
    scores = model.decoder.attention.score_weight
    entropies = {}
    for sharpness in (0.0, 5.0, 1000.0):
        with torch.no_grad():
            scores.fill_(sharpness)
        sums = validation_losses(model, batch)
        entropies[sharpness] = sums.means()["attention_entropy"]
        assert bool(sums.warnings()) == (sharpness == 0)
    assert entropies[0.0] == pytest.approx(1.0, abs=1e-5)
    assert 0 <= entropies[1000.0] < entropies[5.0] < 0.95
    plain = validation_losses(build("plain").eval(), batch)
    assert "attention_entropy" not in plain.means()
    assert plain.warnings() == []


def test_dropout_drops_the_share_it_says_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    mask = mask_like(torch.empty(1000, 999), 0.3)
    assert float((mask == 0).float().mean()) == pytest.approx(0.3, abs=0.003)
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.005)


def test_awd_regularisation_acts_in_training_only() -> None:
    rates = DropoutSettings(
        input=0.5, embedding=0.2, weight=0.5, decoder_input=0.5, variational=True
    )
    model = build("all", dropout=rates)
    source = SourceBatch.of(sentences(5, 6))
    target, _ = pad_ids(sentences(6, 6, words=TARGET_WORDS))
    forced = torch.ones(6, dtype=torch.bool)
    first = model.train()(source, target, forced).features
    second = model(source, target, forced).features
    assert not torch.equal(first, second)
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    calm = build("all").eval()
    calm.load_state_dict(model.state_dict())
    features = model.eval()(source, target, forced).features
    torch.testing.assert_close(features, calm(source, target, forced).features)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [1.0, 0.7, 0.5, 0.0, 0.0]), ("constant", [1.0] * 5)],
)
def test_linear_and_constant_schedules_at_known_epochs(
    schedule: str, expected: list[float]
) -> None:
    settings = ForcingSettings(schedule=schedule)  # type: ignore[arg-type]
    probabilities = [forcing_probability(settings, epoch) for epoch in (0, 3, 5, 10, 12)]
    assert probabilities == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["exponential", "inverse_sigmoid"])
def test_curved_schedules_fall_from_start_towards_end(schedule: str) -> None:
    settings = ForcingSettings(schedule=schedule, start=0.9, end=0.2)  # type: ignore[arg-type]
    values = [forcing_probability(settings, epoch / 2) for epoch in range(60)]
    assert values[0] == pytest.approx(0.9)
    assert values == sorted(values, reverse=True)
    assert 0.2 <= values[-1] < 0.21
    middle = forcing_probability(settings, 5.0)
    assert (middle > 0.5) == (schedule == "inverse_sigmoid")  # one stays high, one falls at once


def test_coins_fall_as_often_as_they_should_and_never_on_the_first_step() -> None:
    coins = draw_coins(20000, 0.25, torch.Generator().manual_seed(0))
    assert coins[0]
    assert float(coins.float().mean()) == pytest.approx(0.25, abs=0.01)

"""The fused cross-entropy against PyTorch's, and a decoder's own words against a plain loop."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq import losses
from seqvis.seq2seq.dropout import mask_like
from seqvis.seq2seq.losses import (
    ProjectedCrossEntropy,
    SequenceLoss,
    sample_words,
)
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import DropoutSettings, ForcingSettings, ModelSettings, resolve_variant
from seqvis.seq2seq.state import SourceBatch, pad_ids
from seqvis.text.vocabulary import BOS, PAD


def _cross_entropy(
    outputs: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    sums = ProjectedCrossEntropy(weight, bias, smoothing)
    sums.add(outputs.detach(), targets)
    return sums.of(outputs)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_pytorchs_over_several_chunks(smoothing: float) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(600, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    bias = torch.randn(50, requires_grad=True)
    targets = torch.randint(50, (600,))
    loss, plain = _cross_entropy(outputs, weight, bias, targets, smoothing)
    gradients = torch.autograd.grad(loss * 0.5, [outputs, weight, bias])
    scores = outputs @ weight.t() + bias
    expected_loss = functional.cross_entropy(
        scores, targets, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(
        plain, functional.cross_entropy(scores, targets, reduction="sum"), rtol=1e-5, atol=1e-3
    )
    expected = torch.autograd.grad(expected_loss * 0.5, [outputs, weight, bias])
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("at_once", [256, 4096], ids=["as on a CPU", "as on a GPU"])
def test_tokens_given_in_uneven_parts_give_the_same(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than are kept at once, in parts that are no multiples of the rows multiplied."""
    monkeypatch.setattr(losses, "_TOKENS_AT_ONCE", at_once)
    torch.manual_seed(1)
    outputs = torch.randn(12_000, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    bias = torch.randn(50, requires_grad=True)
    targets = torch.randint(50, (12_000,))
    parts = [3, 700, 256, 1, 10_500, 540]
    sums, words, begin = ProjectedCrossEntropy(weight, bias, 0.1), [], 0
    for rows in parts:
        end = begin + rows
        words.append(sums.add(outputs[begin:end].detach(), targets[begin:end]))
        begin = end
    loss, _ = sums.of(outputs)
    gradients = torch.autograd.grad(loss, [outputs, weight, bias])
    scores = outputs @ weight.t() + bias
    expected = functional.cross_entropy(scores, targets, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-3)
    wanted = torch.autograd.grad(expected, [outputs, weight, bias])
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-3)
    assert torch.equal(torch.cat(words), scores.argmax(1))


@pytest.mark.usefixtures("either_way")
def test_bfloat16_gives_nearly_the_same() -> None:
    torch.manual_seed(2)
    outputs, weight, bias = torch.randn(300, 16), torch.randn(50, 16), torch.randn(50)
    given = [tensor.requires_grad_() for tensor in (outputs, weight, bias)]
    targets = torch.randint(50, (300,))
    exact, _ = _cross_entropy(outputs, weight, bias, targets, 0.1)
    wanted = torch.autograd.grad(exact, given)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = _cross_entropy(outputs, weight, bias, targets, 0.1)
    gradients = torch.autograd.grad(loss, given)
    assert loss.item() == pytest.approx(exact.item(), rel=0.01)
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert float((gradient - reference).norm()) < 0.02 * float(reference.norm())


@pytest.mark.usefixtures("either_way")
def test_scores_that_are_not_numbers_give_words_and_no_loss() -> None:
    outputs, weight = torch.full((3, 8), torch.nan), torch.randn(20, 8)
    sums = ProjectedCrossEntropy(weight, torch.zeros(20), 0.1)
    words = sums.add(outputs, torch.tensor([4, 5, 6]))
    assert ((words >= 0) & (words < 20)).all()
    assert sums.of(outputs)[0].isnan()


@pytest.mark.parametrize("pack", [True, False], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("variant", ["plain", "all"])
@pytest.mark.parametrize("count_padding", [False, True])
def test_a_decoder_that_feeds_on_its_own_words_learns_as_in_a_plain_loop(
    variant: str, count_padding: bool, pack: bool
) -> None:
    """Same words, loss and gradients, with dropout everywhere, if each step is run once, with
    gradients, and scored by PyTorch."""
    torch.manual_seed(3)
    rates = DropoutSettings(input=0.2, decoder_input=0.2, encoder=0.2, decoder=0.3, output=0.3)
    sizes = ModelSettings(embedding_size=12, hidden_size=10, dropout=rates)
    settings, _ = resolve_variant(variant, sizes, ForcingSettings())  # type: ignore[arg-type]
    model = Seq2Seq(settings, 40, 30).train()
    source = SourceBatch.of([[5, 6, 2], [7, 8, 9, 10, 2], [11, 12, 13, 2]])
    target, _ = pad_ids([[5, 6, 7, 2], [7, 8, 2], [9, 10, 11, 12, 13, 2]])
    by_step = target.t()
    counted = torch.ones_like(by_step, dtype=torch.bool) if count_padding else by_step != PAD
    coins = torch.tensor([True, False, True, True, False, False])
    projection = model.decoder.projection
    mask = mask_like(torch.empty(6, 3, 12), rates.output)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def plain() -> Tensor:
        torch.manual_seed(4)
        state = model.encode(source)
        masks = model.decoder.draw_masks(3, 6)
        words, total = torch.full((3,), BOS), torch.zeros(())
        for step in range(6):
            output, state = model.decoder.run(words.unsqueeze(0), state, masks.at(step))
            scores = projection(output.features[0] * mask[step])
            losses = functional.cross_entropy(
                scores, by_step[step], reduction="none", label_smoothing=0.1
            )
            total = total + losses[counted[step]].sum()
            words = by_step[step] if step < 5 and coins[step + 1] else scores.argmax(1)
        return total

    expected = plain()
    wanted = torch.autograd.grad(expected, parameters)
    torch.manual_seed(4)
    weight, bias = projection.weight, projection.bias
    sums = SequenceLoss(weight, bias, by_step, counted, mask, 0.1, pack=pack)
    loss, _, _ = sums.of(model(source, target, coins, sums.choose).features)
    torch.testing.assert_close(loss, expected)
    gradients = torch.autograd.grad(loss, parameters)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


def test_sampled_words_are_scored_as_those_words_alone() -> None:
    """Loss, gradients and the words that are fed back, beside PyTorch on these words."""
    torch.manual_seed(0)
    projection = nn.Linear(8, 50)
    outputs = torch.randn(3, 4, 8, requires_grad=True)
    targets = torch.randint(4, 50, (3, 4))
    counted = torch.ones(3, 4, dtype=torch.bool)
    torch.manual_seed(5)
    words, correction = sample_words(targets, 50, 20)
    assert len(words) == 20
    assert set(targets.flatten().tolist()) <= set(words.tolist())
    assert words.tolist() == sorted(words.tolist())
    own = len(set(targets.flatten().tolist()))
    assert correction.max().item() == pytest.approx(math.log((50 - own) / (20 - own)))
    assert int((correction == 0).sum()) == own

    scores = (outputs @ projection.weight.t() + projection.bias)[..., words] + correction
    right = torch.searchsorted(words, targets)
    wanted = functional.cross_entropy(scores.flatten(0, 1), right.flatten(), reduction="sum")
    parameters = [outputs, projection.weight, projection.bias]
    gradients = torch.autograd.grad(wanted, parameters)
    torch.manual_seed(5)
    sums = SequenceLoss(projection.weight, projection.bias, targets, counted, sampled=20)
    fed = sums.choose(outputs[:2].detach())
    assert torch.equal(fed, words[scores[1].argmax(-1)])
    loss, _, _ = sums.of(outputs)
    torch.testing.assert_close(loss, wanted)
    for gradient, reference in zip(torch.autograd.grad(loss, parameters), gradients, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-5)


def test_the_expected_sum_over_sampled_words_is_that_over_all() -> None:
    torch.manual_seed(0)
    scores, targets = torch.randn(300).double(), torch.arange(4, 24)
    sums = []
    for _ in range(2000):
        words, correction = sample_words(targets, 300, 60)
        sums.append(float((scores[words] + correction).exp().sum()))
    assert sum(sums) / len(sums) == pytest.approx(float(scores.exp().sum()), rel=0.01)


@pytest.mark.parametrize("count", [0, 5, 50, 99])
def test_few_or_all_words_are_no_special_case(count: int) -> None:
    """With fewer than the batch has, its own are scored; with as many as there are, all."""
    projection = nn.Linear(8, 50)
    targets = torch.randint(4, 50, (3, 4))
    counted = torch.ones_like(targets) > 0
    sums = SequenceLoss(projection.weight, projection.bias, targets, counted, sampled=count)
    loss, plain, _ = sums.of(torch.randn(3, 4, 8))
    assert torch.isfinite(loss)
    assert 0 < float(plain) < 12 * math.log(50) * 2


@pytest.mark.parametrize(("different", "words"), [(12, 12), (5, 12), (20, 20)])
def test_all_words_of_a_batch_are_drawn_however_few_are_wanted(different: int, words: int) -> None:
    """And the others stand for all that were not drawn, if there are any."""
    targets = torch.arange(max(different, 12)) % different
    drawn, correction = sample_words(targets, 20, 2)
    assert len(drawn) == words
    assert set(range(different)) <= set(drawn.tolist())
    other = math.log((20 - different) / (words - different)) if words > different else 0.0
    expected = [0.0 if word < different else other for word in drawn.tolist()]
    assert correction.tolist() == pytest.approx(expected)

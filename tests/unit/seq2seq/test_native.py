"""A whole model learns the same with the C++ extension as without it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seqvis.native import is_native, library
from seqvis.seq2seq.losses import SequenceLoss
from seqvis.seq2seq.settings import DropoutSettings, Variant
from seqvis.seq2seq.state import SourceBatch, pad_ids
from seqvis.text.vocabulary import PAD
from tests.support.models import build, sources

pytestmark = pytest.mark.skipif(
    not is_native("float32"), reason="seqvis/native was not built, or is switched off: make native"
)
DROPOUT = DropoutSettings(embedding=0.1, weight=0.1, decoder_input=0.1)
COINS = torch.tensor([True, True, False, True, True, True])
LENGTHS = [1 + number * 7 % 9 for number in range(70)]  # more rows than a thread takes alone


def learn(variant: Variant, options: dict[str, Any], kind: torch.dtype) -> list[Tensor]:
    """Return the loss and all gradients."""
    model = build(variant, **{"dropout": DROPOUT} | options).train()
    source = SourceBatch.of(sources(*LENGTHS))
    target, _ = pad_ids([[word % 26 + 4 for word in ids[:6]] for ids in sources(*LENGTHS[::-1])])
    by_step = target.t()
    torch.manual_seed(1)
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        projection = model.decoder.projection
        losses = SequenceLoss(
            projection.weight, projection.bias, by_step, by_step != PAD, smoothing=0.1
        )
        loss, _, _ = losses.of(model(source, target, COINS, losses.choose).features)
    gradients = torch.autograd.grad(loss / len(LENGTHS), list(model.parameters()))
    return [loss.detach(), *gradients]


@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("bidir", {"dropout": DropoutSettings(variational=True)}),
        ("attn", {"attention_activation": "relu", "tie_output": False}),
        ("all", {"bidirectional": "first", "layers": 3, "decoder_layers": 2, "decoder_size": 20}),
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_pytorchs(
    variant: Variant, options: dict[str, Any], kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 they are nearer to float32's, since sums are not rounded to bfloat16."""
    if not is_native(str(kind).removeprefix("torch.")):
        pytest.skip("this processor has no bfloat16 products")
    learned = learn(variant, options, kind)
    monkeypatch.setenv("SEQVIS_NATIVE", "0")
    for tensor, reference in zip(learned, learn(variant, options, torch.float32), strict=True):
        error = float((tensor - reference).norm() / reference.norm())
        assert error < (1e-5 if kind == torch.float32 else 0.05)


def test_threads_change_nothing() -> None:
    """Each has a share of the rows; only the order of sums differs."""
    alone = learn("all", {}, torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = learn("all", {}, torch.float32)
    finally:
        torch.set_num_threads(threads)
    for tensor, reference in zip(together, alone, strict=True):
        torch.testing.assert_close(tensor, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("word", [-1, 20])
def test_a_target_that_is_no_word_is_refused(word: int) -> None:
    scores, losses = torch.randn(3, 20), torch.empty(0, 20)
    right = torch.tensor([4, word, 5])
    with pytest.raises(IndexError, match=f"no such word: {word}"):
        library.cross_entropy(scores, torch.zeros(20), right, 0.0, losses, torch.zeros(20))

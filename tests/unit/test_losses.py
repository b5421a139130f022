"""The fused cross-entropy against PyTorch's."""

import pytest
import torch
from torch.nn import functional

from seqvis.translation.losses import projected_cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_equal_pytorchs_over_several_chunks(smoothing: float) -> None:
    torch.manual_seed(0)
    outputs = torch.randn(600, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    bias = torch.randn(50, requires_grad=True)
    targets = torch.randint(50, (600,))
    loss, plain = projected_cross_entropy(outputs, weight, bias, targets, smoothing)
    found = torch.autograd.grad(loss * 0.5, [outputs, weight, bias])
    scores = outputs @ weight.t() + bias
    expected_loss = functional.cross_entropy(
        scores, targets, reduction="sum", label_smoothing=smoothing
    )
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(
        plain, functional.cross_entropy(scores, targets, reduction="sum"), rtol=1e-5, atol=1e-3
    )
    expected = torch.autograd.grad(expected_loss * 0.5, [outputs, weight, bias])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

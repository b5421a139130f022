"""The training loss: cross-entropy over the vocabulary, projected and differentiated in one go.

The scores of all words for all tokens of a batch are its largest tensor by far (1,700 tokens and
6,000 words: 40 MB in float32). They are never kept: a few hundred tokens at a time are
projected, scored and turned into gradients while they are in the cache.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from seqvis.translation.gru import product_type

_TOKENS_AT_ONCE = 256
_NEGLIGIBLE = 1e-14  # probability whose gradient float32 sums would not show


def projected_cross_entropy(
    outputs: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Sum over tokens of the cross-entropy of `softmax(outputs @ weight.T + bias)`.

    Args:
        outputs: (tokens, size). weight: (words, size). bias: (words,). targets: (tokens,) ids.
        smoothing: label smoothing (Szegedy et al. 2016), as in `torch.nn.functional`.

    Returns:
        The smoothed sum, with gradients, and the plain sum (negative log-likelihood in nats)
        without.
    """
    product = product_type(outputs)
    return _ProjectedCrossEntropy.apply(
        outputs.to(product), weight.to(product), bias, targets, smoothing
    )


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        words = weight.shape[0]
        of_outputs = torch.empty_like(outputs)
        of_weight = torch.zeros_like(weight, dtype=torch.float32)
        of_bias = torch.zeros_like(bias)
        plain = outputs.new_zeros((), dtype=torch.float32)
        smooth = outputs.new_zeros((), dtype=torch.float32)
        transposed = weight.t()
        for begin in range(0, len(outputs), _TOKENS_AT_ONCE):
            chunk = outputs[begin : begin + _TOKENS_AT_ONCE]
            right = targets[begin : begin + _TOKENS_AT_ONCE].unsqueeze(1)
            scores = (chunk @ transposed).float().add_(bias)
            logarithms = torch.log_softmax(scores, -1)
            plain -= logarithms.gather(1, right).sum()
            if smoothing:
                smooth -= logarithms.mean(-1).sum()
            # Products with numbers below float32's normal range are many times slower.
            gradient = functional.threshold(logarithms.exp_(), _NEGLIGIBLE, 0.0, inplace=True)
            if smoothing:
                gradient -= smoothing / words
            gradient.scatter_add_(
                1, right, torch.full_like(right, smoothing - 1, dtype=torch.float32)
            )
            of_bias += gradient.sum(0)
            gradient = gradient.to(weight.dtype)
            torch.mm(gradient, weight, out=of_outputs[begin : begin + _TOKENS_AT_ONCE])
            of_weight += gradient.t() @ chunk
        ctx.save_for_backward(of_outputs, of_weight.to(weight.dtype), of_bias)
        ctx.mark_non_differentiable(plain)
        return (1 - smoothing) * plain + smoothing * smooth, plain

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        of_outputs, of_weight, of_bias = ctx.saved_tensors
        scale = gradients[0]
        return of_outputs * scale, of_weight * scale, of_bias * scale, None, None

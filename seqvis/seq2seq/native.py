"""The loops of training in the C++ extension, as autograd functions, and the products around them.

Each loop keeps the gates of all its steps, so that a weight's gradient is one matrix product over
all steps, where autograd would add up one small product a step. PyTorch makes these products.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seqvis.native import is_native, library


def product_type(like: Tensor) -> torch.dtype:
    """Return the type in which matrix products run here: autocast's, or float32."""
    device = like.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.float32


def native_precision(like: Tensor) -> "library.Precision | None":
    """Return the precision in which the extension computes here, None if PyTorch must."""
    name = str(product_type(like)).removeprefix("torch.")
    if like.device.type != "cpu" or not is_native(name):
        return None
    precision: library.Precision = getattr(library.Precision, name)
    return precision


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return left (rows, inner) @ right (inner, columns).

    For float32 PyTorch would use MKL, which on AMD's processors is slower than oneDNN, by up to a
    half where `left` is transposed (docs/results/speed.md). `right` or its transpose must be
    contiguous: oneDNN is a thousand times slower with rows that are a part of longer ones.
    """
    if left.dtype != torch.float32 or left.is_cuda or not torch.backends.mkldnn.is_available():
        return left @ right
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.t(), None, "none", [], "")
    return product


def run_directions_natively(
    precision: "library.Precision",
    inputs: Tensor,
    hidden: Tensor,
    lengths: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Do what `run_directions` does: pack the words that are no padding, longest sentences first,
    so that those of a step stand together."""
    steps, batch, _ = inputs.shape
    words, hidden = inputs.float().flatten(0, 1), hidden.float()
    if lengths is None:
        states, last = _GRULoop.apply(precision, [batch] * steps, words, hidden, *weights)
        return states.view(steps, batch, -1), last
    order = lengths.argsort(descending=True, stable=True)
    real = torch.arange(steps)[:, None] < lengths[order]  # (steps, batch)
    places = (torch.arange(steps)[:, None] * batch + order)[real]
    rows = real.sum(1).tolist()
    packed, last = _GRULoop.apply(
        precision, rows, words.index_select(0, places), hidden[:, order], *weights
    )
    states = packed.new_zeros(steps * batch, packed.shape[1]).index_copy(0, places, packed)
    return states.view(steps, batch, -1), torch.empty_like(last).index_copy(0, order, last)


class _GRULoop(torch.autograd.Function):
    """What `library.run_gru` returns first."""

    @staticmethod
    def forward(
        ctx: Any,
        precision: "library.Precision",
        rows: list[int],
        words: Tensor,
        hidden: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        words, hidden = words.contiguous(), hidden.contiguous()
        states, last, *kept = library.run_gru(words, hidden, rows, weights, precision)
        ctx.save_for_backward(words, *weights, *kept)
        ctx.precision, ctx.rows, ctx.product = precision, rows, product_type(words)
        return states, last

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        words, *rest = ctx.saved_tensors
        count = 4 * (len(rest) // 6)
        weights, kept = rest[:count], rest[count:]
        of_states, of_last = (gradient.contiguous() for gradient in gradients)
        of_words, of_hidden, *of_gates = library.run_gru_backward(
            of_states, of_last, ctx.rows, weights, kept, ctx.precision
        )
        of_weights = [
            gradient
            for own, before in zip(of_gates, kept[::2], strict=True)
            for gradient in layer_gradients(own, words, before, ctx.product)
        ]
        return None, None, of_words, of_hidden, *of_weights


class AttendingLoop(torch.autograd.Function):
    """The attending decoder over known words; see `attend_and_step`."""

    @staticmethod
    def forward(
        ctx: Any,
        precision: "library.Precision",
        rectify: bool,
        lengths: Tensor,
        masks: list[Tensor],
        embedded: Tensor,
        hidden: Tensor,
        keys: Tensor,
        values: Tensor,
        query_weight: Tensor,
        query_bias: Tensor,
        scorer: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attention = library.Attention(
            keys, values, lengths, query_weight, query_bias, scorer, rectify
        )
        results = library.run_attending(embedded, hidden, attention, masks, weights, precision)
        states, mixed, attended, _, _ = results
        ctx.save_for_backward(*results, *weights)
        ctx.attention, ctx.masks, ctx.precision = attention, masks, precision
        ctx.product = product_type(embedded)
        ctx.mark_non_differentiable(attended)
        return states[-1, 1:], mixed, attended, states[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        results, weights = ctx.saved_tensors[:5], ctx.saved_tensors[5:]
        states, mixed, attended, _, _ = results
        of_states, of_mixed, _, of_last = (gradient.contiguous() for gradient in gradients)
        of_context, of_hidden, of_keys, of_scorer, of_queries, *of_gates = (
            library.run_attending_backward(
                of_states, of_mixed, of_last, ctx.attention, ctx.masks, weights, results,
                ctx.precision,
            )
        )  # fmt: skip
        of_weights = []
        for depth, own in enumerate(of_gates):
            inputs = states[depth - 1, 1:] if depth else mixed
            if depth and ctx.masks:
                inputs = inputs * ctx.masks[depth - 1]
            before = states[depth, :-1].flatten(0, 1)
            of_weights += layer_gradients(own, inputs.flatten(0, 1), before, ctx.product)
        return (
            None,
            None,
            None,
            None,
            of_context,
            of_hidden,
            of_keys,
            torch.bmm(attended.permute(1, 2, 0), of_context.transpose(0, 1)),
            multiply(
                of_queries.flatten(0, 1).to(ctx.product).t(),
                states[-1, :-1].flatten(0, 1).to(ctx.product).contiguous(),
            ),
            of_queries.sum((0, 1)),
            of_scorer.sum(0),
            *of_weights,
        )


def layer_gradients(
    of_gates: Tensor, inputs: Tensor, before: Tensor, product: torch.dtype
) -> list[Tensor]:
    """Return the gradients of weight_ih, weight_hh, bias_ih and bias_hh.

    Args:
        of_gates: (words, 4 * hidden_size), as the extension returns them.
        inputs: (words, input_size).
        before: (words, hidden_size), the states before these words.
        product: the type of the products.
    """
    size = before.shape[1]
    of_biases = of_gates.sum(0)
    gates = of_gates.to(product).t()
    inputs, before = (part.to(product).contiguous() for part in (inputs, before))
    return [
        multiply(gates[: 3 * size], inputs).roll(-size, 0),
        multiply(gates[size:], before),
        of_biases[: 3 * size].roll(-size),
        of_biases[size:],
    ]

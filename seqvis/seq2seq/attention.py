"""Additive attention over the encoder's states (Bahdanau et al. 2015, section A.1.2).

The previous hidden state gives each source word a weight; the weighted sum of the source's values
is the context vector, which joins the previous word on its way through the recurrent layers.

In training all steps of the attending decoder are one autograd function: the extension's
(`seqvis/native/training.cpp`), or `_AttendingSteps` on a GPU, for LSTMs, and where it was not
built. Autograd would record some thirty small operations and add to every weight gradient in each
step; here each weight gradient is one matrix product over all steps. The backward pass recomputes
the activations of the attention network: keeping them would take memory in proportion to the
product of both lengths.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqvis.seq2seq.native import AttendingLoop, native_precision, product_type
from seqvis.seq2seq.recurrent import RecurrentLayer, tanh_
from seqvis.seq2seq.state import Memory


class AdditiveAttention(nn.Module):
    """The parameters of the lesson's attention network: V . activation(keys + l2(hidden))."""

    def __init__(self, state_size: int, query_size: int, size: int, activation: str):
        super().__init__()
        # The scale is the lesson's: a standard deviation of one over the root of the rows.
        self.key_weight = nn.Parameter(torch.randn(state_size, size) / math.sqrt(state_size))
        self.query = nn.Linear(query_size, size)
        self.score_weight = nn.Parameter(torch.randn(size) / math.sqrt(size))
        self.rectify = activation == "relu"


def attention_weights(
    memory: Memory,
    query: Tensor,
    score_weight: Tensor,
    rectify: bool,
    activation: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Return the weight of each source word (rows, source); padding gets the weight zero.

    Args:
        query: (rows, 1, attention), made of the hidden states.
        score_weight: (attention,).
        rectify: ReLU in the attention network, instead of tanh.
        activation: (rows, source, attention), memory to work in.
        out: (rows, source), memory for the result.
    """
    activation = _activate(memory.keys, query, rectify, activation)
    rows, source, size = activation.shape
    scores = (activation.view(-1, size) @ score_weight).view(rows, source)
    return torch.softmax(scores + memory.mask, -1, out=out)


def attend_and_step(
    embedded: Tensor,
    hidden: Tensor,
    memory: Memory,
    attention: AdditiveAttention,
    layers: Sequence[tuple[RecurrentLayer, Tensor]],
    masks: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run the decoder over known words.

    Args:
        embedded: (steps, batch, input_size), the words' share of the first layer's input.
        hidden: (layers, batch, state_size), float32: the states before the first word.
        memory: its values have the size of the first layer's input.
        layers: with the recurrent weights to use.
        masks: dropout masks before the second, third … layer, (steps or 1, batch, size) each;
            empty where nothing is dropped.

    Returns:
        The last layer's states (steps, batch, size); the first layer's inputs (steps, batch,
        input_size); attention weights (steps, batch, source); all layers' last states.
    """
    cell = type(layers[0][0])
    precision = native_precision(embedded) if cell.in_extension else None
    if precision is not None:
        parts = [part for layer, weight in layers for part in layer.weights(weight)]
        given = (embedded, hidden, memory.keys, memory.values)
        return AttendingLoop.apply(
            precision,
            attention.rectify,
            (memory.mask == 0).sum(1),
            [mask.float() for mask in masks],
            *(tensor.float().contiguous() for tensor in given),
            attention.query.weight,
            attention.query.bias,
            attention.score_weight,
            *parts,
        )
    product = product_type(embedded)
    weights = []
    for layer, weight_hh in layers:
        weights += [layer.weight_ih.to(product), weight_hh.to(product)]
        weights += [layer.bias_ih, layer.bias_hh]
    return _AttendingSteps.apply(
        cell,
        embedded,
        hidden,
        memory.keys,
        memory.values,
        memory.mask,
        attention.query.weight.to(product),
        attention.query.bias,
        attention.score_weight,
        attention.rectify,
        masks,
        *weights,
    )


class _AttendingSteps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        cell: type[RecurrentLayer],
        embedded: Tensor,
        hidden: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        query_weight: Tensor,
        query_bias: Tensor,
        score_weight: Tensor,
        rectify: bool,
        masks: list[Tensor],
        *flat: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        steps, batch, width = embedded.shape
        count, _, state_size = hidden.shape
        size = state_size // cell.state_parts
        source = keys.shape[1]
        product = query_weight.dtype
        states = hidden.new_empty(count, steps + 1, batch, state_size)
        states[:, 0] = hidden
        kept = hidden.new_empty(count, steps, batch, 4 * size)
        mixed = hidden.new_empty(steps, batch, width)
        attention = hidden.new_empty(steps, batch, source)
        queries = keys.new_empty(steps, batch, 1, keys.shape[2])
        activation = torch.empty_like(keys)  # of one step: all steps' would outgrow the cache
        memory = Memory(keys, values, mask)
        scorer = score_weight.to(keys.dtype)
        layers = [
            (flat[i].t(), flat[i + 1].t(), flat[i + 2], flat[i + 3]) for i in range(0, len(flat), 4)
        ]
        for step in range(steps):
            queries[step, :, 0] = (
                states[-1, step, :, :size].to(product) @ query_weight.t() + query_bias
            )
            attention_weights(
                memory, queries[step], scorer, rectify, activation, out=attention[step]
            )
            context = torch.bmm(attention[step].to(values.dtype).unsqueeze(1), values)
            torch.add(embedded[step], context.squeeze(1), out=mixed[step])
            features = mixed[step]
            for depth, (input_t, hidden_t, bias_ih, bias_hh) in enumerate(layers):
                if depth and masks:
                    features = features * _at(masks[depth - 1], step)
                before = states[depth, step]
                from_input = (features.to(product) @ input_t).float().add_(bias_ih)
                from_hidden = (before[:, :size].to(product) @ hidden_t).float().add_(bias_hh)
                after = cell.step(from_input, from_hidden, before, kept[depth, step])
                states[depth, step + 1] = after
                features = after[:, :size]
        ctx.save_for_backward(
            keys, values, query_weight, scorer, states, kept, mixed, attention, queries, *flat
        )
        ctx.cell, ctx.masks, ctx.rectify = cell, masks, rectify
        ctx.types = (embedded.dtype, score_weight.dtype)
        ctx.mark_non_differentiable(attention)
        return states[-1, 1:, :, :size], mixed, attention, states[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        from_states, from_mixed, _, from_last = gradients
        keys, values, query_weight, scorer, states, kept, mixed, attention, queries, *flat = (
            ctx.saved_tensors
        )
        count, steps, batch, four_size = kept.shape
        size = four_size // 4
        product = query_weight.dtype
        gates = len(flat[0])
        of_input = kept.new_empty(count, steps, batch, gates)
        of_hidden = kept.new_empty(count, steps, batch, gates)
        of_context = torch.empty_like(mixed)
        of_query = kept.new_empty(steps, batch, keys.shape[2])
        of_keys = torch.zeros(keys.shape, dtype=torch.float32, device=keys.device)
        of_scorer = torch.zeros(scorer.shape, dtype=torch.float32, device=keys.device)
        activation = torch.empty_like(keys)
        gradient = list(from_last.float().clone().unbind(0))
        for step in range(steps - 1, -1, -1):
            gradient[-1][:, :size] += from_states[step]
            for depth in range(count - 1, -1, -1):
                weight_ih, weight_hh = flat[4 * depth], flat[4 * depth + 1]
                inputs, recurrent = of_input[depth, step], of_hidden[depth, step]
                gradient[depth] = ctx.cell.step_backward(
                    gradient[depth], states[depth, step], kept[depth, step], inputs, recurrent
                )
                gradient[depth][:, :size] += recurrent.to(product) @ weight_hh
                below = inputs.to(product) @ weight_ih
                if depth and ctx.masks:
                    below = below * _at(ctx.masks[depth - 1], step)
                if depth:
                    gradient[depth - 1][:, :size] += below
            torch.add(from_mixed[step], below, out=of_context[step])
            weight = attention[step]
            of_sum = of_context[step].to(values.dtype).unsqueeze(2)
            of_weight = torch.bmm(values, of_sum).squeeze(2).float()
            of_scores = weight * (of_weight - (weight * of_weight).sum(-1, keepdim=True))
            _activate(keys, queries[step], ctx.rectify, activation)
            of_scores = of_scores.to(activation.dtype)
            of_scorer += of_scores.view(-1) @ activation.view(-1, activation.shape[-1])
            # Times `scorer`, by which the sums are multiplied: over words here, over steps below.
            slope = _activation_gradient(of_scores.unsqueeze(-1), activation, ctx.rectify)
            of_keys += slope
            torch.mul(torch.sum(slope, 1, dtype=torch.float32), scorer, out=of_query[step])
            gradient[-1][:, :size] += of_query[step].to(product) @ query_weight
        of_keys *= scorer
        of_values = torch.bmm(
            attention.permute(1, 2, 0).to(values.dtype), of_context.transpose(0, 1).to(values.dtype)
        )
        seen = states[..., :size]
        of_query_weight = _weight_gradient(of_query, seen[-1, :-1], product)
        of_layers: list[Tensor] = []
        for depth in range(count):
            inputs = mixed if depth == 0 else seen[depth - 1, 1:]
            if depth and ctx.masks:
                inputs = inputs * ctx.masks[depth - 1]
            of_layers += [
                _weight_gradient(of_input[depth], inputs, product),
                _weight_gradient(of_hidden[depth], seen[depth, :-1], product),
                of_input[depth].sum((0, 1)),
                of_hidden[depth].sum((0, 1)),
            ]
        return (
            None,
            of_context.to(ctx.types[0]),
            torch.stack(gradient),
            of_keys.to(keys.dtype),
            of_values,
            None,
            of_query_weight,
            of_query.sum((0, 1)),
            of_scorer.to(ctx.types[1]),
            None,
            None,
            *of_layers,
        )


def _activate(keys: Tensor, query: Tensor, rectify: bool, out: Tensor | None) -> Tensor:
    """Return the activation (batch, source, size) of keys + query (batch, 1, size)."""
    activation = torch.add(keys, query, out=out)
    return activation.relu_() if rectify else tanh_(activation)


def _activation_gradient(gradient: Tensor, activation: Tensor, rectify: bool) -> Tensor:
    """Return `gradient`, which may be broadcast, times the slope at `activation`, in one pass."""
    if rectify:
        return torch.ops.aten.threshold_backward(gradient, activation, 0)
    return torch.ops.aten.tanh_backward(gradient, activation)


def _at(mask: Tensor, step: int) -> Tensor:
    return mask[step if len(mask) > 1 else 0]


def _weight_gradient(outputs: Tensor, inputs: Tensor, product: torch.dtype) -> Tensor:
    """Return the sum over steps and batch of outer products, (outputs' size, inputs' size)."""
    flat_outputs = outputs.reshape(-1, outputs.shape[-1]).to(product)
    return flat_outputs.t() @ inputs.reshape(-1, inputs.shape[-1]).to(product)

"""A gated recurrent unit layer that skips padding, with a backward pass written for CPUs.

A padded step leaves the hidden state as it was, so that in either direction a sentence's states do
not depend on how much padding its batch has.

In training on a CPU the layer is a hand-written autograd function. It keeps the gates of all steps
and computes each weight gradient as one matrix product over all steps, where autograd would add up
one small product per step. Where no gradient is needed, PyTorch's own GRU runs instead. On a GPU
cuDNN's does, both directions in one call.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


def tanh_(values: Tensor) -> Tensor:
    """Replace numbers of any floating type by their hyperbolic tangent.

    On a CPU NumPy computes it, in 0.4 ns a number where PyTorch takes 3.4 (1.9 in bfloat16, which
    NumPy does not know).
    """
    if values.is_cuda:
        return values.tanh_()
    known = values.dtype in (torch.float32, torch.float64)
    exact = values.detach() if known else values.detach().float()
    array = exact.numpy()
    np.tanh(array, out=array)
    return values if known else values.copy_(exact)


class GRULayer(nn.Module):
    """One direction of one GRU layer (Cho et al. 2014, in cuDNN's form, as `torch.nn.GRU`)."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.empty(3 * hidden_size))
        bound = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        lengths: Tensor | None = None,
        reverse: bool = False,
        weight_hh: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the layer over a whole sequence.

        Args:
            inputs: (time, batch, input_size).
            hidden: (batch, hidden_size), the state before the first step.
            lengths: (batch,), real steps of each sequence; None if there is no padding.
            reverse: from the last real step to the first.
            weight_hh: recurrent weights to use instead of the layer's own (weight drop).

        Returns:
            States after each step (time, batch, hidden_size), and the last real state
            (batch, hidden_size). States at padded steps repeat a neighbour's.
        """
        weight = self.weight_hh if weight_hh is None else weight_hh
        if inputs.is_cuda and not reverse:
            return run_in_one_call([self], [weight], inputs, hidden.unsqueeze(0), lengths)
        if _only_forward(inputs):
            return self._run_whole(inputs, hidden, lengths, reverse, weight)
        gates = functional.linear(inputs, self.weight_ih, self.bias_ih)
        mask = None
        if lengths is not None and int(lengths.min()) < inputs.shape[0]:
            steps = torch.arange(inputs.shape[0], device=inputs.device)
            mask = (steps[:, None] < lengths[None, :]).unsqueeze(-1)  # (time, batch, 1)
        weight = weight.to(product_type(inputs))
        states, last = _RecurrentSteps.apply(gates, hidden, weight, self.bias_hh, mask, reverse)
        return states, last

    def _run_whole(
        self, inputs: Tensor, hidden: Tensor, lengths: Tensor | None, reverse: bool, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        if reverse:
            inputs = _reverse_sequences(inputs, lengths)
        parameters = [self.weight_ih, weight, self.bias_ih, self.bias_hh]
        # It gets no mask: padding comes last, so no real step sees it.
        states, (last,) = _gru(inputs, hidden.unsqueeze(0).to(inputs.dtype), parameters, False)
        if lengths is not None:
            rows = torch.arange(inputs.shape[1], device=inputs.device)
            last = states[lengths - 1, rows]
        if reverse:
            states = _reverse_sequences(states, lengths)
        return states, last


def run_directions(
    layers: Sequence[GRULayer], weights: Sequence[Tensor], inputs: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Run a layer forwards and, if there is a second one, that one backwards, from zeros.

    Args:
        layers, weights: one for each direction, with the recurrent weights to use.
        inputs: (time, batch, input_size).
        lengths: (batch,), where the inputs are.

    Returns:
        States of all directions side by side (time, batch, size), and the last real ones
        (batch, size).
    """
    batch, size = inputs.shape[1], layers[0].hidden_size
    if inputs.is_cuda:
        start = inputs.new_zeros(len(layers), batch, size)
        return run_in_one_call(layers, weights, inputs, start, lengths)
    start = inputs.new_zeros(batch, size)
    runs = [
        layer(inputs, start, lengths, bool(reverse), weight)
        for reverse, (layer, weight) in enumerate(zip(layers, weights, strict=True))
    ]
    states, lasts = zip(*runs, strict=True)
    return torch.cat(states, -1), torch.cat(lasts, -1)


_KEEP = 1e4  # an update gate that is given this keeps the state: its sigmoid is exactly 1


def run_in_one_call(
    layers: Sequence[GRULayer],
    weights: Sequence[Tensor],
    inputs: Tensor,
    hidden: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Do on a GPU what `run_directions` does, from the states `hidden` (directions, batch, size).

    The inputs get one more feature, which is 1 at padded steps and there makes each update gate
    keep the state. So sentences need neither be sorted nor reversed, and shapes do not depend on
    their lengths. Everything is in autocast's type: left to itself, autocast would run cuDNN in
    float16, whose gradients vanish without scaling.
    """
    kind = product_type(inputs)
    inputs_weights: list[Tensor] = [layer.weight_ih for layer in layers]
    if lengths is not None:
        steps, batch, features = inputs.shape
        columns = 8 - features % 8  # so many that products are of multiples of 8
        size = layers[0].hidden_size
        marks = inputs.new_zeros(steps, batch, columns)
        marks[..., 0] = torch.arange(steps, device=inputs.device)[:, None] >= lengths
        keep = layers[0].weight_ih.new_zeros(3 * size, columns)
        keep[size : 2 * size, 0] = _KEEP
        inputs = torch.cat([inputs, marks], -1)
        inputs_weights = [torch.cat([weight, keep], 1) for weight in inputs_weights]
    # cuDNN's order, all matrices before all biases: it takes them as they lie there.
    parts = [part for pair in zip(inputs_weights, weights, strict=True) for part in pair]
    parts += [bias for layer in layers for bias in (layer.bias_ih, layer.bias_hh)]
    flat = torch.cat([part.reshape(-1) for part in parts]).to(kind)
    own = [
        piece.view(part.shape)
        for piece, part in zip(flat.split([part.numel() for part in parts]), parts, strict=True)
    ]
    both, twice = len(layers) == 2, 2 * len(layers)
    parameters = [own[n + m] for n in range(0, twice, 2) for m in (0, 1, twice, twice + 1)]
    with (
        torch.autocast(inputs.device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
    ):
        states, last = _gru(inputs.to(kind), hidden.to(kind), parameters, both)
    return states, last.transpose(0, 1).flatten(1)


def _gru(
    inputs: Tensor, hidden: Tensor, parameters: list[Tensor], both: bool
) -> tuple[Tensor, Tensor]:
    """Return states and last states of PyTorch's GRU."""
    training = torch.is_grad_enabled()  # then cuDNN keeps what the backward pass needs
    return torch.gru(inputs, hidden, parameters, True, 1, 0.0, training, both, False)


def _only_forward(inputs: Tensor) -> bool:
    """Return whether there will be no backward pass, and all is float32."""
    return not torch.is_grad_enabled() and product_type(inputs) == inputs.dtype == torch.float32


def product_type(like: Tensor) -> torch.dtype:
    """Return the type in which matrix products run here: autocast's, or float32."""
    device = like.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.float32


def gru_step(
    from_input: Tensor, from_hidden: Tensor, hidden: Tensor, kept: Tensor | None = None
) -> Tensor:
    """Compute one step of a GRU.

    Args:
        from_input, from_hidden: (batch, 3 * hidden_size), the halves of the gates (reset,
            update, new) with their biases.
        hidden: (batch, hidden_size).
        kept: (batch, 4 * hidden_size) of any content; receives what the backward pass needs.

    Returns:
        The next hidden state (batch, hidden_size).
    """
    size = hidden.shape[-1]
    both = new = None
    new_hidden = from_hidden[:, 2 * size :]
    if kept is not None:
        both, new = kept[:, : 2 * size], kept[:, 2 * size : 3 * size]
        kept[:, 3 * size :] = new_hidden
    both = torch.add(from_input[:, : 2 * size], from_hidden[:, : 2 * size], out=both).sigmoid_()
    reset, update = both[:, :size], both[:, size:]
    new = torch.addcmul(from_input[:, 2 * size :].float(), reset, new_hidden, out=new)
    return torch.lerp(tanh_(new), hidden, update)


def gru_step_backward(
    gradient: Tensor, hidden: Tensor, kept: Tensor, of_input: Tensor, of_hidden: Tensor
) -> Tensor:
    """Compute the gradients of `gru_step`.

    Fills `of_input` and `of_hidden` (batch, 3 * hidden_size) with those of the two halves of the
    gates, and returns the direct part of the gradient of `hidden`.
    """
    size = hidden.shape[-1]
    reset, update, new, new_hidden = kept.chunk(4, -1)
    of_new = of_input[:, 2 * size :]
    torch.mul(gradient, 1 - update, out=of_new).mul_(1 - new * new)
    of_update = of_input[:, size : 2 * size]
    torch.sub(hidden, new, out=of_update).mul_(gradient).mul_(update * (1 - update))
    of_reset = of_input[:, :size]
    torch.mul(of_new, new_hidden, out=of_reset).mul_(reset * (1 - reset))
    of_hidden[:, : 2 * size] = of_input[:, : 2 * size]
    torch.mul(of_new, reset, out=of_hidden[:, 2 * size :])
    return gradient * update


class _RecurrentSteps(torch.autograd.Function):
    """All steps of one GRU layer, given the input's half of the gates."""

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,  # (time, batch, 3 * hidden_size), any float type
        hidden: Tensor,  # (batch, hidden_size)
        weight: Tensor,  # (3 * hidden_size, hidden_size); products run in its type
        bias: Tensor,  # (3 * hidden_size,)
        mask: Tensor | None,  # (time, batch, 1) bool, None if nothing is padded
        reverse: bool,
    ) -> tuple[Tensor, Tensor]:
        steps, batch, _ = gates.shape
        size = weight.shape[1]
        states = gates.new_empty(steps, batch, size, dtype=torch.float32)
        kept = gates.new_empty(steps, batch, 4 * size, dtype=torch.float32)
        transposed = weight.t()
        state = hidden.float()
        for step in range(steps - 1, -1, -1) if reverse else range(steps):
            from_hidden = (state.to(weight.dtype) @ transposed).float().add_(bias)
            following = gru_step(gates[step], from_hidden, state, kept[step])
            if mask is not None:
                following = torch.where(mask[step], following, state)
            states[step] = following
            state = following
        ctx.save_for_backward(hidden, weight, states, kept, mask)
        ctx.reverse = reverse
        ctx.gates_type = gates.dtype
        return states, state

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        from_states, from_last = gradients
        hidden, weight, states, kept, mask = ctx.saved_tensors
        hidden = hidden.float()
        steps, batch, size = states.shape
        of_input = states.new_empty(steps, batch, 3 * size)
        of_hidden = states.new_empty(steps, batch, 3 * size)
        gradient = from_last.float()
        for step in range(steps) if ctx.reverse else range(steps - 1, -1, -1):
            before = step + 1 if ctx.reverse else step - 1
            previous = states[before] if 0 <= before < steps else hidden
            gradient = gradient + from_states[step]
            passed = None
            if mask is not None:
                passed = gradient.masked_fill(mask[step], 0.0)
                gradient = gradient.masked_fill(~mask[step], 0.0)
            direct = gru_step_backward(
                gradient, previous, kept[step], of_input[step], of_hidden[step]
            )
            gradient = direct.add_(of_hidden[step].to(weight.dtype) @ weight)
            if passed is not None:
                gradient.add_(passed)
        if ctx.reverse:
            previous_states = torch.cat([states[1:], hidden.unsqueeze(0)])
        else:
            previous_states = torch.cat([hidden.unsqueeze(0), states[:-1]])
        flat = of_hidden.view(-1, 3 * size)
        of_weight = flat.to(weight.dtype).t() @ previous_states.view(-1, size).to(weight.dtype)
        return of_input.to(ctx.gates_type), gradient, of_weight, flat.sum(0), None, None


def _reverse_sequences(sequences: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse the real steps of each sequence (time, batch, features); padding stays in place."""
    if lengths is None:
        return sequences.flip(0)
    steps = torch.arange(sequences.shape[0], device=sequences.device)[:, None]
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (time, batch)
    return sequences.gather(0, index.unsqueeze(-1).expand_as(sequences))

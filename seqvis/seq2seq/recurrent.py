"""Recurrent layers that skip padding: gated recurrent units and long short-term memory.

A padded step leaves the state as it was, so that in either direction a sentence's states do not
depend on how much padding its batch has.

On a CPU the loop over a GRU's steps is the extension's (`seqvis/native/training.cpp`). Without it,
and for an LSTM, PyTorch's own runs, and on a GPU cuDNN's, both directions in one call.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from seqvis.seq2seq.native import native_precision, product_type, run_directions_natively


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


_KEEP = 1e4  # a gate that is given this is open or shut: its sigmoid is exactly 1 or, if less, 0


class RecurrentLayer(nn.Module):
    """One direction of one layer, with weights in cuDNN's form.

    The first `hidden_size` numbers of its state are what other layers see; an LSTM's cell comes
    after them.
    """

    keeping: ClassVar[tuple[float, ...]]
    """For each gate, what must be added to it for the state to stay as it was."""
    state_parts: ClassVar[int]
    """The size of a state as a multiple of `hidden_size`."""
    in_extension: ClassVar[bool] = False
    """Whether the C++ extension knows it."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.state_size = self.state_parts * hidden_size
        gates = len(self.keeping) * hidden_size
        self.weight_ih = nn.Parameter(torch.empty(gates, input_size))
        self.weight_hh = nn.Parameter(torch.empty(gates, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(gates))
        self.bias_hh = nn.Parameter(torch.empty(gates))
        bound = 1 / math.sqrt(hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def weights(self, weight_hh: Tensor) -> list[Tensor]:
        """Return the weights in the order in which loops over steps take them, with the recurrent
        ones to use."""
        return [self.weight_ih, weight_hh, self.bias_ih, self.bias_hh]

    @staticmethod
    def step(
        from_input: Tensor, from_hidden: Tensor, state: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        """Compute one step.

        Args:
            from_input, from_hidden: (batch, gates * hidden_size), the halves of the gates with
                their biases.
            state: (batch, state_size).
            kept: (batch, 4 * hidden_size) of any content; receives what the backward pass needs.

        Returns:
            The next state (batch, state_size).
        """
        raise NotImplementedError

    @staticmethod
    def step_backward(
        gradient: Tensor, state: Tensor, kept: Tensor, of_input: Tensor, of_hidden: Tensor
    ) -> Tensor:
        """Compute the gradients of `step`.

        Fills `of_input` and `of_hidden` (batch, gates * hidden_size) with those of the two halves
        of the gates, and returns the direct part of the gradient of `state`.
        """
        raise NotImplementedError


class GRULayer(RecurrentLayer):
    """A gated recurrent unit (Cho et al. 2014), as `torch.nn.GRU`: reset, update and new gate."""

    keeping = (0.0, _KEEP, 0.0)
    state_parts = 1
    in_extension = True

    @staticmethod
    def step(
        from_input: Tensor, from_hidden: Tensor, state: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        size = state.shape[-1]
        both = new = None
        new_hidden = from_hidden[:, 2 * size :]
        if kept is not None:
            both, new = kept[:, : 2 * size], kept[:, 2 * size : 3 * size]
            kept[:, 3 * size :] = new_hidden
        both = torch.add(from_input[:, : 2 * size], from_hidden[:, : 2 * size], out=both).sigmoid_()
        reset, update = both[:, :size], both[:, size:]
        new = torch.addcmul(from_input[:, 2 * size :].float(), reset, new_hidden, out=new)
        return torch.lerp(tanh_(new), state, update)

    @staticmethod
    def step_backward(
        gradient: Tensor, state: Tensor, kept: Tensor, of_input: Tensor, of_hidden: Tensor
    ) -> Tensor:
        size = state.shape[-1]
        reset, update, new, new_hidden = kept.chunk(4, -1)
        of_new = of_input[:, 2 * size :]
        torch.mul(gradient, 1 - update, out=of_new).mul_(1 - new * new)
        of_update = of_input[:, size : 2 * size]
        torch.sub(state, new, out=of_update).mul_(gradient).mul_(update * (1 - update))
        of_reset = of_input[:, :size]
        torch.mul(of_new, new_hidden, out=of_reset).mul_(reset * (1 - reset))
        of_hidden[:, : 2 * size] = of_input[:, : 2 * size]
        torch.mul(of_new, reset, out=of_hidden[:, 2 * size :])
        return gradient * update


class LSTMLayer(RecurrentLayer):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with a forget gate), as
    `torch.nn.LSTM`: input, forget, new and output gate."""

    keeping = (-_KEEP, _KEEP, 0.0, 0.0)
    state_parts = 2

    @staticmethod
    def step(
        from_input: Tensor, from_hidden: Tensor, state: Tensor, kept: Tensor | None = None
    ) -> Tensor:
        gates = torch.add(from_input, from_hidden, out=kept)
        enter, forget, new, leave = gates.chunk(4, -1)
        for gate in (enter, forget, leave):
            gate.sigmoid_()
        following = torch.empty_like(state)
        hidden, cell = following.chunk(2, -1)
        torch.mul(forget, state.chunk(2, -1)[1], out=cell).addcmul_(enter, tanh_(new))
        hidden.copy_(cell)
        tanh_(hidden).mul_(leave)
        return following

    @staticmethod
    def step_backward(
        gradient: Tensor, state: Tensor, kept: Tensor, of_input: Tensor, of_hidden: Tensor
    ) -> Tensor:
        enter, forget, new, leave = kept.chunk(4, -1)
        before = state.chunk(2, -1)[1]
        seen = tanh_(torch.addcmul(forget * before, enter, new))
        from_hidden, from_cell = gradient.chunk(2, -1)
        of_cell = torch.addcmul(from_cell, from_hidden * leave, 1 - seen * seen)
        of_enter, of_forget, of_new, of_leave = of_input.chunk(4, -1)
        torch.mul(of_cell, new, out=of_enter).mul_(enter * (1 - enter))
        torch.mul(of_cell, before, out=of_forget).mul_(forget * (1 - forget))
        torch.mul(of_cell, enter, out=of_new).mul_(1 - new * new)
        torch.mul(from_hidden, seen, out=of_leave).mul_(leave * (1 - leave))
        of_hidden.copy_(of_input)
        return torch.cat([torch.zeros_like(of_cell), of_cell * forget], -1)


LAYERS: dict[str, type[RecurrentLayer]] = {"gru": GRULayer, "lstm": LSTMLayer}
"""By the name of the cell in the settings."""


def run_directions(
    layers: Sequence[RecurrentLayer],
    weights: Sequence[Tensor],
    inputs: Tensor,
    before: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a layer forwards and, if there is a second one, that one backwards.

    Args:
        layers, weights: one for each direction, with the recurrent weights to use.
        inputs: (time, batch, input_size).
        before: (directions, batch, state_size), the states before the first step; with padding, an
            LSTM's must be zero.
        lengths: (batch,), real steps of each sequence, where the inputs are; None if there is no
            padding.

    Returns:
        What other layers see of the states of all directions, side by side (time, batch,
        hidden_size each), of any content at padded steps, and the last real states (batch,
        state_size each).
    """
    precision = native_precision(inputs) if layers[0].in_extension else None
    if precision is None:
        return run_in_one_call(layers, weights, inputs, before, lengths)
    pairs = zip(layers, weights, strict=True)
    parts = [part for layer, weight in pairs for part in layer.weights(weight)]
    return run_directions_natively(precision, inputs, before, lengths, parts)


def run_in_one_call(
    layers: Sequence[RecurrentLayer],
    weights: Sequence[Tensor],
    inputs: Tensor,
    before: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Do what `run_directions` does by PyTorch's own layers, on a GPU cuDNN's.

    The inputs get one more feature, which is 1 at padded steps and there makes the gates keep a
    GRU's state and an LSTM's cell. So sentences need neither be sorted nor reversed, and shapes do
    not depend on their lengths. Everything is in autocast's type: left to itself, autocast would
    run cuDNN in float16, whose gradients vanish without scaling.
    """
    kind = product_type(inputs)
    inputs_weights: list[Tensor] = [layer.weight_ih for layer in layers]
    if lengths is not None:
        steps, batch, features = inputs.shape
        columns = 8 - features % 8  # so many that products are of multiples of 8
        size = layers[0].hidden_size
        marks = inputs.new_zeros(steps, batch, columns)
        marks[..., 0] = torch.arange(steps, device=inputs.device)[:, None] >= lengths
        keep = layers[0].weight_ih.new_zeros(len(layers[0].weight_ih), columns)
        for gate, added in enumerate(layers[0].keeping):
            keep[gate * size : (gate + 1) * size, 0] = added
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
        call = _lstm if isinstance(layers[0], LSTMLayer) else _gru
        states, last = call(inputs.to(kind), before.to(kind), parameters, both)
    if lengths is not None and isinstance(layers[0], LSTMLayer):
        # Padded steps have hidden states of their own, of which only the last may be real.
        ends = (lengths - 1).clamp(min=0), torch.arange(batch, device=lengths.device)
        last[0, :, :size] = states[ends][:, :size]
    return states, last.transpose(0, 1).flatten(1)


def _gru(
    inputs: Tensor, before: Tensor, parameters: list[Tensor], both: bool
) -> tuple[Tensor, Tensor]:
    """Return states and last states of PyTorch's GRU."""
    training = torch.is_grad_enabled()  # then cuDNN keeps what the backward pass needs
    return torch.gru(inputs, before, parameters, True, 1, 0.0, training, both, False)


def _lstm(
    inputs: Tensor, before: Tensor, parameters: list[Tensor], both: bool
) -> tuple[Tensor, Tensor]:
    """Return hidden states and last states of PyTorch's LSTM."""
    training = torch.is_grad_enabled()
    given = [part.contiguous() for part in before.chunk(2, -1)]
    states, *last = torch.lstm(inputs, given, parameters, True, 1, 0.0, training, both, False)
    return states, torch.cat(last, -1)

"""A gated recurrent unit layer that skips padding.

A padded step leaves the hidden state as it was, so that in either direction a sentence's states do
not depend on how much padding its batch has.

On a CPU the loop over the steps is the extension's (`seqvis/native/training.cpp`). Without it
PyTorch's own GRU runs, and on a GPU cuDNN's, both directions in one call.
"""

import math
from collections.abc import Sequence

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

    def weights(self, weight_hh: Tensor) -> list[Tensor]:
        """Return what the extension takes of a layer, with the recurrent weights to use."""
        return [self.weight_ih, weight_hh, self.bias_ih, self.bias_hh]


def run_directions(
    layers: Sequence[GRULayer],
    weights: Sequence[Tensor],
    inputs: Tensor,
    hidden: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run a layer forwards and, if there is a second one, that one backwards.

    Args:
        layers, weights: one for each direction, with the recurrent weights to use.
        inputs: (time, batch, input_size).
        hidden: (directions, batch, hidden_size), the states before the first step.
        lengths: (batch,), real steps of each sequence, where the inputs are; None if there is no
            padding.

    Returns:
        States of all directions side by side (time, batch, size), of any content at padded steps,
        and the last real ones (batch, size).
    """
    precision = native_precision(inputs)
    if precision is None:
        return run_in_one_call(layers, weights, inputs, hidden, lengths)
    pairs = zip(layers, weights, strict=True)
    parts = [part for layer, weight in pairs for part in layer.weights(weight)]
    return run_directions_natively(precision, inputs, hidden, lengths, parts)


_KEEP = 1e4  # an update gate that is given this keeps the state: its sigmoid is exactly 1


def run_in_one_call(
    layers: Sequence[GRULayer],
    weights: Sequence[Tensor],
    inputs: Tensor,
    hidden: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Do what `run_directions` does by PyTorch's own GRU, on a GPU cuDNN's.

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

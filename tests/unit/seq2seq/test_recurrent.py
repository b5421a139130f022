"""The recurrent steps, in C++ and without, and the tangent against plain PyTorch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seqvis.seq2seq.attention import AdditiveAttention, attend_and_step
from seqvis.seq2seq.recurrent import LAYERS, RecurrentLayer, run_directions, tanh_
from seqvis.seq2seq.state import Memory

CELLS = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


def _as_torch(layers: list[RecurrentLayer], cell: str) -> torch.nn.GRU | torch.nn.LSTM:
    """PyTorch's own layer with the layers' weights, one for each direction."""
    sizes = layers[0].input_size, layers[0].hidden_size
    made = CELLS[cell](*sizes, bidirectional=len(layers) == 2)
    for layer, suffix in zip(layers, ("", "_reverse"), strict=False):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(made, f"{name}_l0{suffix}", getattr(layer, name))
    return made


def _parts(state: Tensor, cell: str) -> Any:
    """A state as PyTorch's own layers take it: an LSTM's hidden state and cell apart."""
    return state if cell == "gru" else tuple(part.contiguous() for part in state.chunk(2, -1))


def _whole(state: Any) -> Tensor:
    return state if isinstance(state, Tensor) else torch.cat(state, -1)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_layer_equals_pytorchs_on_each_sentence_alone(
    directions: int, padded: bool, cell: str
) -> None:
    torch.manual_seed(0)
    layers = [LAYERS[cell](5, 18) for _ in range(directions)]
    size = layers[0].state_size
    lengths = torch.tensor([4, 1, 6] if padded else [6, 6, 6])
    inputs = torch.randn(6, 3, 5, requires_grad=True)
    before = torch.randn(directions, 3, size)
    if padded and cell == "lstm":
        before.zero_()
    before.requires_grad_(not padded or cell == "gru")
    leaves = [inputs, *(parameter for layer in layers for parameter in layer.parameters())]
    leaves += [before] if before.requires_grad else []
    recurrent = [layer.weight_hh for layer in layers]
    of_states, of_last = torch.randn(6, 3, 18 * directions), torch.randn(3, size * directions)

    given = lengths if padded else None
    states, last = run_directions(layers, recurrent, inputs, before, given)
    real = (torch.arange(6)[:, None] < lengths).unsqueeze(-1)
    total = (states * of_states * real).sum() + (last * of_last).sum()
    gradients = torch.autograd.grad(total, leaves)

    plain, total = _as_torch(layers, cell), torch.zeros(())
    for row, length in enumerate(lengths.tolist()):
        output, after = plain(inputs[:length, row], _parts(before[:, row], cell))
        end = _whole(after).flatten()
        torch.testing.assert_close(states[:length, row], output)
        torch.testing.assert_close(last[row], end)
        total = total + (output * of_states[:length, row]).sum() + (end * of_last[row]).sum()
    expected = torch.autograd.grad(total, leaves)
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, atol=1e-5, rtol=1e-4)


def _attend_in_plain_pytorch(
    embedded: Tensor,
    hidden: Tensor,
    memory: Memory,
    attention: AdditiveAttention,
    layers: list[tuple[RecurrentLayer, Tensor]],
    masks: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    cell = "gru" if layers[0][0].state_parts == 1 else "lstm"
    run = torch.gru_cell if cell == "gru" else torch.lstm_cell
    state = list(hidden)
    states, mixes, attentions = [], [], []
    for step in range(len(embedded)):
        seen = state[-1][:, : layers[-1][0].hidden_size]
        pre = memory.keys + attention.query(seen)[:, None]
        activation = torch.relu(pre) if attention.rectify else torch.tanh(pre)
        weights = torch.softmax(activation @ attention.score_weight + memory.mask, -1)
        mixed = embedded[step] + (weights[:, :, None] * memory.values).sum(1)
        features = mixed
        for depth, (layer, weight) in enumerate(layers):
            if depth:
                features = features * masks[depth - 1][step]
            biases = (layer.bias_ih, layer.bias_hh)
            before = _parts(state[depth], cell)
            state[depth] = _whole(run(features, before, layer.weight_ih, weight, *biases))
            features = state[depth][:, : layer.hidden_size]
        states.append(features)
        mixes.append(mixed)
        attentions.append(weights)
    return torch.stack(states), torch.stack(mixes), torch.stack(attentions), torch.stack(state)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(
    ("cell", "activation"), [("gru", "tanh"), ("gru", "relu"), ("lstm", "tanh")]
)
def test_the_attending_decoder_equals_autograd_in_values_and_gradients(
    cell: str, activation: str
) -> None:
    torch.manual_seed(1)
    steps, batch, source, width, size, wide = 4, 3, 5, 6, 7, 8
    padding = torch.arange(source) >= torch.tensor([5, 3, 1])[:, None]
    mask = torch.zeros(batch, source).masked_fill_(padding, -torch.inf)
    masks = [torch.bernoulli(torch.full((steps, batch, size), 0.5)) * 2]
    attention = AdditiveAttention(width, size, wide, activation)
    made = [LAYERS[cell](width, size), LAYERS[cell](size, size)]
    layers = [(layer, layer.weight_hh) for layer in made]
    shapes = [(steps, batch, width), (2, batch, made[0].state_size), (batch, source, wide)]
    shapes += [(batch, source, width)]
    given = [torch.randn(shape).mul_(0.5).requires_grad_() for shape in shapes]
    embedded, hidden, keys, values = given
    leaves = [*given, attention.query.weight, attention.query.bias, attention.score_weight]
    leaves += [parameter for layer, _ in layers for parameter in layer.parameters()]
    results = []
    for function in (attend_and_step, _attend_in_plain_pytorch):
        memory = Memory(keys, values, mask)
        states, mixed, weights, last = function(embedded, hidden, memory, attention, layers, masks)
        assert (weights[:, padding] == 0).all()
        generator = torch.Generator().manual_seed(3)
        loss = sum(
            (part * torch.randn(part.shape, generator=generator)).sum()
            for part in (states, mixed, last)
        )
        results.append([states, mixed, weights, last, *torch.autograd.grad(loss, leaves)])
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_the_tangent_is_pytorchs_in_place_also_of_a_part_of_the_columns(kind: torch.dtype) -> None:
    whole = torch.linspace(-20, 20, 3000).view(100, 30).to(kind)
    untouched, part = whole.clone(), whole[:, 7:18]
    assert tanh_(part) is part
    tolerance = {torch.bfloat16: 0.008, torch.float32: 1e-6, torch.float64: 1e-15}[kind]
    torch.testing.assert_close(part, untouched[:, 7:18].tanh(), rtol=tolerance, atol=tolerance)
    assert torch.equal(whole[:, :7], untouched[:, :7])
    assert torch.equal(whole[:, 18:], untouched[:, 18:])


def test_a_number_has_the_same_tangent_wherever_it_stands() -> None:
    torch.manual_seed(0)
    numbers = torch.randn(1000) * 3
    together = tanh_(numbers.clone())
    for begin, end in ((0, 1), (3, 20), (17, 999)):
        assert torch.equal(tanh_(numbers[begin:end].clone()), together[begin:end])

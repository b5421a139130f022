"""The recurrent steps, in C++ and without, and the tangent against plain PyTorch."""

import pytest
import torch
from torch import Tensor

from seqvis.seq2seq.attention import AdditiveAttention, attend_and_step
from seqvis.seq2seq.recurrent import GRULayer, run_directions, tanh_
from seqvis.seq2seq.state import Memory


def _torch_gru(layers: list[GRULayer]) -> torch.nn.GRU:
    """PyTorch's own GRU with the layers' weights, one for each direction."""
    sizes = layers[0].input_size, layers[0].hidden_size
    gru = torch.nn.GRU(*sizes, bidirectional=len(layers) == 2)
    for layer, suffix in zip(layers, ("", "_reverse"), strict=False):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            setattr(gru, f"{name}_l0{suffix}", getattr(layer, name))
    return gru


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("directions", [1, 2])
def test_a_layer_equals_pytorchs_gru_on_each_sentence_alone(directions: int, padded: bool) -> None:
    torch.manual_seed(0)
    layers = [GRULayer(5, 18) for _ in range(directions)]
    lengths = torch.tensor([4, 1, 6] if padded else [6, 6, 6])
    inputs = torch.randn(6, 3, 5, requires_grad=True)
    hidden = torch.randn(directions, 3, 18, requires_grad=True)
    weights = [parameter for layer in layers for parameter in layer.parameters()]
    recurrent = [layer.weight_hh for layer in layers]
    of_states, of_last = torch.randn(6, 3, 18 * directions), torch.randn(3, 18 * directions)

    given = lengths if padded else None
    states, last = run_directions(layers, recurrent, inputs, hidden, given)
    real = (torch.arange(6)[:, None] < lengths).unsqueeze(-1)
    total = (states * of_states * real).sum() + (last * of_last).sum()
    found = torch.autograd.grad(total, [inputs, hidden, *weights])

    gru, total = _torch_gru(layers), torch.zeros(())
    for row, length in enumerate(lengths.tolist()):
        output, end = gru(inputs[:length, row], hidden[:, row])
        torch.testing.assert_close(states[:length, row], output)
        torch.testing.assert_close(last[row], end.flatten())
        total = total + (output * of_states[:length, row]).sum()
        total = total + (end.flatten() * of_last[row]).sum()
    expected = torch.autograd.grad(total, [inputs, hidden, *weights])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def _attend_in_plain_pytorch(
    embedded: Tensor,
    hidden: Tensor,
    memory: Memory,
    attention: AdditiveAttention,
    layers: list[tuple[GRULayer, Tensor]],
    masks: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    state = list(hidden)
    states, mixes, attentions = [], [], []
    for step in range(len(embedded)):
        pre = memory.keys + attention.query(state[-1])[:, None]
        activation = torch.relu(pre) if attention.rectify else torch.tanh(pre)
        weights = torch.softmax(activation @ attention.score_weight + memory.mask, -1)
        mixed = embedded[step] + (weights[:, :, None] * memory.values).sum(1)
        features = mixed
        for depth, (layer, weight) in enumerate(layers):
            if depth:
                features = features * masks[depth - 1][step]
            biases = (layer.bias_ih, layer.bias_hh)
            features = torch.gru_cell(features, state[depth], layer.weight_ih, weight, *biases)
            state[depth] = features
        states.append(features)
        mixes.append(mixed)
        attentions.append(weights)
    return torch.stack(states), torch.stack(mixes), torch.stack(attentions), torch.stack(state)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_attending_decoder_equals_autograd_in_values_and_gradients(activation: str) -> None:
    torch.manual_seed(1)
    steps, batch, source, width, size, wide = 4, 3, 5, 6, 7, 8
    padding = torch.arange(source) >= torch.tensor([5, 3, 1])[:, None]
    mask = torch.zeros(batch, source).masked_fill_(padding, -torch.inf)
    masks = [torch.bernoulli(torch.full((steps, batch, size), 0.5)) * 2]
    attention = AdditiveAttention(width, size, wide, activation)
    layers = [(layer, layer.weight_hh) for layer in (GRULayer(width, size), GRULayer(size, size))]
    shapes = [(steps, batch, width), (2, batch, size), (batch, source, wide)]
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
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


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

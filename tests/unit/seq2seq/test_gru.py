"""The hand-written backward passes and the tangent against plain PyTorch."""

import pytest
import torch
from torch import Tensor

from seqvis.seq2seq.attention import AdditiveAttention, attend_and_step
from seqvis.seq2seq.gru import GRULayer, run_directions, run_in_one_call, tanh_
from seqvis.seq2seq.state import Memory


def _torch_gru(layer: GRULayer, reverse: bool = False) -> torch.nn.GRU:
    """PyTorch's own GRU with the layer's weights."""
    gru = torch.nn.GRU(layer.input_size, layer.hidden_size)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        setattr(gru, f"{name}_l0", getattr(layer, name))
    return gru


@pytest.mark.parametrize("reverse", [False, True])
def test_a_layer_equals_pytorchs_gru_on_each_sentence_alone(reverse: bool) -> None:
    torch.manual_seed(0)
    layer = GRULayer(5, 7)
    lengths = torch.tensor([4, 1, 6])
    inputs = torch.randn(6, 3, 5, requires_grad=True)
    hidden = torch.randn(3, 7, requires_grad=True)
    upstream = torch.randn(6, 3, 7)
    states, last = layer(inputs, hidden, lengths, reverse)
    real = (torch.arange(6)[:, None] < lengths).unsqueeze(-1)
    ((states * upstream * real).sum() + (last * upstream[0]).sum()).backward()
    found = [inputs.grad, hidden.grad, layer.weight_ih.grad, layer.weight_hh.grad]
    found += [layer.bias_ih.grad, layer.bias_hh.grad]

    reference_inputs = inputs.detach().clone().requires_grad_()
    reference_hidden = hidden.detach().clone().requires_grad_()
    layer.zero_grad()
    gru = _torch_gru(layer)
    total = torch.zeros(())
    for row, length in enumerate(lengths.tolist()):
        sentence = reference_inputs[:length, row]
        output, end = gru(
            sentence.flip(0) if reverse else sentence, reference_hidden[row : row + 1]
        )
        output = output.flip(0) if reverse else output
        torch.testing.assert_close(states[:length, row], output)
        torch.testing.assert_close(last[row], end[0])
        total = total + (output * upstream[:length, row]).sum() + (end[0] * upstream[0, row]).sum()
    total.backward()
    expected = [reference_inputs.grad, reference_hidden.grad, gru.weight_ih_l0.grad]
    expected += [gru.weight_hh_l0.grad, gru.bias_ih_l0.grad, gru.bias_hh_l0.grad]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("directions", [1, 2])
def test_one_call_for_a_gpu_gives_what_a_cpu_computes(directions: int) -> None:
    """Also of padded steps the last states and all gradients; there is no sorting or reversing."""
    torch.manual_seed(1)
    layers = [GRULayer(5, 7) for _ in range(directions)]
    weights = [layer.weight_hh * 1.5 for layer in layers]
    lengths = torch.tensor([4, 1, 6, 6])
    real = (torch.arange(6)[:, None] < lengths).unsqueeze(-1)
    upstream, inputs = torch.randn(6, 4, 7 * directions), torch.randn(6, 4, 5)
    given = [inputs.requires_grad_(), *(one for layer in layers for one in layer.parameters())]

    def gradients(states: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        total = (states * upstream * real).sum() + (last * upstream[0]).sum()
        return torch.autograd.grad(total, given, retain_graph=True)

    expected = run_directions(layers, weights, inputs, lengths)
    found = run_in_one_call(layers, weights, inputs, torch.zeros(directions, 4, 7), lengths)
    torch.testing.assert_close(found[0] * real, expected[0] * real)
    torch.testing.assert_close(found[1], expected[1])
    for one, other in zip(gradients(*found), gradients(*expected), strict=True):
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

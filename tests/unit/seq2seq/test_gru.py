"""The hand-written backward passes against autograd over plain PyTorch."""

import pytest
import torch
from torch import Tensor

from seqvis.seq2seq.attention import LayerWeights, attend_and_step
from seqvis.seq2seq.gru import GRULayer
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


def _attend_in_plain_pytorch(
    embedded: Tensor,
    hidden: Tensor,
    memory: Memory,
    query: tuple[Tensor, Tensor],
    score_weight: Tensor,
    rectify: bool,
    layers: list[LayerWeights],
    masks: list[Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    state = list(hidden)
    states, mixes, attentions = [], [], []
    for step in range(len(embedded)):
        pre = memory.keys + (state[-1] @ query[0].t() + query[1])[:, None]
        scores = (torch.relu(pre) if rectify else torch.tanh(pre)) @ score_weight
        weights = torch.softmax(scores + memory.mask, -1)
        mixed = embedded[step] + (weights[:, :, None] * memory.values).sum(1)
        features = mixed
        for depth, layer in enumerate(layers):
            if depth:
                features = features * masks[depth - 1][step]
            state[depth] = torch.gru_cell(
                features,
                state[depth],
                layer.weight_ih,
                layer.weight_hh,
                layer.bias_ih,
                layer.bias_hh,
            )
            features = state[depth]
        states.append(features)
        mixes.append(mixed)
        attentions.append(weights)
    return torch.stack(states), torch.stack(mixes), torch.stack(attentions), torch.stack(state)


@pytest.mark.parametrize("rectify", [False, True])
def test_the_attending_decoder_equals_autograd_in_values_and_gradients(rectify: bool) -> None:
    torch.manual_seed(1)
    steps, batch, source, width, size, attention = 4, 3, 5, 6, 7, 8
    padding = torch.arange(source) >= torch.tensor([5, 3, 1])[:, None]
    masks = [torch.bernoulli(torch.full((steps, batch, size), 0.5)) * 2]

    def leaves() -> list[Tensor]:
        generator = torch.Generator().manual_seed(2)
        shapes = [(steps, batch, width), (2, batch, size), (batch, source, attention)]
        shapes += [(batch, source, width), (attention, size), (attention,), (attention,)]
        for inputs in (width, size):
            shapes += [(3 * size, inputs), (3 * size, size), (3 * size,), (3 * size,)]
        return [torch.randn(s, generator=generator).mul_(0.5).requires_grad_() for s in shapes]

    results = []
    for function in (attend_and_step, _attend_in_plain_pytorch):
        tensors = leaves()
        embedded, hidden, keys, values, query_weight, query_bias, score_weight, *flat = tensors
        layers = [LayerWeights(*flat[:4]), LayerWeights(*flat[4:])]
        states, mixed, weights, last = function(
            embedded,
            hidden,
            Memory(keys, values, torch.zeros(batch, source).masked_fill_(padding, -torch.inf)),
            (query_weight, query_bias),
            score_weight,
            rectify,
            layers,
            masks,
        )
        assert (weights[:, padding] == 0).all()
        generator = torch.Generator().manual_seed(3)
        loss = sum(
            (part * torch.randn(part.shape, generator=generator)).sum()
            for part in (states, mixed, last)
        )
        gradients = torch.autograd.grad(loss, tensors)
        results.append([states, mixed, weights, last, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

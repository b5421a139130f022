"""`Seq2Seq` laid out for decoding: the same arithmetic without what training needs.

A `PackedSeq2Seq` is made from a `Seq2Seq` whose weights must not change any more. What does not
depend on the sentence is computed in advance: the previous word's way through the mixing layer is a
table, and words that no translation contains have a bias of minus infinity.
"""

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqvis.decoding.linear import Precision, pack_linear
from seqvis.graphs import Graphs
from seqvis.seq2seq.attention import attention_weights
from seqvis.seq2seq.model import Encoder, Seq2Seq
from seqvis.seq2seq.recurrent import LSTMLayer, RecurrentLayer, tanh_
from seqvis.seq2seq.state import NEVER_GENERATED, DecoderState, Memory, SourceBatch, StepOutput


class PackedSeq2Seq:
    """A model's weights for decoding, on the device where they are; a `StepModel`.

    Args:
        model: trained, at evaluation.
        precision: of the matrix products. With float16 the weights are rounded to sixteen bits and
            everything else is float32, the encoder included. With int8 they are rounded to eight
            bits, and so is every row that they are multiplied with (dynamic quantisation).
    """

    def __init__(self, model: Seq2Seq, precision: Precision = "float32"):
        decoder, settings = model.decoder, model.settings
        self.device = decoder.projection.weight.device
        self.graphs = Graphs()
        on_cpu = self.device.type == "cpu"
        self._encoder = PackedEncoder(model.encoder, precision) if on_cpu else model.encoder
        self._table = decoder.embedding.weight.detach()  # (vocabulary, embedding_size)
        self._attention = decoder.attention
        if decoder.attention is not None:
            attention = decoder.attention
            with torch.no_grad(), self._own_precision():
                self._table = decoder.mix_embedding(self._table)
            self._keys = pack_linear(attention.key_weight.t(), None, precision)
            self._values = pack_linear(decoder.mix_context.weight, None, precision)
            self._query = pack_linear(attention.query.weight, attention.query.bias, precision)
            self._score_weight = attention.score_weight.detach().float()
        self._layers = [_PackedLayer(layer, precision) for layer in decoder.recurrent_layers()]
        self._reads_context = settings.readout == "context"
        self._readout = None
        if decoder.readout is not None:
            self._readout = pack_linear(decoder.readout.weight, decoder.readout.bias, precision)
        bias = decoder.projection.bias.detach().clone()
        bias[NEVER_GENERATED] = -math.inf
        self._projection = pack_linear(decoder.projection.weight, bias, precision)

    @torch.no_grad()
    def encode(self, source: SourceBatch) -> DecoderState:
        """Return the state before the first word."""
        source = source.to(self.device)
        with self._own_precision():
            states, hidden = self._encoder(source)
            memory = None
            if self._attention is not None:
                by_sentence = states.transpose(0, 1)
                flat = by_sentence.reshape(-1, by_sentence.shape[-1]).float()
                keys, values = (
                    product(flat).view(*by_sentence.shape[:2], -1)
                    for product in (self._keys, self._values)
                )
                memory = Memory(keys, values, source.mask)
            return DecoderState(hidden.float(), memory)

    @torch.no_grad()
    def step(self, words: Tensor, state: DecoderState) -> StepOutput:
        """Feed each row its last word (rows,)."""
        with self._own_precision():
            features = mixed = functional.embedding(words, self._table)
            weights, memory = None, state.memory
            if memory is not None and self._attention is not None:
                query = self._query(self._layers[-1].seen(state.hidden[-1])).unsqueeze(1)
                weights = attention_weights(
                    memory, query, self._score_weight, self._attention.rectify
                )
                context = torch.bmm(weights.unsqueeze(1), memory.values)
                features = mixed = mixed + context.squeeze(1)
            hidden = []
            for layer, before in zip(self._layers, state.hidden, strict=True):
                after = layer.step(layer.from_input(features), before)
                hidden.append(after)
                features = layer.seen(after)
            if self._readout is not None:
                if self._reads_context:
                    features = tanh_(self._readout(torch.cat([features, mixed], -1)))
                else:
                    features = self._readout(features)
            scores = self._projection(features)
            return StepOutput(scores, weights, DecoderState(torch.stack(hidden), memory))

    def _own_precision(self) -> AbstractContextManager[None]:
        """Switch off an autocast around the call."""
        return torch.autocast(self.device.type, enabled=False)


class _PackedLayer:
    """One direction of a recurrent layer."""

    def __init__(self, layer: RecurrentLayer, precision: Precision):
        self.size, self.state_size = layer.hidden_size, layer.state_size
        self._step = layer.step
        self.from_input = pack_linear(layer.weight_ih, layer.bias_ih, precision)
        self._from_hidden = pack_linear(layer.weight_hh, layer.bias_hh, precision)

    def seen(self, state: Tensor) -> Tensor:
        """Return what other layers see of a state: (rows, size) of (rows, state_size)."""
        return state[:, : self.size].contiguous()

    def step(self, from_input: Tensor, state: Tensor) -> Tensor:
        """Return the next states (rows, state_size) from the input's share of the gates."""
        return self._step(from_input, self._from_hidden(self.seen(state)), state)

    def run(self, inputs: Tensor, counts: list[int], reverse: bool) -> tuple[Tensor, Tensor]:
        """Run over whole sequences.

        Args:
            inputs: (time, rows, features).
            counts: how many rows each step has, never more than the step before.
            reverse: from the last step to the first.

        Returns:
            What is seen of the states after each step, zero where a row has no step; each row's
            last state.
        """
        steps, batch, features = inputs.shape
        gates = self.from_input(inputs.reshape(-1, features)).view(steps, batch, -1)
        states = inputs.new_zeros(steps, batch, self.size)
        last = inputs.new_zeros(batch, self.state_size)
        for step in range(steps - 1, -1, -1) if reverse else range(steps):
            count = counts[step]
            following = self.step(gates[step, :count], last[:count])
            states[step, :count] = self.seen(following)
            last = following if count == batch else torch.cat([following, last[count:]])
        return states, last


class PackedEncoder:
    """The encoder. It sorts sentences by length, so that each step computes only real words."""

    def __init__(self, encoder: Encoder, precision: Precision):
        self._table = encoder.embedding.weight.detach().float()
        layers = [
            [layer for layer in directions.children() if isinstance(layer, RecurrentLayer)]
            for directions in encoder.layers
        ]
        # PyTorch's own loop over the words is one call, and twice as fast, but only in float32.
        # float16 uses it too: it is there to read fewer weights for each word of the decoder.
        whole = precision in ("float32", "float16")
        self._whole = [_torch_layer(directions) for directions in layers if whole]
        self._by_steps = [
            [_PackedLayer(layer, precision) for layer in directions]
            for directions in layers
            if not whole
        ]
        self._bridges = {
            bridge.in_features: pack_linear(bridge.weight, None, precision)
            for bridge in encoder.bridges.values()
            if isinstance(bridge, nn.Linear)
        }
        self._bridge_layers = encoder.bridge_layers

    def __call__(self, source: SourceBatch) -> tuple[Tensor, Tensor]:
        """Encode as `Encoder.forward` does; the states of padding are zero."""
        order = torch.argsort(source.lengths, descending=True, stable=True)
        inputs = functional.embedding(source.ids[order].t(), self._table)
        run = self._run_whole if self._whole else self._run_by_steps
        states, finals = run(inputs, source.lengths[order])
        finals = finals[-self._bridge_layers :]
        hidden = [self._bridges[final.shape[-1]](final) for final in finals]
        back = torch.argsort(order)
        return states[:, back], torch.stack(hidden)[:, back]

    def _run_whole(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the last layer's states (time, rows, features), and each layer's last ones."""
        packed = pack_padded_sequence(inputs, lengths)
        finals = []
        for layer in self._whole:
            packed, last = layer(packed)
            whole = torch.cat(last, -1) if isinstance(layer, nn.LSTM) else last
            finals.append(torch.cat(tuple(whole), -1))
        states, _ = pad_packed_sequence(packed, total_length=len(inputs))
        return states, finals

    def _run_by_steps(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        counts = (torch.arange(len(inputs))[:, None] < lengths).sum(1).tolist()
        states, finals = inputs, []
        for directions in self._by_steps:
            runs = [
                layer.run(states, counts, bool(reverse)) for reverse, layer in enumerate(directions)
            ]
            states = torch.cat([states for states, _ in runs], -1)
            finals.append(torch.cat([last for _, last in runs], -1))
        return states, finals


def _torch_layer(directions: list[RecurrentLayer]) -> nn.GRU | nn.LSTM:
    """Return PyTorch's layer of one direction or of both; no random numbers are drawn."""
    first = directions[0]
    kind = nn.LSTM if isinstance(first, LSTMLayer) else nn.GRU
    both = len(directions) == 2
    made = kind(first.input_size, first.hidden_size, bidirectional=both, device="meta")
    weights = {
        f"{name}_l0{suffix}": getattr(layer, name).detach().float()
        for layer, suffix in zip(directions, ("", "_reverse"), strict=False)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    made = made.to_empty(device="cpu")
    made.load_state_dict(weights)
    return made.eval()

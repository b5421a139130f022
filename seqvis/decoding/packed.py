"""A trained model prepared for translating: `Seq2Seq`'s arithmetic without what training needs.

`Inference` is made from a `Seq2Seq` whose weights must not change any more. `read` encodes
sentences, and `step` computes one more word for all of them. The state of sentences is in `Encoded`
and in the rows that are passed in; the object itself holds only weights, so threads may share it.
Whatever does not depend on the sentence is computed in advance: the previous word's way through the
mixing layer is a table, and words that no translation contains have a bias of minus infinity.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seqvis.decoding.linear import Precision, prepare
from seqvis.seq2seq.encoder import Encoder
from seqvis.seq2seq.gru import GRULayer, tanh_
from seqvis.seq2seq.model import Seq2Seq
from seqvis.text.vocabulary import BOS, PAD

NEVER = (BOS, PAD)  # ids that no translation contains


@dataclass(frozen=True)
class Source:
    """What attention needs of the sentences, one row each."""

    keys: Tensor  # (rows, source_length, attention_size)
    values: Tensor  # (rows, source_length, value_size)
    blocked: Tensor  # (rows, source_length): 0 where there is a word, -inf where there is none


@dataclass(frozen=True)
class Encoded:
    """Sentences that are encoded, before their first word."""

    hidden: Tensor  # (decoder_layers, sentences, decoder_size)
    source: Source | None  # None without attention


@dataclass(frozen=True)
class Step:
    """The result of one more word for each row."""

    scores: Tensor  # (rows, vocabulary), not normalised
    hidden: Tensor  # (decoder_layers, rows, decoder_size)
    attention: Tensor | None  # (rows, source_length), None without attention


class Inference:
    """A model's weights for translating, on the device where they are.

    Args:
        model: trained, at evaluation.
        precision: of the matrix products. With float16 the weights are rounded to sixteen bits and
            everything else is float32, the encoder included. With int8 they are rounded to eight
            bits, and so is every row that they are multiplied with (dynamic quantisation).
    """

    def __init__(self, model: Seq2Seq, precision: Precision = "float32"):
        self._model = model
        decoder, settings = model.decoder, model.settings
        self.device = decoder.projection.weight.device
        self._reader = _Reader(model.encoder, precision) if self.device.type == "cpu" else None
        self._table = decoder.embedding.weight.detach()  # (vocabulary, embedding_size)
        self._attends = decoder.attention is not None
        if decoder.attention is not None:
            attention = decoder.attention
            with torch.no_grad(), self._as_told():
                self._table = decoder.mix_embedding(self._table)
            self._keys = prepare(attention.key_weight.t(), None, precision)
            self._values = prepare(decoder.mix_context.weight, None, precision)
            self._query = prepare(attention.query.weight, attention.query.bias, precision)
            self._scorer = attention.score_weight.detach().float()
            self._rectify = attention.rectify
        self._layers = [_Recurrence(layer, precision) for layer in _gru_layers(decoder.layers)]
        self._reads_context = settings.readout == "context"
        self._readout = None
        if decoder.readout is not None:
            self._readout = prepare(decoder.readout.weight, decoder.readout.bias, precision)
        bias = decoder.projection.bias.detach().clone()
        bias[list(NEVER)] = -math.inf
        self._projection = prepare(decoder.projection.weight, bias, precision)

    @torch.no_grad()
    def read(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Encodes sentences.

        Args:
            source: (sentences, source_length) word ids with `_eos_`, padding last.
            lengths: (sentences,) their real lengths, on the CPU.
        """
        with self._as_told():
            return self._read(source, lengths)

    def _read(self, source: Tensor, lengths: Tensor) -> Encoded:
        if self._reader is None:
            states, hidden = self._model.encoder(source, lengths)
        else:
            states, hidden = self._reader.read(source, lengths)
        found = None
        if self._attends:
            by_sentence = states.transpose(0, 1)
            flat = by_sentence.reshape(-1, by_sentence.shape[-1]).float()
            keys, values = (
                product(flat).view(*by_sentence.shape[:2], -1)
                for product in (self._keys, self._values)
            )
            blocked = torch.zeros(source.shape, device=self.device)
            found = Source(keys, values, blocked.masked_fill_(source == PAD, -math.inf))
        return Encoded(hidden.float(), found)

    @torch.no_grad()
    def step(self, words: Tensor, hidden: Tensor, source: Source | None) -> Step:
        """Feeds each row its last word.

        Args:
            words: (rows,) ids.
            hidden: (decoder_layers, rows, decoder_size), the states before; kept as they are.
            source: what the rows attend to.
        """
        with self._as_told():
            return self._step(words, hidden, source)

    def _step(self, words: Tensor, hidden: Tensor, source: Source | None) -> Step:
        features = mixed = functional.embedding(words, self._table)
        attention = None
        if source is not None:
            attention = self._attend(hidden[-1], source)
            context = torch.bmm(attention.unsqueeze(1), source.values)
            features = mixed = mixed + context.squeeze(1)
        states = []
        for layer, before in zip(self._layers, hidden, strict=True):
            features = layer.step(layer.from_input(features), before)
            states.append(features)
        if self._readout is not None:
            if self._reads_context:
                features = tanh_(self._readout(torch.cat([features, mixed], -1)))
            else:
                features = self._readout(features)
        return Step(self._projection(features), torch.stack(states), attention)

    def _as_told(self) -> AbstractContextManager[None]:
        """Products are of this object's precision, not of an autocast around it."""
        return torch.autocast(self.device.type, enabled=False)

    def _attend(self, hidden: Tensor, source: Source) -> Tensor:
        activation = source.keys + self._query(hidden).unsqueeze(1)
        activation = activation.relu_() if self._rectify else tanh_(activation)
        rows, length, size = activation.shape
        scores = (activation.view(-1, size) @ self._scorer).view(rows, length)
        return torch.softmax(scores.add_(source.blocked), -1)


class _Recurrence:
    """One direction of a GRU layer."""

    def __init__(self, layer: GRULayer, precision: Precision):
        self.size = layer.hidden_size
        self.from_input = prepare(layer.weight_ih, layer.bias_ih, precision)
        self._from_hidden = prepare(layer.weight_hh, layer.bias_hh, precision)

    def step(self, from_input: Tensor, hidden: Tensor) -> Tensor:
        """(rows, 3 * size) the input's share of the gates, (rows, size) -> the next states."""
        size, from_hidden = self.size, self._from_hidden(hidden)
        gates = (from_input[:, : 2 * size] + from_hidden[:, : 2 * size]).sigmoid_()
        reset, update = gates[:, :size], gates[:, size:]
        new = tanh_(torch.addcmul(from_input[:, 2 * size :], reset, from_hidden[:, 2 * size :]))
        return torch.lerp(new, hidden, update)

    def run(self, inputs: Tensor, counts: list[int], reverse: bool) -> tuple[Tensor, Tensor]:
        """(time, batch, features) and how many rows each step has, never more than the step
        before -> states after each step, zero where a row has no step; each row's last state."""
        steps, batch, features = inputs.shape
        gates = self.from_input(inputs.reshape(-1, features)).view(steps, batch, -1)
        states = inputs.new_zeros(steps, batch, self.size)
        hidden = inputs.new_zeros(batch, self.size)
        for step in range(steps - 1, -1, -1) if reverse else range(steps):
            count = counts[step]
            following = self.step(gates[step, :count], hidden[:count])
            states[step, :count] = following
            hidden = following if count == batch else torch.cat([following, hidden[count:]])
        return states, hidden


class _Reader:
    """The encoder. It sorts sentences by length, so that each step computes only real words."""

    def __init__(self, encoder: Encoder, precision: Precision):
        self._table = encoder.embedding.weight.detach().float()
        layers = [_gru_layers(directions) for directions in encoder.layers]
        # PyTorch's own loop over the words is one call, and twice as fast, but float32's alone:
        # fast enough for float16, too, whose point is weights that are read anew for each word.
        whole = precision in ("float32", "float16")
        self._whole = [_whole(directions) for directions in layers if whole]
        self._by_steps = [
            [_Recurrence(layer, precision) for layer in directions]
            for directions in layers
            if not whole
        ]
        self._bridges = {
            bridge.in_features: prepare(bridge.weight, None, precision)
            for bridge in encoder.bridges.values()
            if isinstance(bridge, nn.Linear)
        }
        self._bridged = encoder.bridge_layers

    def read(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `Encoder.forward`; the states of padding are zero."""
        order = torch.argsort(lengths, descending=True, stable=True)
        inputs = functional.embedding(source[order].t(), self._table)
        run = self._run_whole if self._whole else self._run_by_steps
        states, finals = run(inputs, lengths[order])
        hidden = [self._bridges[final.shape[-1]](final) for final in finals[-self._bridged :]]
        back = torch.argsort(order)
        return states[:, back], torch.stack(hidden)[:, back]

    def _run_whole(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, list[Tensor]]:
        """States of the last layer (time, batch, features), and each layer's last ones."""
        packed = pack_padded_sequence(inputs, lengths)
        finals = []
        for layer in self._whole:
            packed, last = layer(packed)
            finals.append(torch.cat(tuple(last), -1))
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


def _whole(directions: list[GRULayer]) -> nn.GRU:
    """A layer of one direction or of both, with these weights; no random numbers are drawn."""
    sizes = directions[0].input_size, directions[0].hidden_size
    gru = nn.GRU(*sizes, bidirectional=len(directions) == 2, device="meta").to_empty(device="cpu")
    weights = {
        f"{name}_l0{suffix}": getattr(layer, name).detach().float()
        for layer, suffix in zip(directions, ("", "_reverse"), strict=False)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    gru.load_state_dict(weights)
    return gru.eval()


def _gru_layers(layers: nn.Module) -> list[GRULayer]:
    return [layer for layer in layers.children() if isinstance(layer, GRULayer)]

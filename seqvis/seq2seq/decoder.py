"""The decoder: from an encoded sentence, one word after the other.

`DecoderState` is all that decoding a batch of sentences needs besides the weights. Training and
validation pass it along as a value, so no two batches can mix. `Decoder.run` takes any number of
known words in one call. Translation uses `seqvis.decoding.packed`, which computes the same one word
at a time, and faster.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.attention import AdditiveAttention, EncodedSource, LayerWeights, attend_and_step
from seqvis.seq2seq.dropout import drop_weight, drop_words, mask_like
from seqvis.seq2seq.gru import GRULayer, product_type
from seqvis.seq2seq.settings import ModelSettings
from seqvis.text.vocabulary import PAD


@dataclass(frozen=True)
class Regularisation:
    """The random draws of a training batch: dropped words and weights, and masks of all steps.

    Drawing them once lets the same steps be run twice. Masks have a single step for all where
    dropout is variational.
    """

    table: Tensor  # (vocabulary, embedding_size)
    weights: list[Tensor]  # recurrent weights of each layer
    input_mask: Tensor | None  # (steps or 1, batch, embedding_size)
    layer_masks: list[Tensor]  # (steps or 1, batch, decoder_size) before the second, third … layer


@dataclass(frozen=True)
class DecoderState:
    """The state of decoding a batch of sentences."""

    hidden: Tensor  # (decoder_layers, batch, decoder_size)
    source: EncodedSource | None  # None without attention
    regularisation: Regularisation | None = None  # None at evaluation
    step: int = 0  # steps that were run


@dataclass(frozen=True)
class DecoderOutput:
    """The results of running the decoder over some steps."""

    outputs: Tensor  # (steps, batch, embedding_size): what the projection to words reads
    states: Tensor  # (steps, batch, decoder_size): the last layer's hidden states
    attention: Tensor | None  # (steps, batch, source_length), None without attention


class Decoder(nn.Module):
    """GRU layers over the previous word and, with attention, the context vector."""

    def __init__(self, settings: ModelSettings, vocabulary_size: int, state_size: int):
        super().__init__()
        self.settings = settings
        embedding_size = settings.embedding_size
        size = settings.decoder_size or embedding_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=PAD)
        self.layers = nn.ModuleList()
        for depth in range(settings.decoder_layers or settings.layers):
            self.layers.append(GRULayer(size if depth else embedding_size, size))
        self.attention: AdditiveAttention | None = None
        if settings.attention:
            self.attention = AdditiveAttention(
                state_size, size, settings.attention_size or size, settings.attention_activation
            )
            # The seed's l3(cat([embedding, context])), as a sum of two products: the first is
            # computed for all steps at once, the second once a sentence for all its words.
            self.mix_embedding = nn.Linear(embedding_size, embedding_size)
            self.mix_context = nn.Linear(state_size, embedding_size, bias=False)
        self.readout: nn.Linear | None = None
        if settings.readout == "context":
            self.readout = nn.Linear(size + embedding_size, embedding_size)
        elif size != embedding_size:
            self.readout = nn.Linear(size, embedding_size)
        self.projection = nn.Linear(embedding_size, vocabulary_size)
        if settings.tie_output:
            self.projection.weight = self.embedding.weight

    def start(
        self, states: Tensor, hidden: Tensor, padding: Tensor, steps: int = 0
    ) -> DecoderState:
        """The state before the first word.

        Args:
            states: (source_length, batch, state_size), the encoder's.
            hidden: (decoder_layers, batch, decoder_size), from the bridge.
            padding: (batch, source_length), True where there is no word.
            steps: how many can be run with dropout; none are needed at evaluation.
        """
        source = None
        if self.attention is not None:
            by_sentence = states.transpose(0, 1)
            keys = self.attention.keys(by_sentence)
            source = EncodedSource(keys, self.mix_context(by_sentence), padding)
        return DecoderState(hidden.float(), source, self._regularise(hidden[0], steps))

    def run(self, words: Tensor, state: DecoderState) -> tuple[DecoderOutput, DecoderState]:
        """Feeds known words: words (steps, batch) ids -> outputs of those steps, state after."""
        inputs = self._embed(words, state)
        if self.attention is None:
            states, hidden = self._run_fused(inputs, state)
            attention, mixed = None, inputs
        else:
            states, hidden, attention, mixed = self._run_attending(inputs, state)
        output = DecoderOutput(self._read_out(states, mixed), states, attention)
        return output, replace(state, hidden=hidden, step=state.step + len(words))

    def logits(self, outputs: Tensor) -> Tensor:
        """(…, embedding_size) -> scores of all words (…, vocabulary), not normalised."""
        return self.projection(outputs)

    def _embed(self, words: Tensor, state: DecoderState) -> Tensor:
        drawn = state.regularisation
        if drawn is None:
            return functional.embedding(words, self.embedding.weight, padding_idx=PAD)
        embedded = functional.embedding(words, drawn.table, padding_idx=PAD)
        if drawn.input_mask is None:
            return embedded
        return embedded * _of_steps(drawn.input_mask, state.step, len(words))

    def _run_fused(self, inputs: Tensor, state: DecoderState) -> tuple[Tensor, Tensor]:
        hidden = []
        states = inputs
        masks = self._masks(len(inputs), state)
        for depth, (layer, weight) in enumerate(self._layers(state)):
            if depth and masks:
                states = states * masks[depth - 1]
            states, last = layer(states, state.hidden[depth], weight_hh=weight)
            hidden.append(last)
        return states, torch.stack(hidden)

    def _run_attending(
        self, inputs: Tensor, state: DecoderState
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        assert self.attention is not None
        assert state.source is not None
        product = product_type(inputs)
        query = self.attention.query
        weights = [
            LayerWeights(
                layer.weight_ih.to(product), weight.to(product), layer.bias_ih, layer.bias_hh
            )
            for layer, weight in self._layers(state)
        ]
        states, mixed, attention, hidden = attend_and_step(
            self.mix_embedding(inputs),
            state.hidden,
            state.source.keys,
            state.source.values,
            state.source.padding,
            (query.weight.to(product), query.bias),
            self.attention.score_weight,
            self.attention.rectify,
            weights,
            self._masks(len(inputs), state),
        )
        return states, hidden, attention, mixed

    def _masks(self, steps: int, state: DecoderState) -> list[Tensor]:
        """Dropout masks between the layers: (steps or 1, batch, size) each, [] at evaluation."""
        drawn = state.regularisation
        masks = [] if drawn is None else drawn.layer_masks
        return [_of_steps(mask, state.step, steps) for mask in masks]

    def _read_out(self, states: Tensor, mixed: Tensor) -> Tensor:
        if self.readout is None:
            return states
        if self.settings.readout == "context":
            return torch.tanh(self.readout(torch.cat([states, mixed.to(states.dtype)], -1)))
        return self.readout(states)

    def _layers(self, state: DecoderState) -> list[tuple[GRULayer, Tensor]]:
        layers = [layer for layer in self.layers if isinstance(layer, GRULayer)]
        drawn = state.regularisation
        weights = [layer.weight_hh for layer in layers] if drawn is None else drawn.weights
        return list(zip(layers, weights, strict=True))

    def _regularise(self, like: Tensor, steps: int) -> Regularisation | None:
        if not self.training:
            return None
        rates = self.settings.dropout
        layers = [layer for layer in self.layers if isinstance(layer, GRULayer)]
        weights = [drop_weight(layer.weight_hh, rates.weight, True) for layer in layers]
        drawn = 1 if rates.variational else steps
        features = like.new_empty(drawn, len(like), self.settings.embedding_size)
        input_mask = mask_like(features, rates.decoder_input) if rates.decoder_input else None
        states = like.new_empty(drawn, *like.shape)
        masks = [mask_like(states, rates.decoder) for _ in layers[1:] if rates.decoder]
        table = drop_words(self.embedding.weight, rates.embedding, True)
        return Regularisation(table, weights, input_mask, masks)


def _of_steps(mask: Tensor, first: int, steps: int) -> Tensor:
    if len(mask) == 1:
        return mask
    assert first + steps <= len(mask), "more steps are run than dropout was drawn for"
    return mask[first : first + steps]


def likeliest(scores: Tensor) -> Tensor:
    """The word with the highest score, the first of equals: (rows, vocabulary) -> (rows,).

    NumPy finds it ten times as fast as PyTorch on a CPU.
    """
    if scores.is_cuda:
        return scores.argmax(-1)
    return torch.from_numpy(scores.float().numpy().argmax(-1))

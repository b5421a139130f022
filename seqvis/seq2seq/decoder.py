"""The decoder: from an encoded sentence, one word after the other.

`Decoder.run` takes any number of known words in one call. Search uses `seqvis.decoding.packed`,
which computes the same one word at a time, and faster.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.attention import AdditiveAttention, attend_and_step
from seqvis.seq2seq.dropout import drop_weight, drop_words, mask_like
from seqvis.seq2seq.gru import GRULayer, product_type
from seqvis.seq2seq.settings import ModelSettings
from seqvis.seq2seq.state import DecoderOutput, DecoderState, DropoutMasks, Memory, SourceBatch
from seqvis.text.vocabulary import PAD


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

    def remember(self, states: Tensor, source: SourceBatch) -> Memory | None:
        """Return what attention reads of the encoder's states (source, rows, state_size)."""
        if self.attention is None:
            return None
        by_sentence = states.transpose(0, 1)
        keys = by_sentence @ self.attention.key_weight
        return Memory(keys, self.mix_context(by_sentence), source.mask)

    def run(
        self, words: Tensor, state: DecoderState, masks: DropoutMasks | None = None
    ) -> tuple[DecoderOutput, DecoderState]:
        """Feed known words.

        Args:
            words: (steps, rows) ids.
            state: before the first of them; without a memory the context vector is left out.
            masks: dropout, in training.
        """
        inputs = self._embed(words, masks)
        weights: list[Tensor] = [layer.weight_hh for layer in self.gru_layers()]
        between: list[Tensor] = []
        if masks is not None:
            weights = masks.weights
            between = [masks.cut(mask, len(words)) for mask in masks.layers]
        layers = zip(self.gru_layers(), weights, strict=True)
        if self.attention is None or state.memory is None:
            states, mixed, attention, hidden = inputs, inputs, None, []
            for depth, (layer, weight) in enumerate(layers):
                if depth and between:
                    states = states * between[depth - 1]
                states, last = layer(states, state.hidden[depth], weight_hh=weight)
                hidden.append(last)
            after = torch.stack(hidden)
        else:  # step by step, since the first layer reads what the last one attends to
            states, mixed, attention, after = attend_and_step(
                inputs, state.hidden, state.memory, self.attention, layers, between
            )
        output = DecoderOutput(self._read_out(states, mixed), states, attention)
        return output, DecoderState(after, state.memory)

    def gru_layers(self) -> list[GRULayer]:
        return [layer for layer in self.layers if isinstance(layer, GRULayer)]

    def draw_masks(self, rows: int, steps: int) -> DropoutMasks:
        """Draw the dropout of a training batch."""
        rates = self.settings.dropout
        layers = self.gru_layers()
        weights = [drop_weight(layer.weight_hh, rates.weight, True) for layer in layers]
        like = self.projection.bias
        kind, drawn = product_type(like), 1 if rates.variational else steps
        inputs, between = None, []
        if rates.decoder_input:
            size = self.settings.embedding_size
            inputs = mask_like(like.new_empty(drawn, rows, size, dtype=kind), rates.decoder_input)
        if rates.decoder:
            states = like.new_empty(drawn, rows, layers[0].hidden_size, dtype=kind)
            between = [mask_like(states, rates.decoder) for _ in layers[1:]]
        table = drop_words(self.embedding.weight, rates.embedding, True)
        return DropoutMasks(table, weights, inputs, between)

    def _embed(self, words: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Return the words' share of the first layer's input (steps, rows, embedding)."""
        table = self.embedding.weight if masks is None else masks.table
        embedded = functional.embedding(words, table, padding_idx=PAD)
        if masks is not None and masks.inputs is not None:
            embedded = embedded * masks.cut(masks.inputs, len(words))
        return embedded if self.attention is None else self.mix_embedding(embedded)

    def _read_out(self, states: Tensor, mixed: Tensor) -> Tensor:
        if self.readout is None:
            return states
        if self.settings.readout == "context":
            return torch.tanh(self.readout(torch.cat([states, mixed.to(states.dtype)], -1)))
        return self.readout(states)


def argmax_words(scores: Tensor) -> Tensor:
    """Return the word with the highest score, the first of equals, of (rows, vocabulary) scores.

    NumPy finds it ten times as fast as PyTorch on a CPU.
    """
    if scores.is_cuda:
        return scores.argmax(-1)
    return torch.from_numpy(scores.float().numpy().argmax(-1))

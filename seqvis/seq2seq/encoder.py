"""The encoder: from source word ids to a state for each word and the decoder's first state.

Layers read forwards, or the first or all of them in both directions. Each layer's last state goes
through the bridge, a linear layer without bias that the seed calls `out_enc`, into the decoder
layer of the same depth.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.dropout import drop_weight, drop_words, dropout
from seqvis.seq2seq.gru import GRULayer
from seqvis.seq2seq.settings import ModelSettings
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.vocabulary import PAD


class Encoder(nn.Module):
    """A stack of GRU layers that ignores padding."""

    def __init__(
        self, settings: ModelSettings, vocabulary_size: int, bridge_size: int, bridge_layers: int
    ):
        super().__init__()
        self.settings = settings
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD)
        self.layers = nn.ModuleList()
        sizes: list[int] = []
        inputs = settings.embedding_size
        for depth in range(settings.layers):
            both = settings.bidirectional == "all" or (
                settings.bidirectional == "first" and depth == 0
            )
            directions = [GRULayer(inputs, settings.hidden_size) for _ in range(1 + both)]
            self.layers.append(nn.ModuleList(directions))
            inputs = settings.hidden_size * len(directions)
            sizes.append(inputs)
        self.output_size = inputs
        self.bridge_layers = bridge_layers
        # The seed has one bridge for all layers; layers of another size need their own.
        self.bridges = nn.ModuleDict(
            {
                str(size): nn.Linear(size, bridge_size, bias=False)
                for size in sorted(set(sizes[-bridge_layers:]))
            }
        )

    def forward(self, source: SourceBatch) -> tuple[Tensor, Tensor]:
        """Return states (source, rows, output_size), and the decoder's first hidden state
        (bridge_layers, rows, bridge_size)."""
        rates = self.settings.dropout
        table = drop_words(self.embedding.weight, rates.embedding, self.training)
        states = functional.embedding(source.ids.t(), table, padding_idx=PAD)
        states = dropout(states, rates.input, self.training, rates.variational)
        lengths = source.lengths.to(source.ids.device)
        finals: list[Tensor] = []
        for depth, directions in enumerate(self.layers):
            assert isinstance(directions, nn.ModuleList)
            if depth:
                states = dropout(states, rates.encoder, self.training, rates.variational)
            start = states.new_zeros(states.shape[1], self.settings.hidden_size)
            outputs, lasts = [], []
            for reverse, layer in enumerate(directions):
                assert isinstance(layer, GRULayer)
                weight = drop_weight(layer.weight_hh, rates.weight, self.training)
                output, last = layer(states, start, lengths, bool(reverse), weight)
                outputs.append(output)
                lasts.append(last)
            states = torch.cat(outputs, -1)
            finals.append(torch.cat(lasts, -1))
        rate = rates.bridge if self.settings.bidirectional != "none" else 0.0
        dropped = [dropout(final, rate, self.training) for final in finals[-self.bridge_layers :]]
        hidden = torch.stack([self.bridges[str(final.shape[-1])](final) for final in dropped])
        return states, hidden

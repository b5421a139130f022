"""Language models with the weights of a translator's encoder or decoder, to start translators from.

The decoder's is the decoder without its source: it predicts each word from those before it. The
encoder's predicts each word from those before it by the layers that read forwards, and from those
after it by the layers that read backwards (Peters et al. 2018, arXiv 1802.05365). Neither direction
may see what it predicts, so the other direction's half of a deeper layer's input is zero.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.dropout import drop_weight, drop_words, dropout
from seqvis.seq2seq.losses import SequenceLoss
from seqvis.seq2seq.model import Decoder, Encoder
from seqvis.seq2seq.recurrent import RecurrentLayer, run_directions
from seqvis.seq2seq.settings import ModelSettings
from seqvis.seq2seq.state import DecoderState, SourceBatch
from seqvis.text.vocabulary import BOS, PAD


class EncoderLanguageModel(nn.Module):
    """Predicts words by the layers of an encoder, in each of its directions.

    Args:
        settings: of the translator that is to start from it, resolved.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int):
        super().__init__()
        self.settings = settings
        self.encoder = Encoder(settings, vocabulary_size, settings.embedding_size, 1)
        self.encoder.bridges = nn.ModuleDict()  # they lead to a decoder
        self.readouts = nn.ModuleList(
            nn.Linear(settings.hidden_size, settings.embedding_size) for _ in self._directions()
        )
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))

    @property
    def embedding(self) -> nn.Embedding:
        return self.encoder.embedding

    def forward(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """Return the mean of the directions' sums of cross-entropies, with gradients and without.

        Each direction predicts all words of a sentence but the first that it reads.
        """
        rate, training = self.settings.dropout.output, self.training
        loss = plain = self.bias.new_zeros(())
        lengths = batch.counted
        for number, layers in enumerate(self._directions()):
            ids = batch.ids if number == 0 else _reversed(batch.ids, lengths)
            states = self._run(ids[:, :-1].t(), layers, number, (lengths - 1).clamp(min=0))
            outputs = dropout(self.readouts[number](states), rate, training)
            right = ids[:, 1:].t()
            losses = SequenceLoss(self.embedding.weight, self.bias, right, right != PAD)
            own, own_plain, _ = losses.of(outputs)
            loss, plain = loss + own, plain + own_plain
        return loss / len(self.readouts), plain / len(self.readouts)

    def _directions(self) -> list[list[RecurrentLayer]]:
        """Return the layers that read forwards, and those that read backwards, if there are any."""
        by_depth = [
            [layer for layer in directions.children() if isinstance(layer, RecurrentLayer)]
            for directions in self.encoder.layers
        ]
        count = max(len(directions) for directions in by_depth)
        return [
            [directions[number] for directions in by_depth if number < len(directions)]
            for number in range(count)
        ]

    def _run(
        self, words: Tensor, layers: list[RecurrentLayer], number: int, lengths: Tensor
    ) -> Tensor:
        """Return the last layer's states (steps, rows, size) after each of the words."""
        rates, training = self.settings.dropout, self.training
        table = drop_words(self.embedding.weight, rates.embedding, training)
        states = functional.embedding(words, table, padding_idx=PAD)
        states = dropout(states, rates.input, training, rates.variational)
        for depth, layer in enumerate(layers):
            if depth:
                states = dropout(states, rates.encoder, training, rates.variational)
            if states.shape[-1] < layer.input_size:
                missing = layer.input_size - states.shape[-1]
                states = functional.pad(states, (missing * number, missing * (1 - number)))
            start = states.new_zeros(1, words.shape[1], layer.state_size)
            weight = drop_weight(layer.weight_hh, rates.weight, training)
            states, _ = run_directions([layer], [weight], states, start, lengths)
        return states


class DecoderLanguageModel(nn.Module):
    """Predicts words by a decoder without a source.

    Args:
        settings: of the translator that is to start from it, resolved.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int):
        super().__init__()
        self.settings = settings
        layers = min(settings.decoder_layers or settings.layers, settings.layers)
        settings = settings.model_copy(update={"decoder_layers": layers})
        self.decoder = Decoder(settings, vocabulary_size, state_size=1)
        for name, parameter in self.decoder.named_parameters():
            if name.startswith(SOURCE_PARTS):
                parameter.requires_grad_(False)

    @property
    def embedding(self) -> nn.Embedding:
        return self.decoder.embedding

    def forward(self, batch: SourceBatch) -> tuple[Tensor, Tensor]:
        """Return the sum of the words' cross-entropies, with gradients and without."""
        decoder, rate = self.decoder, self.settings.dropout.output
        right = batch.ids.t()
        words = torch.cat([torch.full_like(right[:1], BOS), right[:-1]])
        masks = decoder.draw_masks(right.shape[1], len(right)) if self.training else None
        layer = decoder.recurrent_layers()[0]
        shape = len(decoder.layers), right.shape[1], layer.state_size
        state = DecoderState(decoder.projection.bias.new_zeros(shape), None)
        output, _ = decoder.run(words, state, masks)
        features = dropout(output.features, rate, self.training, self.settings.dropout.variational)
        projection = decoder.projection
        losses = SequenceLoss(projection.weight, projection.bias, right, right != PAD)
        loss, plain, _ = losses.of(features)
        return loss, plain


SOURCE_PARTS = ("attention.", "mix_context.")
"""Beginnings of the names of a decoder's weights that only a source makes use of."""


def _reversed(ids: Tensor, lengths: Tensor) -> Tensor:
    """Return padded sentences (rows, steps) with their words in reverse, padding last as before."""
    steps = torch.arange(ids.shape[1], device=ids.device)
    places = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    return ids.gather(1, places)

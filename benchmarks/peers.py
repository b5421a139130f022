"""The models of fast.ai's lesson 11, which seqvis is measured by.

`LessonModel` is written after `Seq2SeqRNN` and `Seq2SeqAttnRNN` of the lesson: a word at a time, in
float32. It is given a model of the same sizes and the same sentences.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.model import Seq2Seq
from seqvis.text.vocabulary import BOS, PAD
from seqvis.translation.batches import Batch


class LessonModel(nn.Module):
    """`Seq2SeqRNN`, or with attention `Seq2SeqAttnRNN`, with the weights of one of our models."""

    def __init__(self, ours: Seq2Seq):
        super().__init__()
        rates = ours.settings.dropout
        encoder, decoder = ours.encoder, ours.decoder
        self.emb_enc = nn.Embedding.from_pretrained(encoder.embedding.weight.clone(), False, PAD)
        self.emb_dec = nn.Embedding.from_pretrained(decoder.embedding.weight.clone(), False, PAD)
        self.gru_enc = _gru([layer[0] for layer in encoder.layers], rates.encoder)  # type: ignore[index]
        self.gru_dec = _gru(list(decoder.layers), rates.decoder)
        bridge = next(iter(encoder.bridges.values()))
        self.out_enc = _linear(bridge.weight, None)  # type: ignore[arg-type]
        self.emb_enc_drop, self.out_drop = nn.Dropout(rates.input), nn.Dropout(rates.output)
        self.out = _linear(decoder.projection.weight, decoder.projection.bias)
        self.out.weight = self.emb_dec.weight
        self.attends = decoder.attention is not None
        if decoder.attention is not None:
            attention = decoder.attention
            self.w1 = nn.Parameter(attention.key_weight.detach().clone())
            self.l2 = _linear(attention.query.weight, attention.query.bias)
            mixing = torch.cat([decoder.mix_embedding.weight, decoder.mix_context.weight], 1)
            self.l3 = _linear(mixing, decoder.mix_embedding.bias)
            self.v = nn.Parameter(attention.score_weight.detach().clone())

    def forward(self, source: Tensor, target: Tensor, forced: bool) -> Tensor:
        """source (source_length, batch), target (steps, batch) -> (steps, batch, words)."""
        states, hidden = self.gru_enc(self.emb_enc_drop(self.emb_enc(source)))
        hidden = self.out_enc(hidden)
        words = torch.full_like(target[0], BOS)
        keys = states @ self.w1 if self.attends else None
        result = []
        for step in range(len(target)):
            given = self.emb_dec(words)
            if keys is not None:
                u = torch.tanh(keys + self.l2(hidden[-1]))
                a = functional.softmax(u @ self.v, 0)
                context = (a.unsqueeze(2) * states).sum(0)
                given = self.l3(torch.cat([given, context], 1))
            output, hidden = self.gru_dec(given.unsqueeze(0), hidden)
            scores = self.out(self.out_drop(output[0]))
            result.append(scores)
            words = target[step] if forced else scores.detach().argmax(1)
        return torch.stack(result)


class LessonTraining:
    """The lesson's step: the loss counts padding, Adam (0.8, 0.99)."""

    def __init__(self, ours: Seq2Seq, forced: bool):
        self.model = LessonModel(ours)
        self.forced = forced
        self.optimizer = torch.optim.Adam(self.model.parameters(), 3e-3, (0.8, 0.99))

    def loss(self, batch: Batch) -> Tensor:
        target = batch.target.t().contiguous()
        scores = self.model(batch.source.ids.t(), target, self.forced)
        return functional.cross_entropy(scores.flatten(0, 1), target.flatten())

    def step(self, batch: Batch) -> None:
        self.model.train()
        loss = self.loss(batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _gru(layers: list[Any], dropout: float) -> nn.GRU:
    inputs, size = layers[0].weight_ih.shape[1], layers[0].weight_hh.shape[1]
    gru = nn.GRU(inputs, size, num_layers=len(layers), dropout=dropout)
    with torch.no_grad():
        for depth, layer in enumerate(layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(gru, f"{name}_l{depth}").copy_(getattr(layer, name))
    return gru


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer

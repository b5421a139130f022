"""The peers that seqvis is measured by: JoeyNMT, and the models of fast.ai's lesson 11.

JoeyNMT 2.3 (Kreutzer et al. 2019, arXiv 1907.12484) has a GRU encoder in both directions and a GRU
decoder with Bahdanau attention and input feeding; `make bench` installs it. `SeedModel` is written
after `Seq2SeqRNN` and `Seq2SeqAttnRNN` of the lesson: a word at a time, in float32. Both are given
models of the same sizes and the same sentences.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.state import pad_ids
from seqvis.text.vocabulary import BOS, PAD, SPECIALS
from seqvis.translation.batches import Batch
from seqvis.translation.task import TranslationTask

_UNK, _PAD, _BOS, _EOS = range(4)
_OF_SEQVIS = np.array([_BOS, _PAD, _EOS, _UNK])  # of BOS, PAD, EOS, UNK
_CLIP = 1.0


class JoeyNMT:
    """JoeyNMT's model and optimiser, as the benchmark trains them and translates with them."""

    def __init__(self, task: TranslationTask):
        from joeynmt.model import build_model
        from joeynmt.vocabulary import Vocabulary as JoeyVocabulary

        special = SimpleNamespace(
            unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
            sep_token=None, lang_tags=[], unk_id=_UNK, pad_id=_PAD, bos_id=_BOS, eos_id=_EOS,
        )  # fmt: skip
        settings, languages = task.settings.model, task.languages
        sides = []
        for vocabulary in (languages.source_vocabulary, languages.target_vocabulary):
            side = JoeyVocabulary([], special)
            # Its own way to add words compares each with all before it.
            side._itos += list(vocabulary.words[len(SPECIALS) :])
            side._stoi = {word: number for number, word in enumerate(side._itos)}
            sides.append(side)
        rates = settings.dropout
        embeddings = {"embedding_dim": settings.embedding_size}
        read = {"dropout": rates.input, **embeddings}
        config = {
            "encoder": {
                "type": "recurrent", "rnn_type": "gru", "embeddings": read,
                "hidden_size": settings.hidden_size, "num_layers": settings.layers,
                "bidirectional": True, "dropout": rates.encoder,
            },
            "decoder": {
                "type": "recurrent", "rnn_type": "gru", "embeddings": embeddings,
                "hidden_size": settings.decoder_size or settings.embedding_size,
                "num_layers": settings.decoder_layers or settings.layers, "dropout": rates.decoder,
                "hidden_dropout": rates.output, "attention": "bahdanau", "init_hidden": "bridge",
                "input_feeding": True,
            },
        }  # fmt: skip
        self.model: nn.Module = build_model(config, *sides)
        self.model.loss_function = ("crossentropy", task.settings.loss.label_smoothing)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)

    def step(self, batch: Batch) -> None:
        self.model.train()
        theirs = _batch(batch.source.ids, batch.source.lengths, batch.target)
        total = self.model(return_type="loss", **vars(theirs))[0]
        theirs.normalize(total, "tokens").backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), _CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def translate(
        self, sentences: Sequence[Sequence[int]], batch: int, beam: int, lengths: Sequence[int]
    ) -> list[list[int]]:
        """Translate word ids of seqvis, with EOS, into word ids without special words.

        The model is not trained, so `lengths` says how many words each translation has. A greedy
        batch runs until its longest sentence has ended, as JoeyNMT does; a batch of beams, from
        which JoeyNMT takes ended sentences, as long as their mean.
        """
        from joeynmt.search import search

        self.model.eval()
        order = sorted(range(len(sentences)), key=lambda row: -len(sentences[row]))
        translations: list[list[int]] = [[] for _ in sentences]
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            source, source_lengths = pad_ids([list(sentences[row]) for row in rows])
            given = _batch(source, source_lengths, None)
            written = [lengths[row] for row in rows]
            steps = max(written) if beam == 1 else round(sum(written) / len(written))
            ids, *_ = search(
                self.model, given, steps, beam, 1.0, generate_unk=False, min_output_length=steps
            )
            for row, words in zip(rows, ids.tolist(), strict=True):
                end = words.index(_EOS) if _EOS in words else len(words)
                translations[row] = [word for word in words[:end] if word >= len(SPECIALS)]
        return translations


def _batch(source: Tensor, lengths: Tensor, target: Tensor | None) -> Any:
    """Return a batch of JoeyNMT's."""
    from joeynmt.batch import Batch

    order = torch.argsort(lengths, descending=True, stable=True)
    given = None
    if target is not None:
        begin = torch.full((len(target), 1), _BOS)
        given = torch.cat([begin, _translated(target[order])], 1)
    return Batch(
        src=_translated(source[order]), src_length=lengths[order], src_prompt_mask=None,
        trg=given, trg_prompt_mask=None, indices=torch.arange(len(source)),
        device=torch.device("cpu"), pad_index=_PAD, eos_index=_EOS, is_train=target is not None,
    )  # fmt: skip


def _translated(ids: Tensor) -> Tensor:
    """Replace the ids of special words by JoeyNMT's; all others are the same."""
    table = torch.from_numpy(_OF_SEQVIS)
    return torch.where(ids < len(table), table[ids.clamp(max=len(table) - 1)], ids)


class SeedModel(nn.Module):
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


class SeedTraining:
    """The lesson's step: the loss counts padding, Adam (0.8, 0.99)."""

    def __init__(self, ours: Seq2Seq, forced: bool):
        self.model = SeedModel(ours)
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

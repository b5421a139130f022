"""The model laid out for the C++ extension (`seqvis/native`), and the batch that it runs.

It computes what `PackedSeq2Seq` and `RunningBatch` do, and is their equal in all tests, but reads
a list of sentences, and extends a batch by any number of words, in one call each, which does not
hold Python's lock.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from seqvis.decoding.batch import Batch, RunningBatch
from seqvis.decoding.beam import SentenceDecoding
from seqvis.decoding.ensemble import Ensemble
from seqvis.decoding.linear import Precision, computes
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.native import is_native, library
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.recurrent import LAYERS
from seqvis.seq2seq.state import NEVER_GENERATED, SourceBatch, StepModel


def has_native(precision: Precision) -> bool:
    """Return whether the extension decodes in this precision here."""
    return computes(precision) and is_native(precision)


def pack_models(models: Sequence[Seq2Seq], precision: Precision = "float32") -> "Packed":
    """Lay trained models out for decoding in the quickest way there is, several as an ensemble."""
    if len(models) > 1:
        return Ensemble([PackedSeq2Seq(model, precision) for model in models])
    (model,) = models
    on_cpu = model.decoder.projection.weight.device.type == "cpu"
    if on_cpu and LAYERS[model.settings.cell].in_extension and has_native(precision):
        return NativeSeq2Seq(model, precision)
    return PackedSeq2Seq(model, precision)


def start_batch(model: "StepModel | NativeSeq2Seq") -> Batch:
    """Return an empty batch that decodes with a model."""
    return NativeBatch(model) if isinstance(model, NativeSeq2Seq) else RunningBatch(model)


class NativeSeq2Seq:
    """A model's weights as the extension reads them. Threads may share it."""

    def __init__(self, model: Seq2Seq, precision: Precision = "float32"):
        self.device = torch.device("cpu")
        settings = model.settings
        self.network = library.Network(
            {
                name: weight.detach().float().contiguous().numpy()
                for name, weight in _weights(model)
            },
            getattr(library.Precision, precision),
            settings.attention_activation == "relu",
            settings.readout == "context",
        )

    def encode(self, source: SourceBatch) -> "list[library.Source]":
        """Return each sentence's state before the first word."""
        rows = zip(source.ids.tolist(), source.lengths.tolist(), strict=True)
        return self.network.read([ids[:length] for ids, length in rows])


Packed = PackedSeq2Seq | NativeSeq2Seq | Ensemble
"""What is laid out for decoding."""


class NativeBatch:
    """A `Batch` that the extension runs."""

    def __init__(self, model: NativeSeq2Seq):
        self.rows = self.steps = self.extended = 0
        self._batch = library.Batch(model.network)
        self._running: dict[library.Sentence, SentenceDecoding] = {}

    def join(
        self, decodings: Sequence[SentenceDecoding], state: "Sequence[library.Source]"
    ) -> None:
        joining = {
            library.Sentence(
                source,
                decoding.width,
                decoding.limit,
                decoding.settings.n_best,
                decoding.settings.length_penalty,
            ): decoding
            for decoding, source in zip(decodings, state, strict=True)
        }
        self._batch.join(list(joining))
        self._running |= joining
        self._count()

    def drop(self, decodings: Collection[SentenceDecoding]) -> None:
        for sentence, decoding in list(self._running.items()):
            if decoding in decodings:
                self._batch.drop(sentence)
                del self._running[sentence]
        self._count()

    def step(self, most: int = 1) -> list[SentenceDecoding]:
        ended = []
        for sentence in self._batch.run(most):
            decoding = self._running.pop(sentence)
            decoding.hypotheses = [
                decoding.hypothesis(
                    ids, score, None if rows is None else torch.from_numpy(rows), finished
                )
                for ids, score, rows, finished in sentence.hypotheses()
            ]
            decoding.ids = decoding.hypotheses[0].ids
            ended.append(decoding)
        if most == 1:
            for sentence, decoding in self._running.items():
                decoding.ids = sentence.best_so_far()
        self._count()
        return ended

    def interrupt(self) -> None:
        self._batch.interrupt()

    def _count(self) -> None:
        self.rows = sum(decoding.width for decoding in self._running.values())
        self.steps, self.extended = self._batch.steps, self._batch.extended


def _weights(model: Seq2Seq) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights by the names that the extension knows them by."""
    encoder, decoder = model.encoder, model.decoder
    yield "encoder.table", encoder.embedding.weight
    for depth, directions in enumerate(encoder.layers):
        for reverse, layer in enumerate(directions.children()):
            yield from _named(f"encoder.{depth}.{reverse}", layer)
    for size, bridge in encoder.bridges.items():
        yield from _named(f"bridge.{size}", bridge)
    table = decoder.embedding.weight
    if decoder.attention is not None:
        with torch.no_grad():
            table = decoder.mix_embedding(table)
        yield "attention.keys", decoder.attention.key_weight.t()
        yield "attention.values", decoder.mix_context.weight
        yield "attention.scorer", decoder.attention.score_weight
        yield from _named("attention.query", decoder.attention.query)
    yield "decoder.table", table
    for depth, layer in enumerate(decoder.recurrent_layers()):
        yield from _named(f"decoder.{depth}", layer)
    if decoder.readout is not None:
        yield from _named("readout", decoder.readout)
    bias = decoder.projection.bias.detach().clone()
    bias[NEVER_GENERATED] = -torch.inf
    yield "projection.weight", decoder.projection.weight
    yield "projection.bias", bias


def _named(prefix: str, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((f"{prefix}.{name}", weight) for name, weight in module.named_parameters())

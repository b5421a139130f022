"""The lesson's own formulas, step by step, with PyTorch's layers: what `plain` must agree with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.model import Seq2Seq
from seqvis.text.vocabulary import BOS, PAD


def _gru(layers: Sequence[object], inputs: int, size: int) -> nn.GRU:
    """PyTorch's GRU with the weights of `layers`."""
    gru = nn.GRU(inputs, size, num_layers=len(layers))
    with torch.no_grad():
        for depth, layer in enumerate(layers):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(gru, f"{name}_l{depth}").copy_(getattr(layer, name))
    return gru


@torch.no_grad()
def lesson_forward(model: Seq2Seq, sources: Sequence[Sequence[int]], steps: int) -> Tensor:
    """`Seq2SeqRNN.forward` in evaluation: (steps or fewer, sentences, words).

    Each sentence is encoded alone, so that padding, which the lesson's encoder reads, has no part.
    """
    encoder, decoder = model.encoder, model.decoder
    first = [layer[0] for layer in encoder.layers]  # type: ignore[index]
    enc = _gru(first, *_sizes(first[0]))
    dec = _gru(list(decoder.layers), *_sizes(decoder.layers[0]))
    bridge = next(iter(encoder.bridges.values()))
    states = [enc(encoder.embedding(torch.tensor(ids)[:, None]))[1] for ids in sources]
    h = torch.cat(states, 1) @ bridge.weight.t()  # type: ignore[operator]
    dec_inp = torch.full((len(sources),), BOS)
    res = []
    for _ in range(steps):
        outp, h = dec(decoder.embedding(dec_inp).unsqueeze(0), h)
        outp = outp[0] @ decoder.embedding.weight.t() + decoder.projection.bias
        res.append(outp)
        dec_inp = outp.max(1)[1]
        if (dec_inp == PAD).all():
            break
    return torch.stack(res)


def _sizes(layer: object) -> tuple[int, int]:
    """Inputs and hidden units of a GRU layer."""
    return layer.weight_ih.shape[1], layer.weight_hh.shape[1]  # type: ignore[attr-defined]


def lesson_loss(logits: Tensor, target: Tensor, **options: int | str) -> Tensor:
    """The lesson's `seq2seq_loss`; logits (steps or fewer, sentences, words), target (steps,
    sentences). `options` are those of `cross_entropy`."""
    steps, _ = target.shape
    if steps > len(logits):
        logits = functional.pad(logits, (0, 0, 0, 0, 0, steps - len(logits)))
    flat = logits[:steps].reshape(-1, logits.shape[-1])
    return functional.cross_entropy(flat, target.reshape(-1), **options)  # type: ignore[arg-type]

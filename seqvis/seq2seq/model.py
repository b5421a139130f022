"""The sequence-to-sequence model of the seed, in all its variants, as one module.

It turns the word ids of both sides into decoder outputs. The loss is in `losses` and the search in
`seqvis.decoding`. Unlike the seed's, the encoder and the attention ignore padding, so a sentence's
translation does not depend on the batch it is in.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from seqvis.seq2seq.decoder import Decoder, DecoderOutput, DecoderState, likeliest
from seqvis.seq2seq.encoder import Encoder
from seqvis.seq2seq.forcing import stretches
from seqvis.seq2seq.settings import ModelSettings
from seqvis.text.vocabulary import BOS, PAD

Choose = Callable[[Tensor], Tensor]
"""The outputs of a run of steps (steps, batch, size) -> the words that follow it (batch,)."""


class Seq2Seq(nn.Module):
    """GRU encoder and decoder with optional attention (Sutskever et al. 2014; Bahdanau et al.
    2015), in the sizes of fast.ai's lesson 11.

    Args:
        settings: sizes and form; `bidirectional` and `attention` must be resolved.
        source_vocabulary, target_vocabulary: numbers of words, the four specials included.
    """

    def __init__(self, settings: ModelSettings, source_vocabulary: int, target_vocabulary: int):
        super().__init__()
        self.settings = settings
        decoder_layers = min(settings.decoder_layers or settings.layers, settings.layers)
        size = settings.decoder_size or settings.embedding_size
        self.encoder = Encoder(settings, source_vocabulary, size, decoder_layers)
        settings = settings.model_copy(update={"decoder_layers": decoder_layers})
        self.decoder = Decoder(settings, target_vocabulary, self.encoder.output_size)

    def encode(self, source: Tensor, lengths: Tensor, steps: int = 0) -> DecoderState:
        """source (batch, source_length), lengths (batch,) on the CPU -> the decoder's start, in
        training for so many steps."""
        states, hidden = self.encoder(source, lengths)
        return self.decoder.start(states, hidden, source == PAD, steps)

    def forward(
        self,
        source: Tensor,
        lengths: Tensor,
        target: Tensor,
        forced: Tensor,
        choose: Choose | None = None,
    ) -> DecoderOutput:
        """Runs the decoder along a target, fed with its words or with its own predictions.

        Where it feeds on its own words, these are found first, without gradients; then all steps
        are run in one go, with the same dropout.

        Args:
            source: (batch, source_length) word ids.
            lengths: (batch,) real source words, on the CPU.
            target: (batch, steps) word ids.
            forced: (steps,) bool on the CPU: True where the decoder is fed the target's previous
                word, False where its own. The first step is fed `_bos_` always.
            choose: finds the word after a run of steps; by default the likeliest.

        Returns:
            Outputs of all steps, padding included.
        """
        state = self.encode(source, lengths, target.shape[1])
        words = torch.cat([torch.full_like(target[:, :1], BOS), target[:, :-1]], 1).t()
        parts = stretches(forced)
        if len(parts) > 1:
            words = self._fed(words, parts, state, choose or self._likeliest)
        return self.decoder.run(words, state)[0]

    @torch.no_grad()
    def _fed(
        self, right: Tensor, parts: list[tuple[int, int]], state: DecoderState, choose: Choose
    ) -> Tensor:
        """`right` (steps, batch) with the decoder's own word at the start of each part but the
        first."""
        words = right.clone()
        for (begin, end), (following, _) in pairwise(parts):
            output, state = self.decoder.run(words[begin:end], state)
            words[following] = choose(output.outputs)
        return words

    def _likeliest(self, outputs: Tensor) -> Tensor:
        return likeliest(self.decoder.logits(outputs[-1]))

    def flops_per_word(self) -> tuple[int, int]:
        """Floating-point operations of one forward pass for a source and for a target word.

        Counts the matrix products (a multiplication and an addition each), and for attention
        its products with a source of about the target's length, left out as small.
        """
        recurrent = _product_sizes(self.encoder.layers)
        bridge_and_keys = 0
        target = _product_sizes(self.decoder.layers) + self.decoder.projection.weight.numel()
        if self.decoder.attention is not None:
            bridge_and_keys = self.decoder.attention.key_weight.numel()
            bridge_and_keys += self.decoder.mix_context.weight.numel()
            target += self.decoder.attention.query.weight.numel()
            target += self.decoder.mix_embedding.weight.numel()
        if self.decoder.readout is not None:
            target += self.decoder.readout.weight.numel()
        return 2 * (recurrent + bridge_and_keys), 2 * target


def _product_sizes(layers: nn.Module) -> int:
    names = ("weight_ih", "weight_hh")
    return sum(p.numel() for name, p in layers.named_parameters() if name.endswith(names))

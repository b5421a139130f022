"""The sequence-to-sequence model of the seed, in all its variants, as one module.

Unlike the seed's, the encoder and the attention ignore padding, so a sentence's translation does
not depend on the batch it is in.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from seqvis.seq2seq.decoder import Decoder, argmax_words
from seqvis.seq2seq.encoder import Encoder
from seqvis.seq2seq.forcing import stretches
from seqvis.seq2seq.settings import ModelSettings
from seqvis.seq2seq.state import (
    NEVER_GENERATED,
    DecoderOutput,
    DecoderState,
    DropoutMasks,
    SourceBatch,
    StepOutput,
)
from seqvis.text.vocabulary import BOS

Choose = Callable[[Tensor], Tensor]
"""Takes the features of a run of steps (steps, rows, size), returns the words after it (rows,)."""


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

    def encode(self, source: SourceBatch) -> DecoderState:
        """Return the state before the first word."""
        states, hidden = self.encoder(source)
        return DecoderState(hidden.float(), self.decoder.remember(states, source))

    def step(self, words: Tensor, state: DecoderState) -> StepOutput:
        """Feed each row its last word (rows,)."""
        output, state = self.decoder.run(words.unsqueeze(0), state)
        scores = self.decoder.projection(output.features[0])
        scores[:, NEVER_GENERATED] = -math.inf
        attention = None if output.attention is None else output.attention[0]
        return StepOutput(scores, attention, state)

    def forward(
        self, source: SourceBatch, target: Tensor, forced: Tensor, choose: Choose | None = None
    ) -> DecoderOutput:
        """Run the decoder along a target, fed with its words or with its own predictions.

        Where it is fed its own words, these are computed first, without gradients; then all steps
        are run in one go, with the same dropout.

        Args:
            target: (rows, steps) word ids.
            forced: (steps,) bool on the CPU: True where the decoder is fed the target's previous
                word, False where its own. The first step is always fed `_bos_`.
            choose: picks the word after a run of steps; by default the one with the highest score.

        Returns:
            The output of all steps, padding included.
        """
        state = self.encode(source)
        masks = self.decoder.draw_masks(*target.shape) if self.training else None
        words = torch.cat([torch.full_like(target[:, :1], BOS), target[:, :-1]], 1).t()
        parts = stretches(forced)
        if len(parts) > 1:
            words = self._own_words(words, parts, state, masks, choose or self._argmax)
        return self.decoder.run(words, state, masks)[0]

    @torch.no_grad()
    def _own_words(
        self,
        target: Tensor,
        parts: list[tuple[int, int]],
        state: DecoderState,
        masks: DropoutMasks | None,
        choose: Choose,
    ) -> Tensor:
        """Return `target` (steps, rows) with the decoder's own word at the start of each part but
        the first."""
        words = target.clone()
        for (begin, end), (following, _) in pairwise(parts):
            drawn = None if masks is None else masks.at(begin)
            output, state = self.decoder.run(words[begin:end], state, drawn)
            words[following] = choose(output.features)
        return words

    def _argmax(self, features: Tensor) -> Tensor:
        return argmax_words(self.decoder.projection(features[-1]))

    def flops_per_word(self) -> tuple[int, int]:
        """Return the floating-point operations of a forward pass for a source and a target word.

        Counts the matrix products, a multiplication and an addition each, but not attention's
        products with the source, which are small.
        """
        source = _product_sizes(self.encoder.layers)
        target = _product_sizes(self.decoder.layers) + self.decoder.projection.weight.numel()
        if self.decoder.attention is not None:
            source += self.decoder.attention.key_weight.numel()
            source += self.decoder.mix_context.weight.numel()
            target += self.decoder.attention.query.weight.numel()
            target += self.decoder.mix_embedding.weight.numel()
        if self.decoder.readout is not None:
            target += self.decoder.readout.weight.numel()
        return 2 * source, 2 * target


def _product_sizes(layers: nn.Module) -> int:
    names = ("weight_ih", "weight_hh")
    return sum(p.numel() for name, p in layers.named_parameters() if name.endswith(names))

"""The sequence-to-sequence model of the seed, in all its variants, as one module.

Word ids of both sides in, decoder outputs out; what is done with them (loss, search) is left to
`losses` and `decode`. Unlike the seed's, the encoder and the attention ignore padding: a
sentence's translation does not depend on the batch it is in.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqvis.text.vocab import BOS, PAD
from seqvis.translation.decoder import Decoder, DecoderOutput, DecoderState, likeliest
from seqvis.translation.encoder import Encoder
from seqvis.translation.forcing import stretches
from seqvis.translation.settings import ModelSettings


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

    def encode(self, source: Tensor, lengths: Tensor) -> DecoderState:
        """source (batch, source_length), lengths (batch,) on the CPU -> the decoder's start."""
        states, hidden = self.encoder(source, lengths)
        return self.decoder.start(states, hidden, source == PAD)

    def forward(
        self, source: Tensor, lengths: Tensor, target: Tensor, forced: Tensor
    ) -> DecoderOutput:
        """Runs the decoder along a target, fed with its words or with its own predictions.

        Args:
            source: (batch, source_length) word ids.
            lengths: (batch,) real source words, on the CPU.
            target: (batch, steps) word ids.
            forced: (steps,) bool on the CPU: True where the decoder is fed the target's previous
                word, False where its own likeliest. The first step is fed `_bos_` always.

        Returns:
            Outputs of all steps, padding included.
        """
        state = self.encode(source, lengths)
        right = torch.cat([torch.full_like(target[:, :1], BOS), target[:, :-1]], 1).t()
        parts: list[DecoderOutput] = []
        for begin, end in stretches(forced):
            words = right[begin:end]
            if begin:
                words = torch.cat([self._predict(parts[-1].outputs[-1]), words[1:]])
            part, state = self.decoder.run(words, state)
            parts.append(part)
        return _join(parts)

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

    @torch.no_grad()
    def _predict(self, outputs: Tensor) -> Tensor:
        return likeliest(self.decoder.logits(outputs)).unsqueeze(0)  # (1, batch)


def _product_sizes(layers: nn.Module) -> int:
    names = ("weight_ih", "weight_hh")
    return sum(p.numel() for name, p in layers.named_parameters() if name.endswith(names))


def _join(parts: Sequence[DecoderOutput]) -> DecoderOutput:
    if len(parts) == 1:
        return parts[0]
    attention = [part.attention for part in parts if part.attention is not None]
    return DecoderOutput(
        torch.cat([part.outputs for part in parts]),
        torch.cat([part.states for part in parts]),
        torch.cat(attention) if attention else None,
    )

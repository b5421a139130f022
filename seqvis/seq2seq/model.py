"""The sequence-to-sequence model of lesson 11, in all its variants: encoder, decoder, and both.

Unlike the lesson's, the encoder and the attention ignore padding, so a sentence's translation does
not depend on the batch it is in.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from seqvis.seq2seq.attention import AdditiveAttention, attend_and_step
from seqvis.seq2seq.dropout import DropoutMasks, drop_weight, drop_words, dropout, mask_like
from seqvis.seq2seq.native import product_type
from seqvis.seq2seq.recurrent import LAYERS, RecurrentLayer, run_directions
from seqvis.seq2seq.settings import ModelSettings
from seqvis.seq2seq.state import (
    NEVER_GENERATED,
    DecoderOutput,
    DecoderState,
    Memory,
    SourceBatch,
    StepOutput,
)
from seqvis.text.vocabulary import BOS, PAD


class Encoder(nn.Module):
    """From source word ids to a state for each word and the decoder's first state.

    Layers read forwards, or the first or all of them in both directions. Each layer's last state
    goes through the bridge, a linear layer without bias that the lesson calls `out_enc`, into the
    decoder layer of the same depth.
    """

    def __init__(
        self, settings: ModelSettings, vocabulary_size: int, decoder_size: int, bridge_layers: int
    ):
        super().__init__()
        cell = LAYERS[settings.cell]
        self.settings = settings
        self.embedding = nn.Embedding(vocabulary_size, settings.embedding_size, padding_idx=PAD)
        self.layers = nn.ModuleList()
        sizes: list[int] = []
        inputs = settings.embedding_size
        for depth in range(settings.layers):
            both = settings.bidirectional == "all" or (
                settings.bidirectional == "first" and depth == 0
            )
            directions = [cell(inputs, settings.hidden_size) for _ in range(1 + both)]
            self.layers.append(nn.ModuleList(directions))
            inputs = settings.hidden_size * len(directions)
            sizes.append(inputs * cell.state_parts)
        self.output_size = inputs
        self.bridge_layers = bridge_layers
        # The lesson has one bridge for all layers; layers of another size need their own.
        self.bridges = nn.ModuleDict(
            {
                str(size): nn.Linear(size, decoder_size * cell.state_parts, bias=False)
                for size in sorted(set(sizes[-bridge_layers:]))
            }
        )

    def forward(self, source: SourceBatch) -> tuple[Tensor, Tensor]:
        """Return states (source, rows, output_size), and the decoder's first state (bridge_layers,
        rows, its size)."""
        rates = self.settings.dropout
        table = drop_words(self.embedding.weight, rates.embedding, self.training)
        states = functional.embedding(source.ids.t(), table, padding_idx=PAD)
        states = dropout(states, rates.input, self.training, rates.variational)
        lengths = source.counted
        finals: list[Tensor] = []
        for depth, directions in enumerate(self.layers):
            assert isinstance(directions, nn.ModuleList)
            if depth:
                states = dropout(states, rates.encoder, self.training, rates.variational)
            layers = [layer for layer in directions if isinstance(layer, RecurrentLayer)]
            weights = [
                drop_weight(layer.weight_hh, rates.weight, self.training) for layer in layers
            ]
            start = states.new_zeros(len(layers), states.shape[1], layers[0].state_size)
            states, final = run_directions(layers, weights, states, start, lengths)
            finals.append(final)
        rate = rates.bridge if self.settings.bidirectional != "none" else 0.0
        dropped = [dropout(final, rate, self.training) for final in finals[-self.bridge_layers :]]
        hidden = torch.stack([self.bridges[str(final.shape[-1])](final) for final in dropped])
        return states, hidden


class Decoder(nn.Module):
    """Recurrent layers over the previous word and, with attention, the context vector.

    Search uses `seqvis.decoding.packed`, which computes the same one word at a time, and faster.
    """

    def __init__(self, settings: ModelSettings, vocabulary_size: int, state_size: int):
        super().__init__()
        self.settings = settings
        embedding_size = settings.embedding_size
        size = settings.decoder_size or embedding_size
        self.embedding = nn.Embedding(vocabulary_size, embedding_size, padding_idx=PAD)
        self.layers = nn.ModuleList()
        for depth in range(settings.decoder_layers or settings.layers):
            inputs = size if depth else embedding_size
            self.layers.append(LAYERS[settings.cell](inputs, size))
        self.attention: AdditiveAttention | None = None
        if settings.attention:
            self.attention = AdditiveAttention(
                state_size, size, settings.attention_size or size, settings.attention_activation
            )
            # The lesson's l3(cat([embedding, context])), as a sum of two products: the first is
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
        weights: list[Tensor] = [layer.weight_hh for layer in self.recurrent_layers()]
        between: list[Tensor] = []
        if masks is not None:
            weights = masks.weights
            between = [masks.cut(mask, len(words)) for mask in masks.layers]
        layers = list(zip(self.recurrent_layers(), weights, strict=True))
        if self.attention is None or state.memory is None:
            states, mixed, attention, hidden = inputs, inputs, None, []
            for depth, (layer, weight) in enumerate(layers):
                if depth and between:
                    states = states * between[depth - 1]
                before = state.hidden[depth : depth + 1]
                states, last = run_directions([layer], [weight], states, before)
                hidden.append(last)
            after = torch.stack(hidden)
        else:  # step by step, since the first layer reads what the last one attends to
            states, mixed, attention, after = attend_and_step(
                inputs, state.hidden, state.memory, self.attention, layers, between
            )
        output = DecoderOutput(self._read_out(states, mixed), states, attention)
        return output, DecoderState(after, state.memory)

    def recurrent_layers(self) -> list[RecurrentLayer]:
        return [layer for layer in self.layers if isinstance(layer, RecurrentLayer)]

    def draw_masks(self, rows: int, steps: int) -> DropoutMasks:
        """Draw the dropout of a training batch."""
        rates = self.settings.dropout
        layers = self.recurrent_layers()
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


Choose = Callable[[Tensor], Tensor]
"""Takes the features of a run of steps (steps, rows, size), returns the words after it (rows,)."""


class Seq2Seq(nn.Module):
    """Recurrent encoder and decoder with optional attention (Sutskever et al. 2014; Bahdanau et al.
    2015), in the sizes of fast.ai's lesson 11.

    Args:
        settings: sizes and form; `bidirectional` and `attention` must be resolved.
        source_vocabulary, target_vocabulary: numbers of words, the four specials included.
    """

    graphs: None = None  # it is the reference, and runs step by step

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


def draw_coins(steps: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw for each step whether the decoder is fed the right word; the first is always True.

    One coin for each step serves the whole batch, as in the lesson's text. All are drawn before the
    batch's first step, so that each stretch of forced steps runs in one go.
    """
    coins = torch.rand(steps, generator=generator) < probability
    coins[0] = True
    return coins


def stretches(coins: Tensor) -> list[tuple[int, int]]:
    """Return the half-open ranges of steps between False coins, each of which runs in one go."""
    starts = [0, *(int(step) for step in (~coins[1:]).nonzero().flatten() + 1)]
    return list(zip(starts, [*starts[1:], len(coins)], strict=True))

"""Several models that translate together: each word has the mean of their probabilities.

The members must have the same target vocabulary. Sizes, layers and attention may differ.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.graphs import Graphs
from seqvis.seq2seq.state import DecoderState, Memory, SourceBatch, StepOutput
from seqvis.text.vocabulary import EOS


class Ensemble:
    """A `StepModel` of several.

    Its state holds the states of its members side by side: all layers of all members are one, and
    their keys and values are joined at the last dimension. So it moves through a running batch as
    that of a single model does.
    """

    def __init__(self, members: Sequence[PackedSeq2Seq]):
        self.device = members[0].device
        self.graphs = Graphs()
        self._members = members
        states = [member.encode(SourceBatch.of([[EOS]])) for member in members]
        self._layers = [(state.hidden.shape[0], state.hidden.shape[2]) for state in states]
        memories = [state.memory for state in states]
        self._attends = [memory is not None for memory in memories]
        self._hidden = _slices([layers * size for layers, size in self._layers])
        self._keys = _slices([0 if memory is None else memory.keys.shape[2] for memory in memories])
        self._values = _slices(
            [0 if memory is None else memory.values.shape[2] for memory in memories]
        )

    @torch.no_grad()
    def encode(self, source: SourceBatch) -> DecoderState:
        """Return the state before the first word."""
        states = [member.encode(source) for member in self._members]
        memories = [state.memory for state in states if state.memory is not None]
        memory = None
        if memories:
            memory = Memory(
                torch.cat([each.keys for each in memories], 2),
                torch.cat([each.values for each in memories], 2),
                memories[0].mask,
            )
        return DecoderState(_beside([state.hidden for state in states]), memory)

    @torch.no_grad()
    def step(self, words: Tensor, state: DecoderState) -> StepOutput:
        """Feed each row its last word (rows,)."""
        outputs = [
            member.step(words, own)
            for member, own in zip(self._members, self._apart(state), strict=True)
        ]
        total = torch.softmax(outputs[0].scores, -1)
        for output in outputs[1:]:
            total += torch.softmax(output.scores, -1)
        weights = [output.attention for output in outputs if output.attention is not None]
        return StepOutput(
            total.div_(len(outputs)).log_(),
            torch.stack(weights).mean(0) if weights else None,
            DecoderState(_beside([output.state.hidden for output in outputs]), state.memory),
        )

    def _apart(self, state: DecoderState) -> list[DecoderState]:
        """Return the states of the members."""
        rows, memory = state.hidden.shape[1], state.memory
        states = []
        for number, (layers, size) in enumerate(self._layers):
            hidden = state.hidden[0, :, self._hidden[number]]
            own = None
            if memory is not None and self._attends[number]:
                keys, values = self._keys[number], self._values[number]
                own = Memory(memory.keys[..., keys], memory.values[..., values], memory.mask)
            by_layer = hidden.view(rows, layers, size).transpose(0, 1).contiguous()
            states.append(DecoderState(by_layer, own))
        return states


def _beside(hidden: Sequence[Tensor]) -> Tensor:
    """Return hidden states (layers, rows, size) as one layer (1, rows, layers * size of all)."""
    return torch.cat([layers.transpose(0, 1).flatten(1) for layers in hidden], 1).unsqueeze(0)


def _slices(sizes: Sequence[int]) -> list[slice]:
    return [slice(begin, end) for begin, end in pairwise(accumulate(sizes, initial=0))]

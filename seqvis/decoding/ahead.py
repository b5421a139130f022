"""Decode some words ahead on the model's device, before the host looks at any of them.

The device chooses the extensions that go on as `BeamDecoding.extend` does. The host then decides
which sentences have ended meanwhile; what was computed for them beyond their ends is not used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from seqvis.graphs import Graphs, Tensors
from seqvis.seq2seq.model import argmax_words
from seqvis.seq2seq.state import DecoderState, Memory, StepModel
from seqvis.text.vocabulary import EOS

_BLOCK = 128  # words whose maximum is compared before the words themselves


@dataclass(frozen=True)
class Group:
    """The sentences of a batch that are equally wide."""

    rows: Tensor | slice  # theirs in the batch, sentence after sentence
    before: Tensor  # (sentences, width): the scores of their hypotheses


Best = tuple[Tensor, Tensor, Tensor]
"""The best extensions of sentences, best first: scores, row of the hypothesis within its sentence,
and next word, (sentences, candidates) each."""


@dataclass(frozen=True)
class Ahead:
    """What some steps found, on the device."""

    best: list[Best]  # of each group, with a first dimension for the steps
    attention: Tensor | None  # (steps, rows, source)
    hidden: Tensor  # (layers, rows, size) after the last step, in the order of its rows


def decode_ahead(
    model: StepModel, words: Tensor, state: DecoderState, groups: Sequence[Group], steps: int
) -> Ahead:
    """Feed each row its last word (rows,), and then, `steps - 1` times, the words that follow."""
    extensions: list[list[Best]] = []
    attention: list[Tensor] = []
    hidden = state.hidden
    for step in range(steps):
        if step:
            words, groups, state = _follow(words, groups, extensions[-1], hidden, state.memory)
        output = model.step(words, state)
        extensions.append(
            [best_extensions(output.scores[group.rows], group.before) for group in groups]
        )
        hidden = output.state.hidden
        if output.attention is not None:
            attention.append(output.attention)
    best = [_stacked(steps_of_group) for steps_of_group in zip(*extensions, strict=True)]
    return Ahead(best, torch.stack(attention).float() if attention else None, hidden)


def replay_ahead(
    model: StepModel, graphs: Graphs, words: Tensor, state: DecoderState, before: Tensor, steps: int
) -> Ahead:
    """Do what `decode_ahead` does for a single group, in a CUDA graph if these are switched on.

    Returns extensions of as many sentences as there are rows for.
    """
    before = functional.pad(before, (0, 0, 0, len(words) // before.shape[1] - len(before)))
    inputs = [words, before, state.hidden]
    if state.memory is not None:
        inputs += [state.memory.keys, state.memory.values, state.memory.mask]

    def run(words: Tensor, before: Tensor, hidden: Tensor, *memory: Tensor) -> Tensors:
        own = DecoderState(hidden, Memory(*memory) if memory else None)
        groups = [Group(slice(before.numel()), before)]
        ahead = decode_ahead(model, words, own, groups, steps)
        attention = () if ahead.attention is None else (ahead.attention,)
        return (ahead.hidden, *ahead.best[0], *attention)

    hidden, scores, origins, following, *attention = graphs.run(run, inputs, steps)
    best = [(scores, origins, following)]
    return Ahead(best, attention[0] if attention else None, hidden)


def _stacked(steps: Sequence[Best]) -> Best:
    scores, origins, words = (torch.stack(parts) for parts in zip(*steps, strict=True))
    return scores, origins, words


def _follow(
    words: Tensor,
    groups: Sequence[Group],
    best: Sequence[Best],
    hidden: Tensor,
    memory: Memory | None,
) -> tuple[Tensor, list[Group], DecoderState]:
    """Return the next words, scores and states of all rows, after a step that found `best`."""
    words = words.clone()
    sources = torch.arange(len(words), device=words.device)
    following = []
    for group, extensions in zip(groups, best, strict=True):
        before, origins, chosen = _continuing(*extensions, group.before.shape[1])
        words[group.rows] = chosen.flatten()
        first = sources[group.rows].view(before.shape)[:, :1]
        sources[group.rows] = (first + origins).flatten()
        following.append(Group(group.rows, before))
    return words, following, DecoderState(hidden[:, sources], memory)


def _continuing(scores: Tensor, origins: Tensor, words: Tensor, width: int) -> Best:
    """Return the extensions of each sentence that go on, (sentences, width).

    Where fewer do, the first also takes the rows that are left, with a score of minus infinity.
    """
    ended = (words == EOS) | (scores == -math.inf)
    order = ended.int().sort(dim=1, stable=True).indices[:, :width]
    left = ended.gather(1, order)
    origins, words = (
        torch.where(left, part[:, :1], part)
        for part in (origins.gather(1, order), words.gather(1, order))
    )
    return scores.gather(1, order).masked_fill(left, -math.inf), origins, words


def best_extensions(scores: Tensor, before: Tensor) -> Best:
    """Return the best extensions of sentences by a word.

    Args:
        scores: (sentences * width, vocabulary), not normalised.
        before: (sentences, width).

    Returns:
        For greedy search one, with the log probability of its word. For a beam 2 * width, of which
        at most `width` end here, so that `width` go on; their scores are sums over all words.
    """
    probabilities = torch.log_softmax(scores, -1)
    sentences, width = before.shape
    if width == 1:
        words = argmax_words(probabilities).unsqueeze(1)
        return probabilities.gather(1, words), torch.zeros_like(words), words
    by_sentence = probabilities.view(sentences, width, -1)
    values, places = highest(by_sentence, before, 2 * width)
    return values, places // by_sentence.shape[2], places % by_sentence.shape[2]


def highest(probabilities: Tensor, before: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the highest of each sentence's `before + probabilities`, and where they are.

    On a CPU only the blocks of words with the highest maxima are sorted, which takes a quarter of
    the time of PyTorch's `topk` of everything (docs/results/speed.md).

    Args:
        probabilities: (sentences, width, vocabulary). before: (sentences, width).
        count: how many; fewer if there are fewer.

    Returns:
        Values and places in (width, vocabulary), flattened: (sentences, count) each, highest first.
    """
    _, width, words = probabilities.shape
    blocks = words // _BLOCK
    if probabilities.is_cuda or blocks < count:
        totals = (before.unsqueeze(2) + probabilities).flatten(1)
        values, places = totals.topk(min(count, totals.shape[1]))
        return values, places
    whole = blocks * _BLOCK
    maxima = probabilities[..., :whole].unflatten(2, (blocks, _BLOCK)).amax(3)
    chosen = (before.unsqueeze(2) + maxima).flatten(1).topk(count).indices
    begins = chosen // blocks * words + chosen % blocks * _BLOCK
    inside = (begins.unsqueeze(2) + torch.arange(_BLOCK)).flatten(1)
    outside = (torch.arange(width).unsqueeze(1) * words + torch.arange(whole, words)).flatten()
    places = torch.cat([inside, outside.expand(len(inside), -1)], 1)
    totals = before.gather(1, places // words) + probabilities.flatten(1).gather(1, places)
    values, order = totals.topk(count)
    return values, places.gather(1, order)

"""The direction in which a model writes the words of a target.

Texts and corpora are in reading order. For a right-to-left model the targets of a batch are
reversed, `_eos_` still last, and what a search finds is reversed back.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from seqvis.decoding.beam import Hypothesis
from seqvis.text.vocabulary import PAD

Direction = Literal["left-to-right", "right-to-left"]


def as_written(target: Tensor, direction: Direction) -> Tensor:
    """Return targets (rows, steps), which are in reading order, as the model writes them."""
    if direction == "left-to-right":
        return target
    last = (target != PAD).sum(1, keepdim=True) - 1  # where `_eos_` is
    places = torch.arange(target.shape[1]).expand_as(target)
    return target.gather(1, torch.where(places < last, last - 1 - places, places))


def as_read(hypothesis: Hypothesis, direction: Direction) -> Hypothesis:
    """Return what a model has written in reading order."""
    if direction == "left-to-right":
        return hypothesis
    attention = None if hypothesis.attention is None else hypothesis.attention.flip(0)
    return replace(hypothesis, ids=hypothesis.ids[::-1], attention=attention)

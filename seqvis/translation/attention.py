"""Additive attention over the encoder's states (Bahdanau et al. 2015, section A.1.2).

The module holds parameters only. What belongs to a batch of sentences is an `EncodedSource`, a
value that is passed around, so that two requests can never mix and the keys are computed once a
sentence. Padding gets the weight zero.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EncodedSource:
    """What attention needs of a batch of encoded sentences."""

    keys: Tensor  # (batch, source_length, attention_size)
    values: Tensor  # (batch, source_length, value_size)
    padding: Tensor  # (batch, source_length), True where there is no token


class AdditiveAttention(nn.Module):
    """The seed's attention network: V . activation(keys + l2(hidden)), softmax over the source.

    Its steps are computed by `attending.attend_and_step`.
    """

    def __init__(self, state_size: int, query_size: int, size: int, activation: str):
        super().__init__()
        # The scale is the seed's: a standard deviation of one over the root of the rows.
        self.key_weight = nn.Parameter(torch.randn(state_size, size) / math.sqrt(state_size))
        self.query = nn.Linear(query_size, size)
        self.score_weight = nn.Parameter(torch.randn(size) / math.sqrt(size))
        self.rectify = activation == "relu"

    def keys(self, states: Tensor) -> Tensor:
        """(…, state_size) -> (…, attention_size)."""
        return states @ self.key_weight

"""Teacher forcing: the probability that the decoder is fed the right previous word.

The coins of a batch are drawn before its first step, so that each stretch of forced steps runs in
one go. One coin for each step serves the whole batch, as in the seed text.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from seqvis.config import Settings


class ForcingSettings(Settings):
    """The probability of teacher forcing (`pr_force`) over training."""

    schedule: Literal["linear", "exponential", "inverse_sigmoid", "constant"] | None = None
    """Its form (scheduled sampling, arXiv 1506.03099). Default: linear if the variant forces."""
    start: float = Field(1.0, ge=0, le=1)
    """Probability at the beginning."""
    end: float = Field(0.0, ge=0, le=1)
    """Probability that the schedule goes towards and never below."""
    epochs: float = Field(10.0, gt=0)
    """Epochs after which linear is at its end; for the others, the time scale."""


def probability(settings: ForcingSettings, epoch: float) -> float:
    """Return the probability of forcing at `epoch`, which may be fractional.

    linear falls in a straight line and stays at `end` (the seed's with its defaults: 1, 0.9 …
    0 from epoch 10 on, when `epoch` is whole); exponential is k^i and inverse_sigmoid
    k / (k + e^(i / k)), both scaled to run from `start` towards `end`, so that little is left
    after `epochs`.
    """
    progress = epoch / settings.epochs
    span = settings.start - settings.end
    if settings.schedule == "constant":
        return settings.start
    if settings.schedule == "linear":
        return settings.end + span * max(0.0, 1.0 - progress)
    if settings.schedule == "exponential":
        return settings.end + span * math.exp(-3.0 * progress)
    if settings.schedule == "inverse_sigmoid":
        # k is chosen so that the middle of the fall lies at half of `epochs`.
        steepness = 8.0
        k = math.exp(steepness * 0.5)
        fall = k / (k + math.exp(min(700.0, steepness * progress)))
        return settings.end + span * fall / (k / (k + 1))
    return 0.0


def draw_coins(steps: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw for each step whether the decoder is fed the right word; the first is always True."""
    coins = torch.rand(steps, generator=generator) < probability
    coins[0] = True
    return coins


def stretches(coins: Tensor) -> list[tuple[int, int]]:
    """Return the half-open ranges of steps between False coins, each of which runs in one go."""
    starts = [0, *(int(step) for step in (~coins[1:]).nonzero().flatten() + 1)]
    return list(zip(starts, [*starts[1:], len(coins)], strict=True))

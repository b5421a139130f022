"""Optimiser settings, and learning rate and momentum over training: the 1cycle policy.

All are functions of progress, the share of training that is done (0 to 1), so that a resumed run
needs only its position.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from seqvis.config import MayChange, Settings


class OptimizerSettings(Settings):
    """The optimiser and the 1cycle policy (Smith 2018, arXiv 1803.09820)."""

    algorithm: Annotated[Literal["adamw", "sgd"], MayChange.NEVER] = "adamw"
    """adamw, or stochastic gradient descent with momentum beta1, as super-convergence was shown
    with, at rates of 1 to 3."""
    learning_rate: float = Field(3e-3, gt=0)
    """Highest learning rate of the cycle."""
    beta1: float = Field(0.8, ge=0, lt=1)
    """Momentum; lesson 11's 0.8."""
    beta2: float = Field(0.99, ge=0, lt=1)
    """Adam's decay of squared gradients; lesson 11's 0.99."""
    epsilon: float = Field(1e-8, gt=0)
    """Adam's term against division by zero."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay: of adamw as a share of the learning rate, of sgd added to the gradient."""
    clip_norm: float = Field(1.0, ge=0)
    """Norm that the gradient is clipped to; 0: not clipped."""
    divisor: float = Field(20.0, ge=1)
    """The cycle starts at learning_rate / divisor (the first number of lesson 11's use_clr)."""
    final_divisor: float | None = Field(None, ge=1)
    """The cycle ends at learning_rate / final_divisor. Default: divisor."""
    rise: float = Field(0.1, ge=0, le=1)
    """Share of training in which the rate rises (one over the second number of use_clr)."""
    shape: Literal["linear", "cosine"] = "linear"
    """Form of the fall."""
    cyclical_momentum: bool = False
    """Let beta1 fall to momentum_low while the rate rises, and come back."""
    momentum_low: float = Field(0.7, ge=0, lt=1)
    """beta1 at the highest learning rate, with cyclical_momentum."""


def cycle_height(settings: OptimizerSettings, progress: float) -> float:
    """Return the height of the cycle at `progress`: 0 at both ends, 1 at its top (`use_clr`)."""
    if progress < settings.rise:
        return progress / settings.rise
    if settings.rise >= 1:
        return 1.0
    fallen = min(1.0, (progress - settings.rise) / (1 - settings.rise))
    return 1 - fallen if settings.shape == "linear" else (1 + math.cos(math.pi * fallen)) / 2


def learning_rate(settings: OptimizerSettings, progress: float) -> float:
    """Return the learning rate when the share `progress` of training is done."""
    low = settings.divisor
    if progress >= settings.rise and settings.final_divisor is not None:
        low = settings.final_divisor
    bottom = settings.learning_rate / low
    height = cycle_height(settings, progress)
    return bottom + (settings.learning_rate - bottom) * height


def momentum(settings: OptimizerSettings, progress: float) -> float:
    """Return the momentum when the share `progress` of training is done."""
    if not settings.cyclical_momentum:
        return settings.beta1
    height = cycle_height(settings, progress)
    return settings.beta1 + (settings.momentum_low - settings.beta1) * height

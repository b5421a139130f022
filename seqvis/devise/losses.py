"""Losses that bring a projected picture to the word vector of its label.

Each takes projections [n, dimension], the unit vectors of all seen labels [labels, dimension] and
the number of each row's label [n], and gives the loss of each row [n].
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from seqvis.config import Settings

LossName = Literal["cosine", "hinge", "softmax"]


class LossSettings(Settings):
    """What training minimises; `--loss` names it."""

    margin: float = Field(0.1, gt=0)
    """hinge: by how much the right label must lead (the DeViSE paper's 0.1)."""
    scale: float = Field(10.0, gt=0)
    """softmax: what cosines are multiplied by."""


def rowwise_loss(
    name: LossName, settings: LossSettings, projected: Tensor, targets: Tensor, labels: Tensor
) -> Tensor:
    """The loss `name` of each row."""
    if name == "cosine":
        return cosine_loss(projected, targets, labels)
    if name == "hinge":
        return hinge_rank_loss(projected, targets, labels, settings.margin)
    return softmax_loss(projected, targets, labels, settings.scale)


def cosine_loss(projected: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """1 - cosine of the projection and its label's vector: lesson 11's."""
    return 1 - F.cosine_similarity(projected, targets[labels])


def hinge_rank_loss(projected: Tensor, targets: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Sum over wrong labels j of max(0, margin - t_label . v + t_j . v); Frome et al. 2013, (1)."""
    scores = projected @ targets.T  # (n, labels)
    right = scores.gather(1, labels[:, None])
    behind = F.relu(margin - right + scores)
    wrong = torch.ones_like(behind).scatter_(1, labels[:, None], 0)
    return (behind * wrong).sum(1)


def softmax_loss(projected: Tensor, targets: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Cross-entropy over the cosines with all seen labels, times `scale`."""
    scores = F.normalize(projected) @ targets.T
    return F.cross_entropy(scale * scores, labels, reduction="none")

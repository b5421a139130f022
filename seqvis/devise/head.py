"""The head that projects picture features into the space of words, its losses, and ConSE.

Lesson 11's head is batch norm, dropout, a hidden layer of 1,024 with ReLU, batch norm, dropout, and
the projection, in the order of fastai's ConvnetBuilder. With `hidden` 0 only the last three remain.
Each loss takes projections [n, dimension], the unit vectors of all seen labels [labels, dimension]
and the number of each row's label [n], and returns the loss of each row [n].

ConSE (Norouzi et al. 2014, arXiv 1312.5650) searches zero-shot without any training: it places a
picture at the mean of the vectors of the classifier's ten likeliest classes, weighted by their
probabilities. It is the baseline that a trained head must beat.
"""

from collections.abc import Collection
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seqvis.config import MayChange, Settings
from seqvis.devise.labels import LabelVectors, WordNet, imagenet_classes, label_vectors
from seqvis.devise.space import Space, unit
from seqvis.vectors.store import WordVectors

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
    """Return the loss `name` of each row."""
    if name == "cosine":
        return cosine_loss(projected, targets, labels)
    if name == "hinge":
        return hinge_rank_loss(projected, targets, labels, settings.margin)
    return softmax_loss(projected, targets, labels, settings.scale)


def cosine_loss(projected: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - cosine of the projection and its label's vector: lesson 11's loss."""
    return 1 - F.cosine_similarity(projected, targets[labels])


def hinge_rank_loss(projected: Tensor, targets: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Sum max(0, margin - t_label . v + t_j . v) over wrong labels j; Frome et al. 2013, (1)."""
    scores = projected @ targets.T  # (n, labels)
    right = scores.gather(1, labels[:, None])
    behind = F.relu(margin - right + scores)
    wrong = torch.ones_like(behind).scatter_(1, labels[:, None], 0)
    return (behind * wrong).sum(1)


def softmax_loss(projected: Tensor, targets: Tensor, labels: Tensor, scale: float) -> Tensor:
    """Return the cross-entropy over the cosines with all seen labels, times `scale`."""
    scores = F.normalize(projected) @ targets.T
    return F.cross_entropy(scale * scores, labels, reduction="none")


class HeadSettings(Settings):
    """The head's form."""

    hidden: int = Field(1024, ge=0)
    """Units of the hidden layer; 0: none, a linear map."""
    dropout: Annotated[float, MayChange.IF_ASKED] = Field(0.2, ge=0, lt=1)
    """Dropout before each linear layer."""
    batch_norm: bool = True
    """Batch norm before each dropout."""
    freeze_norm: bool = False
    """Leave batch norm as it is, for a second fit with --init: lesson 11's bn_freeze."""


class Head(nn.Module):
    """Projects features [n, feature_dimension] to vectors [n, dimension] of any length."""

    def __init__(self, settings: HeadSettings, feature_dimension: int, dimension: int):
        super().__init__()
        layers: list[nn.Module] = []
        size = feature_dimension
        if settings.hidden:
            layers += [*_before(settings, size), nn.Linear(size, settings.hidden), nn.ReLU()]
            size = settings.hidden
        layers += [*_before(settings, size), nn.Linear(size, dimension)]
        self.layers = nn.Sequential(*layers)
        self.frozen = [
            layer for layer in layers if settings.freeze_norm and isinstance(layer, nn.BatchNorm1d)
        ]
        for layer in self.frozen:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> "Head":
        super().train(mode)
        for layer in self.frozen:
            layer.eval()
        return self

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.layers(features)
        return projected.to(torch.float32)


def _before(settings: HeadSettings, size: int) -> list[nn.Module]:
    norm: list[nn.Module] = [nn.BatchNorm1d(size)] if settings.batch_norm else []
    return [*norm, nn.Dropout(settings.dropout)]


def class_points(
    vectors: WordVectors, wordnet: WordNet, space: Space, unseen: Collection[str]
) -> np.ndarray:
    """Return points of ImageNet's 1,000 classes, float32 [1000, dimension]; zeros for unseen ones.

    The classifier was trained on all of them, so leaving out those that count as unseen only
    approximates a classifier that never saw them.
    """
    wnids = [wnid for wnid, _ in imagenet_classes()]
    classes: LabelVectors = label_vectors(wnids, vectors, wordnet)
    points = space.project_labels(classes, vectors)
    left_out = set(unseen)
    points[[wnid in left_out for wnid in wnids]] = 0
    return points


def conse_points(
    classes: np.ndarray, top_classes: np.ndarray, top_probabilities: np.ndarray
) -> np.ndarray:
    """Return the means of n pictures' classes, unit rows [n, dimension].

    Args:
        classes: points of all classes, [classes, dimension]; zeros for those to leave out.
        top_classes, top_probabilities: the likeliest classes of each picture, [n, ten].
    """
    # (n, ten, dimension), weighted by probability
    weighted = classes[top_classes] * top_probabilities[..., None]
    return unit(weighted.sum(axis=1))

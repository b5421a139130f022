"""The head that projects picture features into the space of words: lesson 11's, or a linear map.

Batch norm, dropout, a hidden layer of 1,024 with ReLU, batch norm, dropout, and the projection, in
the order of fastai's ConvnetBuilder. With `hidden` 0 only the last three remain.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from seqvis.config import Settings


class HeadSettings(Settings):
    """The head's form."""

    hidden: int = Field(1024, ge=0)
    """Units of the hidden layer; 0: none, a linear map."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Dropout before each linear layer."""
    batch_norm: bool = True
    """Batch norm before each dropout."""


class Head(nn.Module):
    """Features [n, feature_dimension] to vectors [n, dimension] of any length."""

    def __init__(self, settings: HeadSettings, feature_dimension: int, dimension: int):
        super().__init__()
        layers: list[nn.Module] = []
        size = feature_dimension
        if settings.hidden:
            layers += [*_before(settings, size), nn.Linear(size, settings.hidden), nn.ReLU()]
            size = settings.hidden
        layers += [*_before(settings, size), nn.Linear(size, dimension)]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.layers(features)
        return projected.to(torch.float32)


def _before(settings: HeadSettings, size: int) -> list[nn.Module]:
    norm: list[nn.Module] = [nn.BatchNorm1d(size)] if settings.batch_norm else []
    return [*norm, nn.Dropout(settings.dropout)]

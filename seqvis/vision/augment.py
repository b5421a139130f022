"""Training-time augmentation: a different view of the same picture each time it is used.

A decoded picture and a seed give uint8 [size, size, 3], like `images.square`, but of a random part
of the picture, perhaps mirrored, a little darker or lighter. This is lesson 11's
`transforms_side_on` with zoom, in torchvision's terms. The same seed gives the same view.
"""

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torchvision.transforms import v2

from seqvis.config import Settings


class AugmentSettings(Settings):
    """How different the views of one picture are."""

    smallest_share: float = Field(0.5, gt=0, le=1)
    """Least share of the picture's area that a view shows."""
    lighting: float = Field(0.1, ge=0, lt=1)
    """Brightness and contrast change by up to this share."""
    mirror: bool = True
    """Half of the views are mirrored, left to right."""


def augmenter(settings: AugmentSettings, size: int) -> v2.Transform:
    """The transform of `augment`, made once for many pictures."""
    steps: list[v2.Transform] = [
        v2.RandomResizedCrop(size, scale=(settings.smallest_share, 1.0), ratio=(3 / 4, 4 / 3))
    ]
    if settings.mirror:
        steps.append(v2.RandomHorizontalFlip())
    if settings.lighting:
        steps.append(v2.ColorJitter(brightness=settings.lighting, contrast=settings.lighting))
    return v2.Compose(steps)


def augment(picture: Image.Image, transform: v2.Transform, seed: int) -> np.ndarray:
    """A view of an RGB picture, uint8 [size, size, 3].

    torchvision draws from torch's global generator: it is seeded for the call and put back, so
    that the views depend on nothing else and change nothing else. Not for several threads at once.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return np.asarray(transform(picture))

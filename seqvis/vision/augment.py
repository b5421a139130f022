"""Random views of pictures, as functions of a seed.

`view` draws what torchvision's `RandomResizedCrop`, `RandomHorizontalFlip` and `ColorJitter` (v2)
draw after `torch.manual_seed(seed)`, and does with the picture what they do. It needs no PyTorch,
which costs a decoding process four seconds and 375 MB, and no global generator, so that threads may
draw at the same time. `tests/unit/vision/test_augment.py` compares the two.
"""

import math
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageEnhance
from pydantic import Field

from seqvis.config import Settings

_RATIOS = (3 / 4, 4 / 3)  # least and greatest width of a crop, as a multiple of its height
_LOG_RATIOS = (-0.28768205642700195, 0.28768211603164673)  # as PyTorch rounds them
_ATTEMPTS = 10
_MOST_DRAWN = 2 * _ATTEMPTS + 8  # numbers for one view


class AugmentSettings(Settings):
    """How different the views of one picture are."""

    smallest_share: float = Field(0.5, gt=0, le=1)
    """Least share of the picture's area that a view shows."""
    lighting: float = Field(0.1, ge=0, lt=1)
    """Brightness and contrast change by up to this share."""
    mirror: bool = True
    """Half of the views are mirrored, left to right."""


def view(picture: Image.Image, settings: AugmentSettings, size: int, seed: int) -> np.ndarray:
    """Return a view of an RGB picture, uint8 [size, size, 3]."""
    numbers = _numbers(seed)
    left, top, width, height = _crop(picture.size, settings.smallest_share, numbers)
    seen = picture.crop((left, top, left + width, top + height))
    seen = seen.resize((size, size), Image.Resampling.BILINEAR)
    if settings.mirror and _uniform(numbers, 0.0, 1.0) < 0.5:
        seen = seen.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if settings.lighting:
        order = _shuffled(4, numbers)  # torchvision's other two are saturation and hue
        least, most = 1 - settings.lighting, 1 + settings.lighting
        factors = [_uniform(numbers, least, most) for _ in range(2)]
        for kind in order:
            if kind == 0:
                seen = ImageEnhance.Brightness(seen).enhance(factors[0])
            elif kind == 1:
                seen = ImageEnhance.Contrast(seen).enhance(factors[1])
    return np.asarray(seen)


def _crop(
    size: tuple[int, int], smallest_share: float, numbers: Iterator[int]
) -> tuple[int, int, int, int]:
    """Return left, top, width and height of a part of a picture of this width and height."""
    width, height = size
    for _ in range(_ATTEMPTS):
        area = width * height * _uniform(numbers, smallest_share, 1.0)
        ratio = float(np.float32(math.exp(_uniform(numbers, *_LOG_RATIOS))))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top = next(numbers) % (height - high + 1)
            return next(numbers) % (width - wide + 1), top, wide, high
    wide, high = width, height
    if width / height < _RATIOS[0]:
        high = round(width / _RATIOS[0])
    elif width / height > _RATIOS[1]:
        wide = round(height * _RATIOS[1])
    return (width - wide) // 2, (height - high) // 2, wide, high


def _numbers(seed: int) -> Iterator[int]:
    """Yield the Mersenne Twister's 32 bits at a time; of a seed PyTorch's takes as many, too."""
    twister = np.random.RandomState(seed % (1 << 32))
    return iter(twister.randint(0, 1 << 32, _MOST_DRAWN, dtype=np.uint32).tolist())


def _uniform(numbers: Iterator[int], least: float, most: float) -> float:
    """Return a float32 from `least` to `most`, with PyTorch's roundings."""
    low, high = np.float32(least), np.float32(most)
    share = (next(numbers) % (1 << 24)) / (1 << 24)
    return float(np.float32(share * float(high - low) + float(low)))


def _shuffled(count: int, numbers: Iterator[int]) -> list[int]:
    order = list(range(count))
    for place in range(count - 1):
        other = place + next(numbers) % (count - place)
        order[place], order[other] = order[other], order[place]
    return order

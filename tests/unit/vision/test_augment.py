"""Views of pictures: torchvision's, from a seed alone."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from seqvis.vision.augment import AugmentSettings, view


def picture(width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(width).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def torchvisions(shown: Image.Image, settings: AugmentSettings, size: int, seed: int) -> Any:
    share, light = settings.smallest_share, settings.lighting
    steps: list[v2.Transform] = [v2.RandomResizedCrop(size, (share, 1.0), (3 / 4, 4 / 3))]
    if settings.mirror:
        steps.append(v2.RandomHorizontalFlip())
    if light:
        steps.append(v2.ColorJitter(brightness=light, contrast=light))
    torch.manual_seed(seed)
    return np.asarray(v2.Compose(steps)(shown))


@pytest.mark.parametrize(
    ("width", "height", "settings"),
    [
        (64, 64, {}),
        (90, 60, {"smallest_share": 0.08, "lighting": 0.4}),
        (400, 20, {}),  # no crop of at least half its area fits: the middle is taken
        (20, 300, {"mirror": False}),
        (75, 56, {"lighting": 0.0}),
    ],
)
def test_views_are_torchvisions(width: int, height: int, settings: dict[str, Any]) -> None:
    shown, chosen = picture(width, height), AugmentSettings.model_validate(settings)
    for number in range(60):
        seed = number * 1_000_003_000_007  # more than 32 bits
        pixels = view(shown, chosen, 48, seed)
        assert pixels.shape == (48, 48, 3)
        np.testing.assert_array_equal(pixels, torchvisions(shown, chosen, 48, seed))


def test_views_differ_by_seed_alone() -> None:
    shown = picture(80, 60)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, same, other = (view(shown, AugmentSettings(), 48, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()

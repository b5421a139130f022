"""Nearest neighbours as in `stage_neighbours`, of a million vectors: half an hour and 4 GB."""

from collections.abc import Iterator

import numpy as np

from benchmarks.instrument import Row
from benchmarks.material import Material
from benchmarks.search import glove
from benchmarks.stage_neighbours import neighbours

COUNT, WORDS = 1_000_000, 400_000


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """Rows for vectors of 50 numbers around GloVe's."""
    base = glove(WORDS)
    draw = np.random.default_rng(0)
    chosen = base[draw.integers(len(base), size=COUNT)]
    noise = 0.3 * base.std() * draw.standard_normal(chosen.shape, dtype=np.float32)
    yield from neighbours(f"{COUNT:,} of 50", chosen + noise, rounds)

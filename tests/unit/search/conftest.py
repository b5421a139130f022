"""Word vectors of a few words, which no test changes."""

import numpy as np
import pytest

from seqvis.vectors.store import WordVectors
from tests.support.wordstores import WORDS, write_store


@pytest.fixture(scope="session")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> WordVectors:
    matrix = np.random.default_rng(1).normal(0, 1, (len(WORDS) + 1, 6)) * 3
    matrix[-1] = 0
    return write_store(tmp_path_factory.mktemp("words") / "v", [*WORDS, "nothing"], matrix)

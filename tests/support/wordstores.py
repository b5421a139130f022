"""Small stores of word vectors."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seqvis.artifacts import create
from seqvis.vectors.store import Subwords, WordVectors
from seqvis.vectors.writer import vector_writer

WORDS = ["boat", "sail", "engine", "dog", "puppy", "fire", "truck", "motor-boat", "Paris", "été"]


def write_store(
    out: Path, words: Sequence[str], vectors: np.ndarray, subwords: bool = False
) -> WordVectors:
    with (
        create(str(out), "vectors", {}) as artifact,
        vector_writer(artifact, vectors.shape[1]) as writer,
    ):
        writer.add(words, vectors.astype(np.float32))
        if subwords:
            writer.add_subwords(Subwords(3, 4, np.ones((50, vectors.shape[1]), np.float32)))
    return WordVectors.open(str(out))

"""A small corpus of questions and a translator trained on it, once for all tests."""

from pathlib import Path

import pytest

from seqvis.samples.questions import generate_pairs
from seqvis.translation.train import TrainSettings, train
from seqvis.translation.translator import Translator
from tests.support.corpora import write_corpus

SMALL = {
    "model": {"embedding_size": 32, "hidden_size": 24},
    "batches": {"size": 64},
    "fit": {"precision": "float32"},
    "samples": 0,
}


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 1,500 training and 150 validation questions."""
    pairs = generate_pairs(1650, seed=3)
    return write_corpus(tmp_path_factory.mktemp("questions") / "corpus", pairs[150:], pairs[:150])


@pytest.fixture(scope="session")
def translator(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A small `all`, trained for a few epochs: it makes mistakes, but of every length."""
    out = str(tmp_path_factory.mktemp("model") / "translator")
    choices = {"epochs": 3, "optimizer": {"learning_rate": 0.01}, "variant": "all"}
    settings = TrainSettings(corpus=str(questions), out=out, **SMALL, **choices)
    train(settings, lambda event: None)
    return Translator.load(out)

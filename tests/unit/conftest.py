"""What many unit tests need and none changes: a corpus, a translator, pictures to search."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# The main process of `pytest --numprocesses` reads this file too; it needs no PyTorch.
if TYPE_CHECKING:
    from seqvis.translation.translator import Translator
    from tests.support.searching import World

SMALL = {
    "model": {"embedding_size": 32, "hidden_size": 24},
    "batches": {"size": 64},
    "fit": {"precision": "float32"},
    "samples": 0,
}


Job = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def job(capsys: pytest.CaptureFixture[str]) -> Job:
    """Call a job's main with these flags; return its exit code, result and error text."""

    def run(main: Callable[[Sequence[str]], int], *flags: object) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main([str(flag) for flag in flags])
        printed = capsys.readouterr()
        lines = printed.out.splitlines()
        return code, json.loads(lines[-1]) if lines else {}, printed.err

    return run


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 1,500 training and 150 validation questions."""
    from seqvis.samples.questions import generate_pairs
    from tests.support.corpora import write_corpus

    pairs = generate_pairs(1650, seed=3)
    return write_corpus(tmp_path_factory.mktemp("questions") / "corpus", pairs[150:], pairs[:150])


@pytest.fixture(scope="session")
def trained_translator(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """A small `all`, trained for a few epochs: it makes mistakes, but of every length."""
    from seqvis.translation.task import TrainSettings
    from seqvis.translation.train import train
    from seqvis.translation.translator import Translator

    out = str(tmp_path_factory.mktemp("model") / "translator")
    choices = {"epochs": 3, "optimizer": {"learning_rate": 0.01}, "variant": "all"}
    settings = TrainSettings(corpus=str(questions), out=out, **SMALL, **choices)
    train(settings, lambda event: None)
    return Translator.load(out)


@pytest.fixture(scope="session")
def translator(trained_translator: Translator) -> Translator:
    return trained_translator


@pytest.fixture(scope="session", params=["native", "PyTorch"])
def either_translator(trained_translator: Translator, request: pytest.FixtureRequest) -> Translator:
    """The translator as it decodes with the extension, and without it."""
    from seqvis.decoding.native import NativeSeq2Seq
    from seqvis.translation.translator import Translator

    trained = trained_translator
    if request.param == "native":
        if not isinstance(trained.packed, NativeSeq2Seq):
            pytest.skip("seqvis/native was not built, or is switched off: make native")
        return trained
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQVIS_NATIVE", "0")
        return Translator(trained.models, trained.languages)


@pytest.fixture(scope="session", autouse=True)
def slow_steps_once() -> Iterator[None]:
    """Read WordNet once, ask it for the same neighbours once, and draw no curves.

    How curves look is tested in plots/, and the jobs in tests/ray draw theirs.
    """
    from seqvis.devise.labels import WordNet

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WordNet, "load", cache(WordNet.load))
        patch.setattr(WordNet, "nearest_labels", cache(WordNet.nearest_labels))
        patch.setattr(
            "seqvis.plots.figures.plot_curves",
            lambda path, *_, **__: path.write_bytes(b"curves"),
        )
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Drawn pictures with a model, word vectors and a collection."""
    from tests.support.searching import make_world

    return make_world(tmp_path_factory.mktemp("world"))

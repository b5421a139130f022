"""A right-to-left model is one whose targets are reversed, and nobody who uses it notices."""

import threading
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from seqvis import artifacts
from seqvis.corpus.pairs import validation_texts
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.direction import Direction, as_written
from seqvis.samples.questions import generate_pairs
from seqvis.text.vocabulary import EOS, PAD
from seqvis.translation.evaluate import losses
from seqvis.translation.inflight import InflightTranslator
from seqvis.translation.requests import Listener, Timing
from seqvis.translation.results import Translation
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.translation.translator import Translator
from tests.unit.conftest import SMALL

TEXTS = [pair[0] for pair in generate_pairs(20, seed=31)]


def test_the_words_before_the_end_are_reversed() -> None:
    target = torch.tensor([[7, 8, 9, EOS], [5, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [PAD] * 4])
    reversed_target = torch.tensor(
        [[9, 8, 7, EOS], [5, EOS, PAD, PAD], [EOS, PAD, PAD, PAD], [PAD] * 4]
    )
    assert torch.equal(as_written(target, "right-to-left"), reversed_target)
    assert torch.equal(as_written(target, "left-to-right"), target)


@pytest.fixture(scope="module")
def mirrored(questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of questions with the words of each target reversed."""
    corpus = artifacts.load(str(questions), "corpus")
    folder = tmp_path_factory.mktemp("mirrored") / "corpus"
    with artifacts.create(str(folder), "corpus", corpus.config) as writer:
        for name in corpus.files:
            if not name.endswith(".parquet"):
                writer.path(name).write_bytes(corpus.file(name).read_bytes())
                continue
            table = pq.read_table(corpus.file(name).path)
            place = table.column_names.index("target")
            targets = [[*ids[-2::-1], EOS] for ids in table["target"].to_pylist()]
            column = pa.array(targets, pa.list_(pa.uint16()))
            pq.write_table(table.set_column(place, "target", column), writer.path(name).path)
    return folder


def _trained(corpus: Path, out: Path, direction: Direction) -> Translator:
    choices = {"epochs": 1, "optimizer": {"learning_rate": 0.01}, "direction": direction}
    settings = TrainSettings(corpus=str(corpus), out=str(out), **SMALL, **choices)
    train(settings, lambda event: None)
    return Translator.load(settings.out)


@pytest.fixture(scope="module")
def pair(
    questions: Path, mirrored: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Translator, Translator]:
    """A right-to-left translator, and a left-to-right one of reversed targets."""
    folder = tmp_path_factory.mktemp("pair")
    return (
        _trained(questions, folder / "backwards", "right-to-left"),
        _trained(mirrored, folder / "mirrored", "left-to-right"),
    )


def test_it_is_trained_as_on_reversed_targets(pair: tuple[Translator, Translator]) -> None:
    backwards, mirrored = pair
    assert (backwards.direction, mirrored.direction) == ("right-to-left", "left-to-right")
    for ours, theirs in zip(backwards.model.parameters(), mirrored.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for name in ("loss", "forced_loss", "accuracy"):
        assert backwards.artifact.metrics[name] == mirrored.artifact.metrics[name]


def test_scoring_finds_the_losses_of_its_training(
    pair: tuple[Translator, Translator], questions: Path
) -> None:
    backwards, _ = pair
    measured = losses(backwards, *validation_texts(artifacts.load(str(questions), "corpus")))
    for name, value in measured.items():
        assert value == pytest.approx(backwards.artifact.metrics[name], rel=1e-4), name


@pytest.mark.parametrize("beam", [1, 3])
def test_translations_are_in_reading_order(pair: tuple[Translator, Translator], beam: int) -> None:
    settings = DecodingSettings(beam=beam, n_best=beam)
    ours, theirs = (translator.translate(TEXTS, settings) for translator in pair)
    for translation, reflection in zip(ours, theirs, strict=True):
        for alternative, mirrored in zip(
            translation.alternatives, reflection.alternatives, strict=True
        ):
            assert alternative.tokens == mirrored.tokens[::-1]
            assert alternative.score == mirrored.score
            assert alternative.attention is not None
            assert mirrored.attention is not None
            assert torch.equal(alternative.attention, mirrored.attention.flip(0))


class _Heard(Listener):
    def __init__(self) -> None:
        self.partial: list[str] = []
        self.ended = threading.Event()

    def translated(self, index: int, translation: Translation, timing: Timing) -> None:
        self.text = translation.text
        self.ended.set()

    def on_partial(self, index: int, text: str) -> None:
        self.partial.append(text)

    def on_error(self, error: BaseException) -> None:
        self.ended.set()


def test_in_flight_its_texts_grow_at_their_beginning(pair: tuple[Translator, Translator]) -> None:
    backwards, _ = pair
    heard = _Heard()
    with closing(InflightTranslator(backwards)) as inflight:
        inflight.submit([TEXTS[0]], DecodingSettings(), heard, partial=True)
        assert heard.ended.wait(30)
    assert heard.text == backwards.translate(TEXTS[0]).text
    assert len(heard.partial) > 1
    for shorter, longer in zip(heard.partial, heard.partial[1:], strict=False):
        assert longer.lower().endswith(shorter.lower())

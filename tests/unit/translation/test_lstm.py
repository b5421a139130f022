"""A translator of LSTMs does what one of GRUs does, through the jobs' own mains."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jobs import evaluate_translator, train_translator, translate
from seqvis.decoding.beam import DecodingSettings
from seqvis.samples.questions import generate_pairs
from seqvis.translation.inflight import InflightSettings, InflightTranslator
from seqvis.translation.task import TranslationTask
from seqvis.translation.translator import Translator
from tests.support.corpora import write_corpus
from tests.unit.conftest import Job
from tests.unit.translation.test_inflight import Heard

SENTENCES = ["Où est le chat ?", "Quand dort la tortue ?", "Qui dort ?"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = generate_pairs(330, seed=3)
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", pairs[30:], pairs[:30])


def flags(corpus: Path, out: Path, cell: str = "lstm") -> list[object]:
    return [
        "--corpus", corpus, "--out", out, "--model.cell", cell, "--epochs", 2,
        "--model.embedding-size", 32, "--model.hidden-size", 24, "--model.dropout.weight", 0.1,
        "--batches.size", 64, "--samples", 0, "--num-workers", 0, "--fit.precision", "float32",
        "--optimizer.learning-rate", 0.01,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def gru(corpus: Path) -> Path:
    """A translator of GRUs with the same words."""
    out = corpus.parent / "gru"
    assert train_translator.main([str(flag) for flag in flags(corpus, out, "gru")]) == 0
    return out


def test_it_trains_resumes_translates_and_serves_beside_a_gru(
    corpus: Path, gru: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    code, result, error = job(train_translator.main, *flags(corpus, whole))
    assert code == 0, error
    assert 0 < result["attention_entropy"] < 1

    batches, original = 0, TranslationTask.loss

    def loss(self: TranslationTask, *arguments: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 8:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(TranslationTask, "loss", loss)
    often = ["--fit.checkpoint-minutes", 1e-9]
    assert job(train_translator.main, *flags(corpus, parts), *often)[0] == 130
    code, _, error = job(train_translator.main, *flags(corpus, parts), *often)
    assert (code, "(epoch 2, batch " in error) == (0, True), error
    uninterrupted, resumed = ((out / "model.safetensors").read_bytes() for out in (whole, parts))
    assert uninterrupted == resumed

    picture = tmp_path / "attention.png"
    drawn = ["--model", str(whole), "--beam", "3", "--attention", str(picture), SENTENCES[0]]
    assert translate.main(drawn) == 0
    assert picture.exists()
    both = ["--model", whole, "--model", gru, "--corpus", corpus, "--beam", 2]
    code, result, error = job(evaluate_translator.main, *both)
    assert code == 0, error
    assert result["sentences"] == 30

    translator = Translator.load(str(whole))
    expected = [translator.translate(text, DecodingSettings(beam=2)).text for text in SENTENCES]
    heard = Heard()
    with closing(InflightTranslator(translator, InflightSettings())) as inflight:
        inflight.submit(SENTENCES, DecodingSettings(beam=2), heard)
        heard.wait(len(SENTENCES))
    assert [heard.translations[number].text for number in range(len(SENTENCES))] == expected


def test_it_cannot_start_from_a_gru(corpus: Path, gru: Path, tmp_path: Path, job: Job) -> None:
    more = ["--init", gru]
    code, _, error = job(train_translator.main, *flags(corpus, tmp_path / "out"), *more)
    assert code == 2
    assert "give the --variant and the settings of --model with which that one was" in error

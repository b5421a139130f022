"""How sure a translator says it is of its translations, and whether that is so."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jobs.evaluate_translator import main as evaluate
from jobs.translate import main as translate
from seqvis.decoding.beam import DecodingSettings, Hypothesis
from seqvis.errors import ConfigError
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.state import SourceBatch, pad_ids
from seqvis.text.vocabulary import EOS
from seqvis.translation import confidence
from seqvis.translation.confidence import CALIBRATION
from seqvis.translation.evaluate import reliability, store_calibration
from seqvis.translation.reranking import log_probabilities
from seqvis.translation.translator import Translator
from tests.support.models import copied
from tests.unit.conftest import Job

STRANGE = "Bonjour le monde"
FAIR = 25.0  # chrF that a good part of the small translator's translations reach
VALID, TEST = generate_pairs(300, seed=41), generate_pairs(300, seed=42)


def sides(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    sources, references = zip(*pairs, strict=True)
    return list(sources), list(references)


@pytest.fixture(scope="module")
def calibrated(translator: Translator, tmp_path_factory: pytest.TempPathFactory) -> Translator:
    """The translator of which a fair translation counts as good, since it makes no better ones."""
    path = copied(translator, tmp_path_factory.mktemp("calibrated") / "translator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confidence, "GOOD", FAIR)
        store_calibration(Translator.load(path), *sides(VALID))
    return Translator.load(path)


def test_training_stores_how_sure_the_translator_is(translator: Translator) -> None:
    assert translator.calibration is not None
    assert translator.calibration.good_chrf == 60
    assert translator.calibration.sentences == 300  # 150, and again with unknown words
    sure = translator.translate("Où est le chat ?").confidence
    assert sure is not None
    assert 0 < sure < 1
    assert translator.translate("").confidence == 1


@pytest.mark.parametrize("beam", [1, 4])
def test_new_sentences_are_as_often_good_as_the_confidence_says(
    calibrated: Translator, beam: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confidence, "GOOD", FAIR)
    sources, references = sides(TEST)
    translations = calibrated.translate(sources, DecodingSettings(beam=beam))
    result = reliability(translations, references, lowercase=True)
    assert result["calibration_error"] < 0.1
    assert result["confidence_auc"] > 0.6
    assert 0.1 < result["good_share"] < 0.9


def test_unknown_words_make_it_less_sure(calibrated: Translator) -> None:
    known = calibrated.translate([source for source, _ in TEST])
    strange = calibrated.translate(STRANGE)
    assert strange.unknown == ["Bonjour", "monde"]
    sure = [translation.confidence or 0 for translation in known]
    assert strange.confidence is not None
    assert strange.confidence < np.median(sure) / 1.5


def test_a_translation_that_was_cut_is_not_good(calibrated: Translator) -> None:
    (source,) = calibrated.read(["Où est le chat ?"])
    whole, cut = (Hypothesis([7, 8], -0.1, None, end, -0.1) for end in (True, False))
    assert calibrated.translation(source, [whole]).confidence
    assert calibrated.translation(source, [cut]).confidence == 0


@pytest.mark.parametrize("settings", [
    DecodingSettings(),
    DecodingSettings(length_penalty=0.3),
    DecodingSettings(beam=3, n_best=3),
    DecodingSettings(beam=3, n_best=3, length_penalty=0.0),
])  # fmt: skip
def test_the_mean_log_probability_is_that_of_the_words(
    either_translator: Translator, settings: DecodingSettings
) -> None:
    sources = either_translator.read([source for source, _ in TEST[:20]])
    n_best = either_translator._search(sources, settings, 64)
    for source, hypotheses in zip(sources, n_best, strict=True):
        for hypothesis in hypotheses:
            end = [EOS] * hypothesis.finished
            target, _ = pad_ids([[*hypothesis.ids, *end]])
            logs = log_probabilities(either_translator.model, SourceBatch.of([source.ids]), target)
            mean = float(logs) / target.shape[1]
            assert hypothesis.log_probability == pytest.approx(mean, abs=2e-3)


def test_the_regression_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(1)
    features = np.c_[np.ones(400), generator.normal(-1, 0.5, 400), generator.random(400)]
    chances = 1 / (1 + np.exp(-features @ [2, 1.5, -3]))
    good = generator.random(400) < chances
    count = good.sum()  # Platt's targets are weights of two copies of each case
    share = np.where(good, (count + 1) / (count + 2), 1 / (400 - count + 2))
    expected = LogisticRegression(fit_intercept=False, C=1e3, tol=1e-8).fit(
        np.r_[features, features], np.repeat([1, 0], 400), sample_weight=np.r_[share, 1 - share]
    )
    assert confidence._fit(features, good) == pytest.approx(expected.coef_[0], abs=1e-3)


@pytest.mark.parametrize("good", [True, False])
def test_where_nothing_or_everything_is_good_the_confidence_is_near_to_that(good: bool) -> None:
    features = np.c_[np.ones(50), np.linspace(-3, 0, 50), np.zeros(50)]
    weights = confidence._fit(features, np.full(50, good))
    assert 1 / (1 + np.exp(-features @ weights)) == pytest.approx(abs(good - 0.02), abs=0.02)


def test_a_translator_without_a_calibration_says_so_and_can_get_one(
    translator: Translator, tmp_path: Path, job: Job
) -> None:
    path = copied(translator, tmp_path / "old", without=CALIBRATION)
    old = Translator.load(path)
    assert old.translate(STRANGE).confidence is None
    with pytest.raises(ConfigError, match="evaluate-translator --calibrate"):
        old.translate(STRANGE, min_confidence=0.5)
    for side, name in enumerate(("source", "reference")):
        (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in VALID))
    files = ["--source", tmp_path / "source", "--reference", tmp_path / "reference"]
    assert "calibration_error" not in job(evaluate, "--model", path, *files)[1]
    code, result, _ = job(evaluate, "--model", path, *files, "--calibrate")
    assert code == 0
    assert result["calibration_error"] < 0.1
    new = Translator.load(path)
    assert new.translate(STRANGE).confidence is not None
    assert {**new.artifact.files, CALIBRATION: None} == {
        **old.artifact.files,
        CALIBRATION: None,
    }
    assert new.artifact.metrics == old.artifact.metrics
    code, _, said = job(evaluate, "--model", path, "--model", path, *files, "--calibrate")
    assert (code, "one --model at a time" in said) == (2, True)


def test_less_sure_translations_are_marked(calibrated: Translator) -> None:
    plain = calibrated.translate([STRANGE, *sides(TEST)[0]])
    middle = float(np.median([translation.confidence for translation in plain]))
    marked = calibrated.translate([STRANGE, *sides(TEST)[0]], min_confidence=middle)
    assert marked[0].refused is not None
    assert marked[0].refused.endswith("; new to the model: Bonjour, monde")
    for before, after in zip(plain, marked, strict=True):
        assert after.text == before.text
        assert bool(after.refused) == (before.confidence < middle)
    assert all(translation.refused is None for translation in plain)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        calibrated.translate(STRANGE, min_confidence=50)


def test_the_job_shows_how_sure_it_is_and_refuses(calibrated: Translator, job: Job) -> None:
    model = ["--model", calibrated.artifact.location.path]
    code, result, said = job(translate, *model, "--format", "json", STRANGE)
    assert code == 0
    assert result["unknown_words"] == ["Bonjour", "monde"]
    assert result["confidence"] == pytest.approx(calibrated.translate(STRANGE).confidence, abs=1e-4)
    assert "Bonjour, monde" in said
    assert "unsure of 1 of 1 translations" in said


def test_the_job_leaves_the_lines_of_refused_translations_empty(
    calibrated: Translator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = [STRANGE, *sides(TEST)[0][:20]]
    plain = calibrated.translate(sources)
    least = float(np.median([translation.confidence for translation in plain]))
    (tmp_path / "in").write_text("\n".join(sources) + "\n")
    flags = ["--model", calibrated.artifact.location.path, "--min-confidence", str(least)]
    flags += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert translate(flags) == 1
    said = capsys.readouterr().err
    assert "10 of 21 translations were refused" in said
    assert f"'{STRANGE}': its confidence is" in said
    kept = [each.text if each.confidence >= least else "" for each in plain]
    assert (tmp_path / "out").read_text().split("\n")[:-1] == kept
    assert translate([*flags, "--format", "json"]) == 1
    lines = (tmp_path / "out").read_text().splitlines()
    assert [bool(json.loads(line)["refused"]) for line in lines] == [not text for text in kept]
    assert json.loads(lines[0])["translations"] == []

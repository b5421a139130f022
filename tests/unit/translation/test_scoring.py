"""How a translator is scored, by evaluate_translator and while it is trained."""

import json
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU

from jobs.evaluate_translator import main as evaluate
from seqvis import artifacts
from seqvis.corpus.pairs import load_pairs
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.native import NativeBatch
from seqvis.native import is_native
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.state import pad_ids
from seqvis.text.languages import load_languages
from seqvis.text.vocabulary import EOS, PAD
from seqvis.training.workers import Workers
from seqvis.translation import evaluate as scoring
from seqvis.translation.evaluate import evaluate as score
from seqvis.translation.task import TrainSettings, TranslationTask
from seqvis.translation.train import train as fit_translator
from seqvis.translation.translator import Translator
from tests.support.lesson import lesson_forward, lesson_loss
from tests.unit.conftest import SMALL

Capture = pytest.CaptureFixture[str]


def test_training_and_evaluation_score_with_case_alike(translator: Translator) -> None:
    evaluated, _ = score(translator, ["Où est le chat ?"], ["x"], DecodingSettings())
    assert translator.languages.keep_case is False
    assert "case:lc" in evaluated["signature"]
    lowercase = score(translator, ["Où ?"], ["x"], DecodingSettings(), lowercase=False)[0]
    assert "case:mixed" in lowercase["signature"]


def test_validation_decodes_as_a_translator_does(
    translator: Translator, questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extension; without it, the texts are the same."""
    if not is_native("float32"):
        pytest.skip("seqvis/native was not built, or is switched off: make native")
    settings = TrainSettings(corpus=str(questions), out="", **SMALL | {"samples": 150})
    task = TranslationTask(settings.resolved())
    batches: list[NativeBatch] = []
    join = NativeBatch.join

    def joined(batch: NativeBatch, *given: Any) -> None:
        batches.append(batch)
        join(batch, *given)

    monkeypatch.setattr(NativeBatch, "join", joined)
    results = []
    for switch in "10":
        monkeypatch.setenv("SEQVIS_NATIVE", switch)
        results.append(task.evaluate(translator.model, Workers()))
        assert batches
    assert len(batches) == 1
    for key in ("samples", "bleu", "chrf"):
        assert results[0][key] == results[1][key]


def test_evaluation_gives_sacrebleus_own_figures(
    model: str, files: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "translations.en"
    flags = ["--model", model, "--source", files[0], "--reference", files[1]]
    assert evaluate([*flags, "--output", str(out)]) == 0
    result = json.loads(capsys.readouterr().out)
    names = "bleu chrf loss loss_with_padding accuracy sentences_per_second signature"
    assert set(names.split()) <= set(result)
    references = Path(files[1]).read_text().splitlines()
    expected = BLEU().corpus_score(out.read_text().splitlines(), [references]).score
    assert result["bleu"] == pytest.approx(expected, abs=0.01)
    assert "tok:13a" in result["signature"]
    assert evaluate([*flags, "--scoring", "moses", "--beam", "2"]) == 0
    assert "moses(en)" in json.loads(capsys.readouterr().out)["signature"]


def test_the_losses_of_plain_are_those_of_the_lessons_steps(
    questions: Path, files: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    """200 sentences are one batch of the lesson's validation."""
    out = str(tmp_path / "plain")
    choices = {"epochs": 1, "optimizer": {"learning_rate": 0.01}, "variant": "plain"}
    fit_translator(
        TrainSettings(corpus=str(questions), out=out, **SMALL, **choices),
        lambda event: None,
    )
    assert evaluate(["--model", out, "--source", files[0], "--reference", files[1]]) == 0
    result = json.loads(capsys.readouterr().out)
    translator = Translator.load(out)
    languages = translator.languages
    lines = [Path(name).read_text().splitlines() for name in files]
    sources = [list(languages.read(text).ids) for text in lines[0]]
    target, _ = pad_ids([languages.target_ids(text) for text in lines[1]])
    logits = lesson_forward(translator.model, sources, target.shape[1])
    expected = float(lesson_loss(logits, target.t()))
    assert result["loss_with_padding"] == pytest.approx(expected, rel=1e-5)
    expected = float(lesson_loss(logits, target.t(), ignore_index=PAD))
    assert result["loss"] == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_says_how_much_of_it_was_trained_on(
    model: str, tmp_path: Path, capsys: Capture
) -> None:
    pairs = generate_pairs(1650, seed=3)  # the first 150 were held out
    train, valid = list(dict.fromkeys(pairs[150:])), list(dict.fromkeys(pairs[:150]))
    valid = [pair for pair in valid if pair not in set(train)]

    def share(chosen: list[tuple[str, str]]) -> tuple[float, str]:
        for side, name in enumerate(("source", "reference")):
            (tmp_path / name).write_text("".join(f"{pair[side]}\n" for pair in chosen))
        files = ["--source", str(tmp_path / "source"), "--reference", str(tmp_path / "reference")]
        capsys.readouterr()
        assert evaluate(["--model", model, *files]) == 0
        said = capsys.readouterr()
        return json.loads(said.out)["trained_share"], said.err

    longest = sorted(train, key=lambda pair: -len(pair[0]))
    assert share(longest[:60])[0] == 1
    assert share(valid[:60]) == (0, "")
    mixed, said = share([*train[100:115], *valid[:45]])
    assert mixed == 0.25
    assert "25% of these sentence pairs were in the training" in said
    assert share([(known[0], new[1]) for known, new in zip(train[:9], valid, strict=False)])[0] == 0
    assert share([(f"  {source}  ", f" {target}") for source, target in train[:9]])[0] == 1


def test_of_many_pairs_a_part_is_recorded_and_the_share_estimated(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MOST_PAIRS", 500)
    corpus = artifacts.load(str(questions), "corpus")
    with artifacts.create(str(tmp_path / "model"), "translator", {}) as writer:
        scoring.write_trained_pairs(writer, load_pairs(corpus, "train"))
    kept = artifacts.load(str(tmp_path / "model"), "translator")
    pairs = generate_pairs(1650, seed=3)
    texts = [[pair[side] for pair in pairs[150:450]] for side in range(2)]
    assert scoring.trained_share(kept, load_languages(corpus), *texts) == 1
    # A sentence that prepare_corpus cut is known by what was kept of it.
    whole, short = list(range(9, 30)), [*range(9, 19), EOS]
    assert list(scoring._cut([*whole, EOS], 11)) == short
    assert list(scoring._cut(short, 11)) == short
    assert scoring.trained_share(corpus, load_languages(corpus), *texts) is None


def test_a_corpus_stands_for_the_files_of_its_validation_part(
    model: str, questions: Path, tmp_path: Path, capsys: Capture
) -> None:
    pairs = generate_pairs(1650, seed=3)[:150]  # what the corpus was written from
    for side, name in enumerate(("source", "reference")):
        (tmp_path / name).write_text("".join(pair[side] + "\n" for pair in pairs))
    files = ["--source", str(tmp_path / "source"), "--reference", str(tmp_path / "reference")]
    results = []
    for flags in (["--corpus", str(questions)], files):
        assert evaluate(["--model", model, *flags]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert results[0]["bleu"] == results[1]["bleu"]
    assert results[0]["loss"] == results[1]["loss"]
    empty = ["--source", "", "--reference", ""]
    for flags in ([], files[:2], empty, [*files, "--corpus", str(questions)]):
        assert evaluate(["--model", model, *flags]) == 2
        assert "give --source and --reference, or --corpus alone" in capsys.readouterr().err

"""Ensembles, rescoring and Bayes risk, from models to jobs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sacrebleu.metrics import CHRF

from jobs.evaluate_translator import main as evaluate
from jobs.translate import main as translate
from seqvis import artifacts
from seqvis.decoding.beam import DecodingSettings
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.state import NEVER_GENERATED, SourceBatch
from seqvis.text.vocabulary import EOS
from seqvis.translation.reranking import Reranker, RerankingSettings, expected_chrf
from seqvis.translation.results import Alternative, Translation
from seqvis.translation.trained import TrainedModel
from seqvis.translation.translator import Translator
from tests.support.models import copied
from tests.unit.conftest import Job

TEXTS = [pair[0] for pair in generate_pairs(12, seed=41)]
BEAM = DecodingSettings(beam=4, n_best=4, length_penalty=0.7)


def turned(translator: Translator) -> TrainedModel:
    """The model as if it had been trained on reversed targets."""
    config = {**translator.artifact.config, "direction": "right-to-left"}
    return TrainedModel(translator.model, replace(translator.artifact, config=config))


def reranked(translator: Translator, *rescorers: TrainedModel, **settings: Any) -> Translator:
    reranker = Reranker(RerankingSettings(**settings), rescorers)
    return Translator(translator.models, translator.languages, reranker=reranker)


def log_probability(model: Seq2Seq, source: Sequence[int], ids: Sequence[int]) -> float:
    words = [*ids, EOS]
    forced = torch.ones(len(words), dtype=torch.bool)
    with torch.no_grad():
        output = model(SourceBatch.of([source]), torch.tensor([words]), forced)
        scores = model.decoder.projection(output.features[:, 0])
        scores[:, NEVER_GENERATED] = -torch.inf
    logs = torch.log_softmax(scores, -1)
    return float(logs.gather(1, torch.tensor(words)[:, None]).sum())


def by_text(translation: Translation) -> dict[str, Alternative]:
    return {alternative.text: alternative for alternative in translation.alternatives}


def test_a_model_that_rescores_itself_changes_nothing(translator: Translator) -> None:
    plain = translator.translate(TEXTS, BEAM)
    again = reranked(translator, translator.models[0]).translate(TEXTS, BEAM)
    for translation, original in zip(again, plain, strict=True):
        assert translation.text == original.text
        for ours, theirs in zip(translation.alternatives, original.alternatives, strict=True):
            assert ours.score == pytest.approx(theirs.score, abs=1e-4)


def test_a_right_to_left_model_scores_the_words_reversed(translator: Translator) -> None:
    """All of a beam is known and kept: scores change, and with them the order."""
    plain = translator.translate(TEXTS, BEAM)
    rescored = reranked(translator, turned(translator), rescore_weight=0.5).translate(TEXTS, BEAM)
    changed = 0
    for text, before, after in zip(TEXTS, plain, rescored, strict=True):
        source, own = translator.languages.read(text), by_text(before)
        assert own.keys() == by_text(after).keys()
        scores = [alternative.score for alternative in after.alternatives]
        assert scores == sorted(scores, reverse=True)
        for alternative in after.alternatives:
            ids = translator.languages.target_vocabulary.ids(alternative.tokens)
            other = log_probability(translator.model, source.ids, ids[::-1])
            penalised = other / ((5 + len(ids) + 1) / 6) ** BEAM.length_penalty
            expected = (own[alternative.text].score + 0.5 * penalised) / 1.5
            assert alternative.score == pytest.approx(expected, abs=1e-3)
        changed += before.text != after.text
    assert changed


def test_rescoring_returns_as_many_as_were_asked_for(translator: Translator) -> None:
    rescored = reranked(translator, turned(translator))
    best = rescored.translate(TEXTS, DecodingSettings(beam=4, length_penalty=0.7))
    all_of_them = rescored.translate(TEXTS, BEAM)
    assert [len(translation.alternatives) for translation in best] == [1] * len(TEXTS)
    assert [translation.text for translation in best] == [
        translation.text for translation in all_of_them
    ]


def test_least_risk_is_the_highest_expected_chrf(translator: Translator) -> None:
    plain = translator.translate(TEXTS, BEAM)
    least = reranked(translator, select="mbr").translate(TEXTS, BEAM)
    for before, after in zip(plain, least, strict=True):
        lengths = [
            len(alternative.tokens) + alternative.complete for alternative in before.alternatives
        ]
        logs = [
            alternative.score * ((5 + length) / 6) ** BEAM.length_penalty
            for alternative, length in zip(before.alternatives, lengths, strict=True)
        ]
        weights = torch.tensor(logs).softmax(0).tolist()
        texts = [alternative.text for alternative in before.alternatives]
        expected = {
            text: sum(
                weight * CHRF().sentence_score(text, [other]).score
                for weight, other in zip(weights, texts, strict=True)
            )
            for text in texts
        }
        ranked = [expected[alternative.text] for alternative in after.alternatives]
        assert ranked == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-3)


def test_the_likeliest_may_be_unlike_all_others() -> None:
    texts = ["where is the cat?", "where does the cat sleep?", "where does the cat sleep now?"]
    expected = expected_chrf(texts, [-1.0, -1.1, -1.2])
    assert expected.argmin() == 0


@pytest.fixture
def model(translator: Translator) -> str:
    return translator.artifact.location.path


@pytest.fixture
def backwards(translator: Translator, tmp_path: Path) -> str:
    return copied(translator, tmp_path / "backwards", direction="right-to-left")


def test_an_ensemble_translates_through_the_job(
    model: str, translator: Translator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate(["--model", model, "--model", model, "--beam", "3", *TEXTS]) == 0
    expected = translator.translate(TEXTS, DecodingSettings(beam=3))
    assert capsys.readouterr().out.splitlines() == [translation.text for translation in expected]


def test_evaluation_takes_several_models_and_rescorers(
    model: str, backwards: str, translator: Translator, questions: Path, job: Job
) -> None:
    given = ("--corpus", questions, "--beam", 2)
    code, alone, _ = job(evaluate, "--model", model, *given)
    assert code == 0
    code, both, _ = job(evaluate, "--model", model, "--model", model, *given)
    assert code == 0
    assert (both["bleu"], both["trained_share"]) == (alone["bleu"], alone["trained_share"])
    assert "loss" in alone
    assert "loss" not in both
    options = ("--rescore", backwards, "--rescore", model, "--select", "mbr")
    code, chosen, _ = job(evaluate, "--model", model, *options, *given)
    assert code == 0
    assert chosen["sentences"] == alone["sentences"]


def test_what_cannot_work_together_is_refused(
    model: str, backwards: str, translator: Translator, tmp_path: Path, job: Job
) -> None:
    code, _, message = job(translate, "--model", model, "--model", backwards, TEXTS[0])
    assert code == 2
    assert f"{backwards}: writes right-to-left, {model} left-to-right" in message
    code, _, message = job(translate, "--model", model, "--rescore", backwards, TEXTS[0])
    assert code == 2
    assert "give --beam" in message
    other = str(tmp_path / "other")
    old = translator.artifact
    with artifacts.create(other, "translator", old.config) as writer:
        for name in old.files:
            content = old.file(name).read_bytes()
            if name == "target.vocab":
                content = content.replace(b"cat", b"dog", 1)
            writer.path(name).write_bytes(content)
    for flag in ("--model", "--rescore"):
        code, _, message = job(translate, "--model", model, flag, other, "--beam", 2, TEXTS[0])
        assert code == 2
        assert f"{other}: its target.vocab is not that of {model}" in message

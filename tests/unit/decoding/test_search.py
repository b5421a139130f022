"""Greedy and beam search, and what becomes of their words."""

import copy
import itertools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from seqvis.decoding.ahead import highest
from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.decoding.search import search
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import ForcingSettings, ModelSettings, resolve_variant
from seqvis.seq2seq.state import SourceBatch
from seqvis.text.vocabulary import EOS
from seqvis.translation.results import Alternative
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.translation.trained import TrainedModel
from seqvis.translation.translator import Translator
from tests.support.corpora import write_corpus
from tests.support.models import TIE, is_tie, log_probability

CAPTIONS: dict[str, Any] = {
    "model": {"embedding_size": 64, "hidden_size": 48, "embedding_deviation": 0.1},
    "batches": {"size": 64},
    "optimizer": {"learning_rate": 0.01},
    "fit": {"precision": "float32"},
    "samples": 0,
}


@pytest.fixture
def translator(either_translator: Translator) -> Translator:
    return either_translator


def tiny_model(words: int = 7) -> Seq2Seq:
    torch.manual_seed(1)
    sizes = ModelSettings(embedding_size=6, hidden_size=5)
    return Seq2Seq(resolve_variant("all", sizes, ForcingSettings())[0], 9, words).eval()


def test_a_wide_beam_finds_the_best_of_all_translations() -> None:
    """Of all with up to three words; this model's longer ones are less likely."""
    model = tiny_model()
    source = [4, 6, 5, 2]
    settings = DecodingSettings(beam=400, n_best=3, length_penalty=0.0, max_length_factor=0.01)
    words = (3, 4, 5, 6)
    everything = [[*some, EOS] for n in range(4) for some in itertools.product(words, repeat=n)]
    expected = sorted((log_probability(model, source, ids), ids) for ids in everything)[::-1]
    hypotheses = search(PackedSeq2Seq(model), SourceBatch.of([source]), settings)[0]
    for hypothesis, (score, ids) in zip(hypotheses, expected[:3], strict=True):
        assert [*hypothesis.ids, EOS] == ids
        assert hypothesis.score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("words", [30, 1000, 1280, 1300])
def test_the_highest_of_a_beam_are_those_of_a_plain_sort(words: int) -> None:
    """With few words and many, with and without a last block that is not full."""
    generator = torch.Generator().manual_seed(words)
    probabilities = torch.randn(7, 3, words, generator=generator)
    probabilities[:, :, 1] = -torch.inf
    before = torch.tensor([[0.0, -torch.inf, -torch.inf]] * 3 + [[0.0, -1.0, -2.5]] * 4)
    values, places = highest(probabilities, before, 6)
    totals = (before.unsqueeze(2) + probabilities).flatten(1)
    expected = totals.sort(1, descending=True)
    assert torch.equal(values, expected.values[:, :6])
    assert torch.equal(places, expected.indices[:, :6])


def test_a_hypothesis_has_the_score_of_its_words(translator: Translator) -> None:
    texts = [pair[0] for pair in generate_pairs(20, seed=9)]
    for settings in (DecodingSettings(), DecodingSettings(beam=3, n_best=3, length_penalty=0.7)):
        for text in texts:
            ids = list(translator.languages.read(text).ids)
            for hypothesis in search(translator.packed, SourceBatch.of([ids]), settings)[0]:
                words = [*hypothesis.ids, EOS] if hypothesis.finished else hypothesis.ids
                penalty = ((5 + len(words)) / 6) ** settings.length_penalty
                expected = log_probability(translator.model, ids, words) / penalty
                assert hypothesis.score == pytest.approx(expected, abs=1e-3)


def test_beam_search_returns_distinct_translations_best_first(translator: Translator) -> None:
    texts = [pair[0] for pair in generate_pairs(30, seed=10)]
    for result in translator.translate(texts, DecodingSettings(beam=4, n_best=4)):
        scores = [candidate.score for candidate in result.alternatives]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(candidate.tokens) for candidate in result.alternatives}) == len(scores)


def test_attention_has_a_row_a_word_and_sums_to_one(translator: Translator) -> None:
    for beam in (1, 3):
        result = translator.translate(["Où travaille ta sœur ?"], DecodingSettings(beam=beam))[0]
        best = result.alternatives[0]
        assert best.attention is not None
        assert best.attention.shape == (len(best.tokens), len(result.source_tokens) + 1)
        torch.testing.assert_close(best.attention.sum(1), torch.ones(len(best.tokens)))


def _best(translator: Translator, texts: Sequence[str], batch: int, beam: int) -> list[Alternative]:
    translations = translator.translate(list(texts), DecodingSettings(beam=beam), batch)
    return [translation.alternatives[0] for translation in translations]


def _is_tie(translator: Translator, text: str, first: str, second: str) -> bool:
    """Whether two greedy translations part at two words that are equally likely."""
    languages = translator.languages
    source = list(languages.read(text).ids)
    ids = [languages.target_ids(translation) for translation in (first, second)]
    return is_tie(translator.model, source, *ids, TIE)


def assert_independent_of_batches(translator: Translator, texts: Sequence[str], beam: int) -> None:
    """One by one, in batches of 64, and shuffled; differences must be ties, and are named."""
    order = list(range(len(texts)))
    random.Random(0).shuffle(order)
    alone = _best(translator, texts, 1, beam)
    batched = _best(translator, texts, 64, beam)
    shuffled = _best(translator, [texts[i] for i in order], 64, beam)
    back = {row: shuffled[place] for place, row in enumerate(order)}
    ties = []
    for row, text in enumerate(texts):
        for other in (batched[row], back[row]):
            if other.text != alone[row].text:
                tie = abs(other.score - alone[row].score) < TIE or (
                    beam == 1 and _is_tie(translator, text, other.text, alone[row].text)
                )
                assert tie, f"{text}: {alone[row].text!r} alone, {other.text!r} in a batch"
                ties.append(text)
    assert len(ties) <= 2, f"ties within rounding: {ties}"


@pytest.mark.parametrize("beam", [1, 4])
def test_a_translation_does_not_depend_on_its_batch(translator: Translator, beam: int) -> None:
    assert_independent_of_batches(translator, [pair[0] for pair in generate_pairs(75, 11)], beam)


@pytest.mark.slow
@pytest.mark.parametrize("beam", [1, 5])
def test_multi30ks_validation_set_does_not_depend_on_its_batches(
    captions: tuple[Translator, list[str]], beam: int
) -> None:
    translator, texts = captions
    assert_independent_of_batches(translator, texts if beam == 1 else texts[::3], beam)


@pytest.fixture(scope="module")
def captions(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Translator, list[str]]:
    """A small `all`, trained on some of Multi30k, and the French side of its validation set."""
    folder = tmp_path_factory.mktemp("captions")

    def pairs(name: str, lines: int | None) -> list[tuple[str, str]]:
        sides = [
            (shared_data / "multi30k" / f"{name}.{language}").read_text().split("\n")[:lines]
            for language in ("fr", "en")
        ]
        return [pair for pair in zip(*sides, strict=True) if all(pair)]

    valid = pairs("val", None)
    corpus = write_corpus(folder / "corpus", pairs("train", 2000), valid[:100])
    settings = TrainSettings(
        corpus=str(corpus), out=str(folder / "translator"), epochs=2, **CAPTIONS
    )
    train(settings, lambda event: None)
    return Translator.load(settings.out), [pair[0] for pair in valid]


def test_empty_and_strange_sentences_are_translated_without_harm(translator: Translator) -> None:
    texts = ["", "   ", "?", "🐈 🐈", "a" * 300, "mot " * 150]
    results = translator.translate(texts)
    assert [translation.source for translation in results] == texts
    assert results[0].text == results[1].text == ""


def test_a_translation_that_never_ends_is_cut(translator: Translator) -> None:
    model = copy.deepcopy(translator.model)
    with torch.no_grad():
        model.decoder.projection.bias[EOS] = -1e4
    endless = Translator([TrainedModel(model, translator.artifact)], translator.languages)
    for beam in (1, 3):
        settings = DecodingSettings(beam=beam, max_length_factor=1.0)
        best = endless.translate(["Où est le chat ?"], settings)[0].alternatives[0]
        assert not best.complete
        assert len(best.tokens) <= len(["Où", "est", "le", "chat", "?", "end"]) + 10

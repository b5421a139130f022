"""Several models that translate together give each word the mean of their probabilities."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from seqvis.decoding.beam import DecodingSettings
from seqvis.decoding.ensemble import Ensemble
from seqvis.decoding.packed import PackedSeq2Seq
from seqvis.decoding.search import search
from seqvis.seq2seq.model import Seq2Seq
from seqvis.seq2seq.settings import Variant
from seqvis.seq2seq.state import NEVER_GENERATED, SourceBatch
from seqvis.text.vocabulary import BOS, EOS
from tests.support.models import build, sources

MEMBERS: list[tuple[Variant, dict[str, Any]]] = [
    ("all", {}),
    ("all", {"layers": 3, "decoder_size": 14, "attention_size": 9, "readout": "context"}),
    ("bidir", {}),
    ("all", {"cell": "lstm", "decoder_size": 14}),
]
"""Of different sizes and layers, one without attention, one of LSTMs."""


def members(*numbers: int) -> list[Seq2Seq]:
    models = []
    for number in numbers:
        variant, options = MEMBERS[number]
        models.append(build(variant, **options))
    return models


def ensemble(models: Sequence[Seq2Seq]) -> Ensemble:
    return Ensemble([PackedSeq2Seq(model) for model in models])


def mean_of_forced(
    models: Sequence[Seq2Seq], source: list[int], ids: list[int]
) -> tuple[Tensor, Tensor | None]:
    """The mean of the models' probabilities (words, vocabulary), and of their attention."""
    forced = torch.ones(len(ids), dtype=torch.bool)
    probabilities, attention = [], []
    with torch.no_grad():
        for model in models:
            output = model(SourceBatch.of([source]), torch.tensor([ids]), forced)
            scores = model.decoder.projection(output.features[:, 0])
            scores[:, NEVER_GENERATED] = -torch.inf
            probabilities.append(torch.softmax(scores, -1))
            if output.attention is not None:
                attention.append(output.attention[:, 0])
    mean = torch.stack(attention).mean(0) if attention else None
    return torch.stack(probabilities).mean(0), mean


@pytest.mark.parametrize("numbers", [(0, 1), (2, 1, 0), (2, 2), (0, 3)], ids=str)
def test_a_step_has_the_mean_of_probabilities_and_attention(numbers: tuple[int, ...]) -> None:
    models = members(*numbers)
    together, (source,) = ensemble(models), sources(6)
    words = [7, 9, 5, 20]
    probabilities, attention = mean_of_forced(models, source, words)
    state = together.encode(SourceBatch.of([source]))
    for step, last in enumerate([BOS, *words[:-1]]):
        output = together.step(torch.tensor([last]), state)
        torch.testing.assert_close(output.scores[0].exp(), probabilities[step])
        assert (output.attention is None) == (attention is None)
        if output.attention is not None and attention is not None:
            torch.testing.assert_close(output.attention[0], attention[step])
        state = output.state


@pytest.mark.parametrize("beam", [1, 4])
def test_one_model_twice_finds_what_it_finds_alone(beam: int) -> None:
    (model,) = members(1)
    source, settings = SourceBatch.of(sources(4, 9, 6, 3)), DecodingSettings(beam=beam, n_best=beam)
    alone = search(PackedSeq2Seq(model), source, settings)
    for ours, theirs in zip(search(ensemble([model] * 2), source, settings), alone, strict=True):
        assert [hypothesis.ids for hypothesis in ours] == [hypothesis.ids for hypothesis in theirs]
        for hypothesis, reference in zip(ours, theirs, strict=True):
            assert hypothesis.score == pytest.approx(reference.score, abs=1e-4)
            assert hypothesis.attention is not None
            assert reference.attention is not None
            torch.testing.assert_close(hypothesis.attention, reference.attention)


@pytest.mark.parametrize("beam", [1, 4])
def test_a_translation_has_the_score_of_the_mean_whatever_stands_beside(beam: int) -> None:
    models, given = members(0, 1, 2, 3), sources(4, 9, 6, 3, 12)
    settings = DecodingSettings(beam=beam, n_best=beam)
    together = ensemble(models)
    n_best = search(together, SourceBatch.of(given), settings)
    for source, hypotheses in zip(given, n_best, strict=True):
        (alone,) = search(together, SourceBatch.of([source]), settings)
        assert [hypothesis.ids for hypothesis in alone] == [
            hypothesis.ids for hypothesis in hypotheses
        ]
        for hypothesis in hypotheses:
            words = [*hypothesis.ids, EOS] if hypothesis.finished else hypothesis.ids
            probabilities, _ = mean_of_forced(models, source, words)
            chosen = probabilities.gather(1, torch.tensor(words)[:, None])
            expected = float(chosen.log().sum()) / ((5 + len(words)) / 6)
            assert hypothesis.score == pytest.approx(expected, abs=1e-4)

"""The presets of lesson 11 against the lesson's own formulas."""

from pathlib import Path

import pytest

from seqvis.config import read_yaml
from seqvis.corpus.settings import PrepareSettings
from seqvis.devise.settings import DeviseSettings
from seqvis.seq2seq.settings import forcing_probability
from seqvis.training.schedules import OptimizerSettings, learning_rate
from seqvis.translation.task import TrainSettings

PRESETS = Path(__file__).parents[3] / "jobs" / "presets"


def translator(variant: str) -> TrainSettings:
    given = read_yaml(str(PRESETS / "lesson11-translator.yaml"))
    return TrainSettings(**given, variant=variant, corpus="x", out="y").resolved()


def head() -> DeviseSettings:
    given = read_yaml(str(PRESETS / "lesson11-devise.yaml"))
    return DeviseSettings(**given, features="x", vectors="x", out="y")


def use_clr(highest: float, step: int, steps: int, div: float = 20, pct: float = 10) -> float:
    """fastai 0.7's CircularLR with use_clr=(20, 10)."""
    cut = steps // pct
    height = 1 - (step - cut) / (steps - cut) if step > cut else step / cut
    return highest * (1 + height * (div - 1)) / div


@pytest.mark.parametrize(
    ("settings", "highest"), [(translator("plain").optimizer, 3e-3), (head().optimizer, 1e-2)]
)
def test_the_rate_follows_use_clr(settings: OptimizerSettings, highest: float) -> None:
    steps = 12 * 362
    for step in range(0, steps, 50):
        expected = use_clr(highest, step, steps)
        assert learning_rate(settings, step / steps) == pytest.approx(expected, rel=0.01), step


def test_forcing_falls_by_a_tenth_an_epoch_where_the_variant_forces() -> None:
    for variant in ("plain", "bidir", "force", "attn", "all"):
        forces = variant in ("force", "attn", "all")
        probabilities = [
            forcing_probability(translator(variant).forcing, epoch) for epoch in range(12)
        ]
        lessons = [(10 - epoch) * 0.1 if epoch < 10 else 0.0 for epoch in range(12)]
        assert probabilities == pytest.approx(lessons if forces else [0.0] * 12)


def test_pairs_are_chosen_as_the_lesson_chooses_them() -> None:
    given = read_yaml(str(PRESETS / "lesson11-corpus.yaml"))
    settings = PrepareSettings(**given, source="x", target="x", out="y")
    assert settings.filter == "questions"
    assert settings.max_target_length == len(["token"] * 29) + 1  # fewer than 30, and `_eos_`
    assert settings.source_percentile == settings.target_percentile == 99
    assert not settings.drop_duplicates
    assert not settings.max_length_ratio
    assert not settings.unknown_share

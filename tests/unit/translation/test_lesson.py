"""The presets of lesson 11 against the lesson's own formulas, and what its job trains again."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from jobs import lesson
from seqvis.config import Settings, merge, read_yaml
from seqvis.corpus.settings import PrepareSettings
from seqvis.devise.settings import DeviseSettings
from seqvis.samples.questions import generate_pairs
from seqvis.seq2seq.settings import forcing_probability
from seqvis.training.schedules import OptimizerSettings, learning_rate
from seqvis.translation.task import TrainSettings
from tests.support.corpora import write_corpus
from tests.support.devise import make_data
from tests.unit.conftest import SMALL

PRESETS = Path(__file__).parents[3] / "jobs" / "presets"


def translator(variant: str) -> TrainSettings:
    given = read_yaml(str(PRESETS / "lesson11-translator.yaml"))
    return TrainSettings(**given, variant=variant, corpus="x", out="y").resolved()


def head() -> DeviseSettings:
    given = read_yaml(str(PRESETS / "lesson11-devise.yaml"))
    return DeviseSettings(**given, features="x", vectors="x", out="y")


def corpus() -> PrepareSettings:
    given = read_yaml(str(PRESETS / "lesson11-corpus.yaml"))
    return PrepareSettings(**given, source="x", target="x", out="y")


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


# What the presets leave to the variant, to the sizes that they name, or to who runs them.
OPEN = {
    "translator": {
        "corpus", "out", "variant", "forcing.schedule", "model.attention", "model.bidirectional",
        "model.attention_size", "model.decoder_layers", "model.decoder_size", "scoring",
        "vectors_source", "vectors_target", "init", "init_encoder", "init_decoder",
        "thaw.rate_factor", "thaw.epochs",
    },
    "devise": {
        "features", "vectors", "out", "init", "head.freeze_norm", "unseen", "calibration.at",
        "validation_features", "validation_share", "losses.margin", "losses.scale",
    },
    "corpus": {
        "source", "target", "out", "pairs", "columns", "split", "valid_source", "valid_target",
        "valid_pairs", "valid_split", "allow_unequal", "max_bad_share", "max_line_bytes", "seed",
        "lines_per_block", "sentencepiece_size", "sentencepiece_joint", "sentencepiece_sample",
    },
}  # fmt: skip
OF_ALL = {
    "optimizer.epsilon", "optimizer.final_divisor", "optimizer.momentum_low",
    "fit.seed", "fit.checkpoint_minutes", "fit.allow_changes",
}  # fmt: skip


def names(values: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, value in values.items():
        path = f"{prefix}{name}"
        found |= names(value, f"{path}.") if isinstance(value, dict) else {path}
    return found


@pytest.mark.parametrize("name", OPEN)
def test_no_default_decides_what_the_lesson_fixes(name: str) -> None:
    settings = {"translator": translator("plain"), "devise": head(), "corpus": corpus()}
    given = read_yaml(str(PRESETS / f"lesson11-{name}.yaml"))
    unnamed = names(settings[name].model_dump()) - names(given)
    unnamed = {path for path in unnamed if not path.startswith("finetune.")}  # of no epochs
    assert unnamed - OF_ALL == OPEN[name]


def test_the_last_epoch_is_kept() -> None:
    assert translator("all").fit.monitor == head().fit.monitor == "epoch"


def test_pairs_are_chosen_as_the_lesson_chooses_them() -> None:
    settings = corpus()
    assert settings.filter == "questions"
    assert settings.max_target_length == len(["token"] * 29) + 1  # fewer than 30, and `_eos_`
    assert settings.source_percentile == settings.target_percentile == 99
    assert not settings.drop_duplicates
    assert not settings.max_length_ratio
    assert not settings.unknown_share


def rates(folder: Path, *models: str) -> list[list[float]]:
    """The learning rate after each epoch of these models."""
    kinds = {"plain": "translator", "devise": "devise", "devise-2": "devise"}
    return [
        [row["learning_rate"] for row in lesson._epochs(folder / name, kinds[name])]
        for name in models
    ]


def test_a_translator_is_trained_again_for_other_epochs_or_questions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = lesson._preset

    def small(kind: type[Settings], name: str, changes: dict[str, Any]) -> Settings:
        return preset(kind, name, merge(SMALL, changes))

    monkeypatch.setattr(lesson, "_preset", small)
    pairs = generate_pairs(120, seed=3)
    questions = write_corpus(tmp_path / "corpus", pairs[20:], pairs[:20])
    for epochs in (1, 2):  # of which the second were trained at the last rate of a cycle of one
        lesson._train_translator(lesson.Lesson(epochs=epochs), "plain", questions, {})
    once = OptimizerSettings(learning_rate=3e-3)
    assert rates(tmp_path, "plain") == [
        pytest.approx([learning_rate(once, share) for share in (0.5, 1.0)])
    ]
    weights = tmp_path / "plain" / "model.safetensors"
    before = weights.read_bytes()
    train = partial(lesson._train_translator, lesson.Lesson(epochs=2), "plain", questions, {})
    train()  # the same again changes nothing
    assert weights.read_bytes() == before
    write_corpus(questions, pairs[:100], pairs[100:])
    train()
    assert weights.read_bytes() != before


def test_the_heads_are_trained_again_for_other_epochs_or_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path, each=8)
    (tmp_path / "pictures").mkdir()
    monkeypatch.setattr(lesson, "embed_images", lambda *_: None)  # the features are there
    heads = list(lesson.HEADS)

    def train(epochs: int) -> list[bytes]:
        settings = lesson.Lesson(epochs=epochs)
        lesson._train_heads(settings, tmp_path, tmp_path / "vectors", tmp_path)
        return [(tmp_path / name / "model.safetensors").read_bytes() for name in heads]

    train(1)
    before = train(2)
    once = OptimizerSettings(learning_rate=1e-2)
    expected = pytest.approx([learning_rate(once, share) for share in (0.5, 1.0)])
    assert rates(tmp_path, *heads) == [expected, expected]
    assert train(2) == before
    make_data(tmp_path, each=9)
    assert all(ours != theirs for ours, theirs in zip(train(2), before, strict=True))

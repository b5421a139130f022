"""Lesson 11 run in small, by its own settings but for the sizes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs import lesson
from seqvis.samples.questions import generate_pairs
from tests.support.searching import draw

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALLER = {
    "embedding_size: 300": "embedding_size: 16",
    "hidden_size: 256": "hidden_size: 12",
    "size: 125": "size: 32",
    "hidden: 1024": "hidden: 16",
    "batch_size: 256": "batch_size: 8",
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Questions, and pictures whose labels are words of the questions."""
    folder = tmp_path / "data"
    for kind, label in enumerate(("where", "what", "who")):
        for split, count in (("train", 8), ("valid", 3)):
            pictures = folder / "pictures" / split / label
            pictures.mkdir(parents=True)
            for number in range(count):
                (pictures / f"{number}.jpg").write_bytes(draw(kind, number + 10 * (count < 8)))
    pairs = sorted(generate_pairs(1500, seed=2), key=lambda pair: len(pair[0]))[:300]
    for side, language in enumerate(("fr", "en")):
        text = "".join(pair[side] + "\n" for pair in pairs)
        (folder / f"train.{language}").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def small_presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    presets = Path(shutil.copytree(lesson.PRESETS, tmp_path / "presets"))
    for preset in presets.glob("lesson11-*.yaml"):
        text = preset.read_text(encoding="utf-8")
        for large, small in SMALLER.items():
            text = text.replace(large, small)
        preset.write_text(text, encoding="utf-8")
    monkeypatch.setattr(lesson, "PRESETS", presets)


@pytest.mark.usefixtures("small_presets", "no_processes")
def test_the_lesson_goes_on_where_it_was_interrupted_and_writes_its_table(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    flags = ["--data", data, "--out", out, "--epochs", 1, "--image-size", 32]
    words = [str(word) for word in flags]
    train = lesson.train_translator

    def interrupted(settings: Any, *arguments: Any, **more: Any) -> Any:
        if settings.variant == "attn":
            raise KeyboardInterrupt
        return train(settings, *arguments, **more)

    monkeypatch.setattr(lesson, "train_translator", interrupted)
    assert lesson.main(words) == 130
    assert (out / "force" / "manifest.json").exists()
    before = (out / "plain" / "model.safetensors").read_bytes()

    monkeypatch.setattr(lesson, "train_translator", train)
    for done in ("prepare", "build_store"):
        monkeypatch.setattr(lesson, done, None)  # it would be called again
    capsys.readouterr()
    assert lesson.main(words) == 0, capsys.readouterr().err
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(result["translators"]) == ["plain", "bidir", "force", "attn", "all"]
    assert (out / "plain" / "model.safetensors").read_bytes() == before
    page = (out / "lesson.md").read_text(encoding="utf-8")
    for variant, row in result["translators"].items():
        assert f"| {variant} | {row['lesson']:.3f} | {row['last']:.3f} |" in page
        assert page.count(f"    {variant:<6} ") == 10
        pictured = variant in ("attn", "all")
        assert (f"(attention-{variant}.png)" in page) == pictured
        if pictured:
            picture = (out / f"attention-{variant}.png").read_bytes()
            assert picture.startswith(b"\x89PNG")
    assert "| first epoch | last | best | hit@1 | seconds |" in page
    for name, losses in result["heads"].items():
        assert len(losses) == 1
        row = next(line for line in page.splitlines() if line.startswith(f"| {name} |"))
        assert row.split(" | ")[3:6] == [f"{losses[0]:.3f}"] * 3
    first, second = (load_file(out / name / "model.safetensors") for name in result["heads"])
    changed = {name for name, weight in first.items() if not torch.equal(weight, second[name])}
    norms = {name.rpartition(".")[0] for name in first if name.endswith("running_mean")}
    of_head = {name for name in first if name.startswith("head.")}
    assert changed == {name for name in of_head if name.rpartition(".")[0] not in norms}

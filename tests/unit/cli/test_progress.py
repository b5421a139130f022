"""What a job prints of its progress where nobody looks on, as in a log, and of its epochs."""

import re

import pytest

from seqvis.cli import console
from seqvis.cli.console import stage_progress, training_console


def test_a_log_has_a_line_for_each_tenth_that_takes_its_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with stage_progress() as show:
        for done in range(0, 61, 4):
            show("embedding images", done, 60)
            now += 0.6
        show("writing features", 0, 1234)
        for done in range(1, 1235):  # in no time
            show("writing features", done, 1234)
    assert capsys.readouterr().err.splitlines() == [
        "embedding images (60)",
        "embedding images: 8 of 60",
        "embedding images: 16 of 60",
        "embedding images: 24 of 60",
        "embedding images: 32 of 60",
        "embedding images: 40 of 60",
        "embedding images: 48 of 60",
        "embedding images: 56 of 60",
        "writing features (1,234)",
    ]


def test_the_table_of_epochs_has_every_measure_of_a_translator_in_a_hundred_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    losses = ("train_loss", "loss", "loss_with_padding", "forced_loss")
    row = {name: 12.3456 + number for number, name in enumerate(losses)}
    row |= {"attention_entropy": 0.7125, "accuracy": 0.654, "bleu": 59.12, "chrf": 71.23}
    row |= {"epoch": 12, "tokens_per_second": 12345.6, "seconds": 3456.7}
    with training_console() as show:
        show({"event": "epoch", "history": [row], "best_epoch": 12})
    head, values = capsys.readouterr().err.splitlines()
    names = "epoch|train loss|loss|padded|forced|entropy|accuracy|BLEU|chrF|tokens/s|seconds"
    assert re.split(" {2,}", head) == names.split("|")
    assert values.split()[1:6] == ["12.346", "13.346", "14.346", "15.346", "0.713"]
    assert len(head) == len(values) <= 100

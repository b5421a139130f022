"""What a job prints of its progress where nobody looks on, as in a log."""

import pytest

from seqvis.cli import console
from seqvis.cli.console import stage_progress


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

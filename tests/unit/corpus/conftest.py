"""Opening inputs in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from seqvis.corpus.inputs.source import PairSource


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PairSource]:
    """Index the input that these settings name, in a folder that they are relative to.

    What Ray's tasks would do is done here; tests/ray/test_prepare.py has the real ones.
    """
    from seqvis.cluster import ignore_progress
    from seqvis.corpus.inputs import textindex, tmx
    from seqvis.corpus.inputs.opening import open_input
    from seqvis.corpus.settings import PrepareSettings
    from seqvis.storage import locate

    for module in (textindex, tmx):
        monkeypatch.setattr(module, "run_items", lambda items, work, *_: map(work, items))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()

    def index(**settings: Any) -> PairSource:
        given = PrepareSettings(source_lang="fr", target_lang="en", out="out", **settings)
        return open_input(given, "train")(locate("scratch"), ignore_progress)

    return index

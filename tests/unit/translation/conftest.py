"""What the tests of the translation jobs need: a trained model, and questions in files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from seqvis.samples.questions import generate_pairs

# The main process of `pytest --numprocesses` reads this file too; it needs no PyTorch.
if TYPE_CHECKING:
    from seqvis.translation.translator import Translator


@pytest.fixture
def model(translator: Translator) -> str:
    return translator.artifact.location.path


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """200 questions in two aligned files."""
    pairs = generate_pairs(200, seed=20)
    for side, language in enumerate(("fr", "en")):
        lines = "".join(pair[side] + "\n" for pair in pairs)
        (tmp_path / f"questions.{language}").write_text(lines)
    return str(tmp_path / "questions.fr"), str(tmp_path / "questions.en")

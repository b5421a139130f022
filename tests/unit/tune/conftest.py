from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The main process of `pytest --numprocesses` reads this file too; it needs no PyTorch.
if TYPE_CHECKING:
    from tune.study.space import Space


@pytest.fixture
def space(tmp_path: Path) -> Space:
    from seqvis.translation.task import TrainSettings
    from tests.support.played import EPOCHS, SPACE
    from tune.study.settings import TRANSLATOR
    from tune.study.space import load_space

    (tmp_path / "space.yaml").write_text(SPACE)
    base = TrainSettings(corpus="c", out="o", epochs=EPOCHS).model_dump()
    return load_space(str(tmp_path / "space.yaml"), TRANSLATOR, base, "loss")

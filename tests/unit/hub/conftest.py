from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import Hub, hub_for_jobs


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with hub_for_jobs(tmp_path / "cache") as hub:
        yield hub

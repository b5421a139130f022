"""What tests share: one Ray for the whole session, and where the real data is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with four logical CPUs, started by the first test that asks for it."""
    import logging

    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=300 << 20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs; skips where a clone has none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the development data is not here ({SHARED_DATA.name})")
    return SHARED_DATA

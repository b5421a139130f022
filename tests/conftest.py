"""What tests share: one Ray and one S3 server for the whole session, and where the real data is."""

import gc
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqvis.cluster import keep_token_private
from tests.support.objectstore import CREDENTIALS, Bucket, make_bucket, s3_server

SHARED_DATA = Path(__file__).parents[1].parent / "shared" / "data"

gc.set_threshold(50_000, 20, 100)  # PyTorch and spaCy are a million objects to look through


def pytest_collection_finish() -> None:
    """Leave what imports have made out of all later collections of garbage."""
    gc.freeze()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray, started by the first test that asks for it.

    With three logical CPUs: work that takes a process for each starts no more of them.
    """
    import logging

    import ray

    keep_token_private()
    os.environ.update(CREDENTIALS)  # its workers ask the S3 server of `bucket`
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # as in a job's own local Ray
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=300 << 20,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket; this process has the credentials for it, and the URIs say where it is."""
    for variable, value in CREDENTIALS.items():
        monkeypatch.setenv(variable, value)
    return make_bucket(s3_endpoint, f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs; skips where a clone has none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"the development data is not here ({SHARED_DATA.name})")
    return SHARED_DATA

"""A server of real models in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seqvis.translation.translator import Translator
from tests.support.searching import World
from tests.support.serving import Served, served


@pytest.fixture(scope="module")
def collection(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.copy_collection(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def both(translator: Translator, collection: Path) -> Iterator[Served]:
    with served(translator.artifact.location.uri, collection) as running:
        yield running

"""Small artifacts, two of each kind, and one server of them that the sampled fault tests share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from seqvis.client import Client
from seqvis.devise.model import DeviseModel
from seqvis.samples.questions import generate_pairs
from seqvis.search.build import PictureItems, build_collection
from seqvis.search.engine import SearchEngine
from seqvis.translation.task import TrainSettings
from seqvis.translation.train import train
from seqvis.translation.translator import Translator
from seqvis.vision.feature_table import FeatureTable
from serve.app import free_port
from serve.testing.server import (
    QUICK_AUTOSCALING,
    RunningServer,
    local_config,
    run_config,
)
from tests.support.corpora import write_corpus
from tests.support.searching import make_world, train_small

QUERIES = ("dog", "boat + engine", "truck", "2 * apple - banana")
TEXTS = [pair[0] for pair in generate_pairs(64, seed=41)]

SCALING = {
    "look_back_period_s": 2,
    "metrics_interval_s": 0.5,
    "upscale_delay_s": 1,
    "downscale_delay_s": 6,
}
QUICK = QUICK_AUTOSCALING | {"RAY_metrics_report_interval_ms": "1000"}
"""Environment in which counters, too, are told each second instead of every ten."""


@dataclass(frozen=True)
class Translators:
    """Two translators of one corpus whose translations differ."""

    first: str
    second: str

    @cached_property
    def offline(self) -> dict[str, dict[str, str]]:
        """What each makes of each of TEXTS, by its path."""
        return {
            path: dict(
                zip(
                    TEXTS,
                    (translation.text for translation in Translator.load(path).translate(TEXTS)),
                    strict=True,
                )
            )
            for path in (self.first, self.second)
        }


@dataclass(frozen=True)
class Collections:
    """Two collections of the same pictures, placed by two models."""

    first: Path
    second: Path
    picture: bytes

    def offline(
        self, query: str, k: int, where: Mapping[str, Any]
    ) -> dict[str, list[tuple[str, float]]]:
        """What each finds, by its path."""
        matches = {}
        for path in (self.first, self.second):
            with SearchEngine.open(path) as engine:
                matches[str(path)] = [
                    (match.id, match.score) for match in engine.text(query, k, where=where)
                ]
        return matches


@pytest.fixture(scope="package")
def translators(tmp_path_factory: pytest.TempPathFactory) -> Translators:
    folder = tmp_path_factory.mktemp("translators")
    pairs = generate_pairs(1100, seed=3)
    corpus = write_corpus(folder / "corpus", pairs[100:], pairs[:100])
    for seed, name in enumerate(("first", "second")):
        settings = TrainSettings.model_validate(
            {
                "corpus": str(corpus),
                "out": str(folder / name),
                "epochs": 3,
                "samples": 0,
                "model": {"embedding_size": 32, "hidden_size": 24},
                "batches": {"size": 64},
                "optimizer": {"learning_rate": 0.01},
                "fit": {"precision": "float32", "seed": seed},
            }
        )
        train(settings, lambda event: None)
    return Translators(str(folder / "first"), str(folder / "second"))


@pytest.fixture(scope="package")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Collections:
    world = make_world(tmp_path_factory.mktemp("world"))
    train_small(world.folder, world.folder / "other", epochs=10)
    table = FeatureTable.open(str(world.features))
    other = DeviseModel.open(str(world.folder / "other"))
    second = world.folder / "second"
    build_collection(other, PictureItems(other, table), table, second).close()
    picture = next(iter(world.pictures.values()))
    return Collections(world.collection, second, picture)


@pytest.fixture(scope="package")
def server(
    translators: Translators,
    collections: Collections,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[RunningServer]:
    """Two replicas of the index; the translator scales from one to two, the encoder from none."""
    config = local_config(
        translators.first,
        collections.first,
        free_port(),
        args={
            "translator": {"batching": {"max_rows": 8, "max_waiting": 64}},
            "gateway": {"model_roots": [str(tmp_path_factory.getbasetemp())]},
        },
        deployments={
            "Translator": {
                "autoscaling_config": {
                    "min_replicas": 1,
                    "max_replicas": 2,
                    "target_ongoing_requests": 6,
                    **SCALING,
                }
            },
            "Encoder": {
                "autoscaling_config": {
                    "min_replicas": 0,
                    "initial_replicas": 1,
                    "max_replicas": 1,
                    "downscale_to_zero_delay_s": 20,
                    **SCALING,
                }
            },
            "Index-0": {"num_replicas": 2},
            "Gateway": {"num_replicas": 1},
        },
    )
    with run_config(config, tmp_path_factory.mktemp("server"), QUICK) as running:
        yield running
        if request.session.testsfailed:
            running.keep_logs = True


@pytest.fixture
def undisturbed(server: RunningServer, translators: Translators) -> Iterator[None]:
    """Each test begins with a server that is ready and has its replicas, and ends with such."""
    server.wait_ready()
    if live_translators(server) != ["default"]:  # the test before failed in the middle of a switch
        make_live(server, "translator", ("default", translators.first))
    server.wait_replicas("Translator", 1)
    server.wait_replicas("Index-0", 2)
    yield
    server.wait_ready()


def client_of(server: RunningServer) -> Client:
    """A client that is patient: an encoder that is just starting does not answer in time."""
    return Client(server.address, timeout=120, retries=100)


def live_translators(server: RunningServer) -> list[str]:
    return [version.name for version in client_of(server).models()["translator"].versions]


def make_live(server: RunningServer, application: str, *versions: tuple[str, str]) -> None:
    wanted = [{"name": name, "path": path} for name, path in versions]
    live = client_of(server).change_models(application, wanted)
    assert [version.name for version in live.versions] == [name for name, _ in versions]


def pids(server: RunningServer, deployment: str = "") -> dict[str, list[int]]:
    """Of the replicas of one deployment, or of all."""
    return {
        name: [process.pid for process in processes]
        for name, processes in server.all_replicas().items()
        if deployment in ("", name)
    }

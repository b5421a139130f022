"""What a cluster may still become decides whether a job waits or is refused; Ray is imitated."""

from typing import Any

import pytest
import ray

from seqvis import cluster
from seqvis.errors import ConfigError
from seqvis.training import ray_train
from seqvis.training.ray_train import _check_resources
from seqvis.training.workers import Resources
from seqvis.vision.embed import EmbedSettings, _check_gpus


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what Ray says: the number of nodes and what they have together."""

    def these(count: int, **resources: float) -> None:
        monkeypatch.setattr(ray, "nodes", lambda: [{}] * count)
        monkeypatch.setattr(ray, "cluster_resources", lambda: resources)

    return these


def test_a_head_that_may_not_work_is_the_sign_of_an_autoscaler(nodes: Any) -> None:
    nodes(1, memory=1.0)
    assert cluster.can_grow()
    nodes(1, CPU=8.0)
    assert not cluster.can_grow()
    nodes(2, CPU=8.0)
    assert cluster.can_grow()


def test_a_trainer_waits_for_nodes_that_may_come_and_says_so(nodes: Any) -> None:
    said: list[dict[str, Any]] = []
    nodes(1, memory=1.0)
    _check_resources(4, 2, True, said.append)
    assert [event["text"] for event in said] == [
        "waiting for nodes: 8 CPUs are needed, the cluster has 0",
        "waiting for nodes: 4 GPUs are needed, the cluster has 0",
    ]
    nodes(1, CPU=8.0)
    with pytest.raises(ConfigError, match="needs 4 GPUs, this Ray has 0"):
        _check_resources(4, 2, True, said.append)


def test_where_no_number_is_asked_for_there_are_as_many_workers_as_fit(
    nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_train, "usable_processors", lambda: 3)
    nodes(1, CPU=64.0, GPU=8.0)
    assert ray_train.workers_that_fit(Resources(None, gpu=True)) == 8
    assert ray_train.workers_that_fit(Resources(None, gpu=True, gpus_per_worker=0.5)) == 16
    assert ray_train.workers_that_fit(Resources(None)) == 3  # of this machine's own
    nodes(2, CPU=64.0)
    assert ray_train.workers_that_fit(Resources(None)) == 4
    assert ray_train.workers_that_fit(Resources(None, cpus_per_worker=32)) == 2
    nodes(1, memory=1.0)
    assert ray_train.workers_that_fit(Resources(None, gpu=True)) == 1
    assert ray_train.workers_that_fit(Resources(None)) == 1


def test_embedding_needs_a_number_where_there_is_no_gpu_to_count(nodes: Any) -> None:
    settings = EmbedSettings(images="i", out="o", use_gpu=True)
    nodes(1, memory=1.0)
    with pytest.raises(ConfigError, match="--num-workers: is needed on a cluster that has no GPU"):
        _check_gpus(settings)
    _check_gpus(settings.model_copy(update={"num_workers": 4}))
    nodes(1, CPU=8.0)
    with pytest.raises(ConfigError, match="Ray has 0 GPUs"):
        _check_gpus(settings)

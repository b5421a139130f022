"""The trial that chooses how many workers share the processors of a machine."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from seqvis.storage import locate
from seqvis.training import ray_train, trial
from seqvis.training.trial import quickest, share_processors
from seqvis.training.workers import Resources, Workers

UNASKED = Resources(None)


def steps(workers: Workers) -> Iterator[int]:
    """Twelve words in each batch, once all workers have reached it."""
    assert torch.get_num_threads() == 2 // workers.count
    while sorted(workers.gather(workers.rank)) == [*range(workers.count)]:
        yield 12


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """What every trial finds, on a machine with six processors."""
    measured = {1: 100.0, 2: 120.0, 4: 110.0}

    def tried(given: Any, counts: list[int], processors: int) -> dict[int, float]:
        assert (counts, processors) == ([1, 2, 4], 6)
        return dict(measured)

    monkeypatch.setattr(trial, "_try", tried)
    for module in (trial, ray_train):
        monkeypatch.setattr(module, "usable_processors", lambda: 6)
    monkeypatch.setattr(ray, "nodes", lambda: [{}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 6.0, "GPU": 4.0})
    return measured


def test_more_workers_are_taken_only_if_they_are_clearly_ahead() -> None:
    assert quickest({1: 100.0, 2: 104.0, 4: 90.0}) == 1
    assert quickest({1: 100.0, 2: 106.0, 4: 110.0}) == 2
    assert quickest({1: 100.0, 2: 90.0, 4: 120.0}) == 4


def test_a_run_tries_once_and_says_what_it_found(rates: dict[int, float], tmp_path: Path) -> None:
    run, said = locate(tmp_path / "out.run"), []
    chosen = share_processors(steps, UNASKED, run, said.append)
    assert chosen == Resources(2, cpus_per_worker=3)
    assert [event["text"] for event in said] == [
        "tried workers and their processors: 100 words/s by 1 of 6, 120 words/s by 2 of 3, 110 "
        "words/s by 4 of 1; taking 2"
    ]
    rates[1] = 1000.0
    assert share_processors(steps, UNASKED, run, said.append) == chosen
    assert len(said) == 1
    elsewhere = '{"processors": 2, "words_per_second": {"2": 9}}'
    (tmp_path / "out.run" / "trial.json").write_text(elsewhere)
    assert share_processors(steps, UNASKED, run, said.append) == Resources(1, cpus_per_worker=6)


@pytest.mark.parametrize(
    "given",
    [
        Resources(None, gpu=True),
        Resources(None, cpus_per_worker=1),
        Resources(None, min_workers=2),
    ],
)
def test_what_was_asked_for_is_not_tried(
    given: Resources, rates: dict[int, float], tmp_path: Path
) -> None:
    rates.clear()
    assert share_processors(steps, given, locate(tmp_path), print) == given


def test_several_nodes_are_not_tried(
    rates: dict[int, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{}, {}])
    assert share_processors(steps, UNASKED, locate(tmp_path), print) == UNASKED


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_workers_of_a_trial_train_together() -> None:
    measured = trial._try(steps, [1, 2], 2)
    assert set(measured) == {1, 2}
    assert min(measured.values()) > 0

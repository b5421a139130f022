"""The trial that chooses how many workers share the processors of a machine."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from seqvis.artifacts import load
from seqvis.corpus.pairs import training_pairs
from seqvis.storage import Location, locate
from seqvis.training import ray_train, trial
from seqvis.training.events import Report
from seqvis.training.launch import launch, run_directory
from seqvis.training.trial import quickest, share_processors
from seqvis.training.workers import Resources, Workers
from seqvis.translation import train
from seqvis.translation.task import TrainSettings
from tests.unit.conftest import SMALL

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


def test_the_workers_that_a_trial_chose_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no number of workers is asked for."""
    tried: list[Any] = []
    trained: list[Resources] = []

    def share(given: Any, resources: Resources, run: Location, report: Report) -> Resources:
        tried.append((given, resources, run.uri))
        return Resources(2)

    monkeypatch.setattr(trial, "share_processors", share)
    monkeypatch.setattr(ray_train, "run_workers", lambda *given: trained.append(given[3]))
    out = locate(tmp_path / "out")
    for resources in (UNASKED, Resources(3)):
        launch(print, None, out, print, resources, trial=steps)
    assert tried == [(steps, UNASKED, run_directory(out).uri)]
    assert trained == [Resources(2), Resources(3)]


def test_a_training_that_takes_long_is_tried_on_its_own_batches(
    questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(train, "launch", lambda *arguments, **_: given.append(arguments[-1]))
    monkeypatch.setattr(train, "WORTH_A_TRIAL", 3000)  # twice the pairs there are
    chosen = SMALL | {"corpus": str(questions), "out": str(tmp_path / "out")}
    for epochs in (1, 2):
        train.train(TrainSettings(**chosen | {"epochs": epochs, "batches": {"size": 750}}), print)
    assert given[0] is None
    words = list(islice(given[1](Workers()), 3))  # an epoch, and again
    assert words[2] == words[0]
    assert sum(words[:2]) == training_pairs(load(str(questions), "corpus")).target.lengths.sum()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_the_workers_of_a_trial_train_together() -> None:
    measured = trial._try(steps, [1, 2], 2)
    assert set(measured) == {1, 2}
    assert min(measured.values()) > 0

"""When functions are recorded, and when they run as they are."""

from typing import Any

import pytest
import torch
from torch import Tensor

from seqvis import graphs
from seqvis.graphs import Function, Graphs, Tensors
from tests.support.recording import record


def double(values: Tensor) -> Tensors:
    return (2 * values,)


def test_functions_run_as_they_are_where_they_cannot_be_recorded() -> None:
    def refuse(function: Function, inputs: Tensors) -> Any:
        raise RuntimeError("operation not permitted")

    recorded = Graphs(refuse)
    ones = torch.ones(3)
    assert recorded.run(double, [ones])[0].tolist() == [2, 2, 2]
    with pytest.warns(UserWarning, match="not permitted"):
        assert recorded.run(double, [ones])[0].tolist() == [2, 2, 2]
    assert not recorded.on
    assert recorded.run(double, [ones])[0].tolist() == [2, 2, 2]


def test_each_shape_and_key_has_a_recording_of_its_own() -> None:
    recorded, replays = record()
    for _ in range(3):
        for values in (torch.ones(3), torch.arange(2.0)):
            for factor in (2.0, 3.0):
                (product,) = recorded.run(
                    lambda tensor, by=factor: (by * tensor,), [values], factor
                )
                assert torch.equal(product, factor * values)
    assert replays() == 2 * 4


def test_results_do_not_change_with_the_next_replay() -> None:
    recorded, _ = record()
    results = [recorded.run(double, [torch.full((2,), float(n))])[0] for n in range(4)]
    assert [result.tolist() for result in results] == [[2.0 * n] * 2 for n in range(4)]


def test_further_shapes_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST", 1)
    recorded, replays = record()
    for _ in range(3):
        for size in (1, 2):
            recorded.run(double, [torch.ones(size)])
    assert replays() == 2

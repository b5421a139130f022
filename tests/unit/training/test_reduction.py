"""Gradients averaged by touched rows are those that averaging whole tables gives."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from seqvis.training import workers
from seqvis.training.workers import Reduction, average

WORDS, SIZE, WORKERS = 2000, 160, 2  # a table of 1.3 MB
FEW, MANY = 50, 3000  # words that each worker sees in a step


class Sides(nn.Module):
    """Two tables, one of them tied to an output layer, as in a translator."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(WORDS, SIZE, padding_idx=1)
        self.target = nn.Embedding(WORDS, SIZE, padding_idx=1)
        self.mix = nn.Linear(2 * SIZE, SIZE)
        self.output = nn.Linear(SIZE, WORDS)
        self.output.weight = self.target.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        both = torch.cat([self.source(source), self.target(target)], -1)
        return nn.functional.cross_entropy(self.output(self.mix(both)), target)


def _gradients(rank: int, folder: str) -> dict[int, dict[str, Any]]:
    """Of two steps, whole and by rows, with few words a batch and with many."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=WORKERS,
        timeout=timedelta(seconds=120),
    )
    try:
        return {words: _train(rank, words) for words in (FEW, MANY)}
    finally:
        distributed.destroy_process_group()


def _other_worker(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.save(_gradients(number + 1, folder), f"{folder}/found.pt")


def _train(rank: int, words: int) -> dict[str, Any]:
    gradients: dict[str, Any] = {}
    for name in ("whole", "rows"):
        torch.manual_seed(7)
        module = Sides()
        state = Reduction.of(module)
        wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True, bucket_cap_mb=2)
        if name == "rows":
            wrapped.register_comm_hook(state, average)
        torch.manual_seed(rank)
        gradients[name] = []
        for _ in range(2):  # the second has other buckets than the first
            module.zero_grad(set_to_none=True)
            draw = torch.randint(WORDS, (2, words))
            wrapped(draw[0], draw[1]).backward()
            gradients[name].append({n: p.grad.clone() for n, p in module.named_parameters()})
    dense = sum(parameter.numel() * 4 for parameter in module.parameters())
    return gradients | {"saved": dense - state.payload_bytes / 2}


@pytest.mark.slow
def test_touched_rows_give_the_gradients_of_whole_tables_bit_for_bit(tmp_path: Path) -> None:
    others = multiprocessing.spawn(_other_worker, (str(tmp_path),), WORKERS - 1, join=False)
    first = _gradients(0, str(tmp_path))
    others.join()
    second = torch.load(tmp_path / "found.pt")
    for words in (FEW, MANY):
        for whole, rows in zip(first[words]["whole"], first[words]["rows"], strict=True):
            for name, gradient in whole.items():
                assert torch.equal(gradient, rows[name]), name
        for ours, theirs in zip(first[words]["rows"], second[words]["rows"], strict=True):
            assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    # At most 50 rows a worker, and a byte for each mark; the tied table goes whole.
    least = (WORDS - WORKERS * FEW) * SIZE * 4 - WORDS
    assert least <= first[FEW]["saved"] < WORDS * SIZE * 4
    # Nineteen of twenty rows are touched: the table goes whole, beside the marks.
    assert first[MANY]["saved"] == -WORDS


def test_small_and_tied_tables_are_reduced_whole() -> None:
    module = Sides()
    assert Reduction.of(module).tables == {id(module.source.weight)}
    assert not Reduction.of(nn.Embedding(100, 64)).tables


@pytest.mark.parametrize(
    ("device", "local", "hooked"),
    [
        ("cpu", "2", True),
        ("cuda", "2", False),
        ("cuda", "1", True),
    ],
)
def test_gpus_of_one_node_average_tables_whole(
    device: str, local: str, hooked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapped = Mock()
    monkeypatch.setattr(workers, "DistributedDataParallel", Mock(return_value=wrapped))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
    workers.Workers(0, 2, torch.device(device)).wrap(Sides())
    assert wrapped.register_comm_hook.called == hooked

"""The scaling model: its formulas against sums done by hand, and what it names as bottleneck."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.scaling_model import (
    Job,
    Machines,
    Table,
    all_reduce_seconds,
    main,
    predict,
    starts_of,
    translator,
)

MACHINES = Machines(
    gpus=2, peak=1e12, utilisation=0.5, start=1e-6, nvlink=1e9, network=1e8, hop_near=0,
    hop_far=0, cores=4, decoding=100.0, storage=1e6,
)  # fmt: skip
JOB = Job("job", "words", batch=1000, grows=True, flops=1e6, starts=10, dense_bytes=4e6)


def test_a_ring_sends_each_byte_twice_but_for_its_own_share() -> None:
    assert all_reduce_seconds(4e6, 1, MACHINES) == 0
    # Two GPUs of a node: half the bytes out and half back, at 1 GB/s.
    assert all_reduce_seconds(4e6, 2, MACHINES) == pytest.approx(4e-3)
    # Four nodes of two: the same within each, then 2 * 3 / 4 of the bytes at 0.1 GB/s.
    assert all_reduce_seconds(4e6, 8, MACHINES) == pytest.approx(4e-3 + 60e-3)
    far = replace(MACHINES, hop_far=1e-3)
    assert all_reduce_seconds(4e6, 8, far) == pytest.approx(4e-3 + 60e-3 + 6e-3)


def test_a_step_is_computation_and_what_of_the_reduction_is_not_hidden_behind_it() -> None:
    alone = predict(JOB, 1, MACHINES)
    assert alone.seconds == pytest.approx(2e-3)  # 1e9 operations at half of 1e12 a second
    assert (alone.efficiency, alone.sent, alone.bottleneck) == (1.0, 0, "arithmetic")
    both = predict(JOB, 2, MACHINES, overlap=False)
    assert both.seconds == pytest.approx(2e-3 + 4e-3)
    assert both.efficiency == pytest.approx(1 / 3)
    assert both.bottleneck == "reducing gradients"
    hidden = predict(JOB, 2, MACHINES)
    assert hidden.seconds == pytest.approx(2e-3 + 4e-3 - 2e-3 * 2 / 3)


def test_a_batch_that_does_not_grow_is_divided() -> None:
    fixed = replace(JOB, grows=False, dense_bytes=0.0)
    assert predict(fixed, 4, MACHINES).seconds == pytest.approx(0.5e-3)
    assert predict(fixed, 4, MACHINES).efficiency == pytest.approx(1.0)
    bound = replace(fixed, starts=2000)  # as long as the arithmetic of one GPU
    assert predict(bound, 4, MACHINES).efficiency == pytest.approx(1 / 4)
    assert predict(bound, 4, MACHINES).bottleneck == "starting operations"


def test_pictures_wait_for_decoding_or_for_storage() -> None:
    pictures = replace(JOB, dense_bytes=0.0, decoded=True)
    assert predict(pictures, 8, MACHINES).seconds == pytest.approx(1000 / 400)
    assert predict(pictures, 8, MACHINES).bottleneck == "decoding JPEGs"
    drawn = predict(replace(pictures, drawn=True), 8, replace(MACHINES, views=50.0))
    assert drawn.seconds == pytest.approx(1000 / 400 + 1000 / 200)  # by the same processors
    read = replace(pictures, read_bytes=10_000.0)
    # Two GPUs share a node's megabyte a second.
    assert predict(read, 8, MACHINES).seconds == pytest.approx(2 * 1000 * 10_000 / 1e6)
    assert predict(read, 8, MACHINES).bottleneck == "reading storage"


def test_a_table_sends_the_rows_that_a_batch_touches_and_never_much_more_than_all() -> None:
    table = Table(rows=5_000, size=100)
    torch.manual_seed(0)
    shares = 1 / torch.arange(1, 5_001, dtype=torch.float64)
    drawn = torch.multinomial(shares.expand(200, -1), 800, replacement=True)
    distinct = sum(len(batch.unique()) for batch in drawn) / len(drawn)
    assert table.touched(800) == pytest.approx(distinct, rel=0.02)
    assert table.sent(800, True) == pytest.approx(table.touched(800) * 400 + 5_000)
    assert table.sent(10**7, True) == 5_000 * 400 + 5_000
    assert table.sent(800, False) == 5_000 * 400


def test_operations_are_counted_on_the_model_and_grow_with_the_target() -> None:
    model = translator(200, 200)
    short, long, longer = (starts_of(model, 5, length) for length in (4, 8, 12))
    assert longer - long == pytest.approx(long - short, rel=0.2)
    assert longer - long > 4 * 20  # attention and two GRU layers, both ways


def test_it_prints_a_table_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plot", str(tmp_path / "scaling.png"), "--network", "1e9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "| 64 |" in line]) == 5
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    slow = predict(JOB, 64, replace(MACHINES, network=1e6))
    assert slow.efficiency < predict(JOB, 64, MACHINES).efficiency

"""Parts of a plan, made in tasks on the cluster: in order, and without a hitch when tasks die."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.exceptions import RayTaskError

from seqvis.devise.views import MakeViews, Plan
from seqvis.storage import locate
from seqvis.training import stream
from seqvis.training.ahead import in_threads
from seqvis.training.stream import Stream
from seqvis.vision.augment import AugmentSettings
from seqvis.vision.listing import list_images
from tests.support.pictures import encoded

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class Other:
    """An actor of somebody else."""

    def hold(self) -> None:
        """Hold its processors, from the first call on."""


def numbers(count: int) -> Iterator[pa.Table]:
    return (pa.table({"number": [number, number]}) for number in range(count))


def run(make: Callable[[pa.Table], pa.Table], count: int, taken: int = 2) -> list[int]:
    events: list[dict[str, Any]] = []
    made = Stream(taken, events.append)(numbers(count), make)
    values = [part["number"][0].as_py() for part in made]
    assert not events
    return values


def test_views_from_the_cluster_are_those_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several datasets, the next of which starts before one ends, and without PyTorch."""
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(encoded(number))
    (tmp_path / "3.png").write_bytes(b"damaged")
    listing = list_images(locate(str(tmp_path)), "none")
    make = MakeViews(listing.filesystem, listing.filesystem, 16, "crop", AugmentSettings())
    plan = Plan(listing.table, listing.table.slice(0, 5), batch_size=4, epochs=3, seed=7)

    def made_there(part: pa.Table) -> pa.Table:
        import sys

        assert "torch" not in sys.modules
        return make(part)

    monkeypatch.setattr(stream, "STRETCH", 5)
    monkeypatch.setattr(stream, "FOLLOWING", 2)
    streamed = Stream(2, lambda event: None)(plan.parts(0, 1), made_there)
    threaded = in_threads(plan.parts(0, 1), make)
    count = 0
    for ours, theirs in zip(streamed, threaded, strict=True):
        assert ours.equals(theirs)
        count += 1
    assert count == 3 * (3 + 2) - 1


def test_a_large_part_comes_whole() -> None:
    def fill(part: pa.Table) -> pa.Table:
        pixels = pa.repeat(pa.scalar(bytes(60 << 20), pa.large_binary()), len(part))
        return part.append_column("view", pixels)

    part = pa.table({"number": list(range(4))})
    (made,) = Stream(2, lambda event: None)([part], fill)
    assert made["number"].to_pylist() == [0, 1, 2, 3]


def test_a_task_whose_process_dies_is_repeated(tmp_path: Path) -> None:
    mark = tmp_path / "died"

    def die_once(part: pa.Table) -> pa.Table:
        if part["number"][0].as_py() == 7 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    assert run(die_once, 12) == list(range(12))
    assert mark.exists()


def test_what_a_task_raises_is_raised_in_the_loop() -> None:
    def fail(part: pa.Table) -> pa.Table:
        raise ValueError("no such number")

    with pytest.raises(RayTaskError, match="no such number"):
        run(fail, 3)


def test_a_worker_goes_on_by_itself_where_the_cluster_has_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = os.getpid()

    def where(part: pa.Table) -> pa.Table:
        assert os.getpid() == here
        return part

    assert run(where, 6, taken=3) == list(range(6))  # the workers hold all three processors

    other = ray.remote(num_cpus=3)(Other).remote()  # now somebody else does
    ray.get(other.hold.remote())
    monkeypatch.setattr(stream, "PATIENCE", 1.0)
    events: list[dict[str, Any]] = []
    made = [part["number"][0].as_py() for part in Stream(2, events.append)(numbers(6), where)]
    ray.kill(other)
    assert made == list(range(6))
    assert "nothing came from the cluster for 1 s" in events[0]["text"]
    assert len(events) == 1


def test_an_end_in_the_middle_stops_the_tasks(tmp_path: Path) -> None:
    def leave_a_mark(part: pa.Table) -> pa.Table:
        (tmp_path / str(part["number"][0].as_py())).touch()
        time.sleep(0.05)
        return part

    made = Stream(2, lambda event: None)(numbers(200), leave_a_mark)
    next(made)
    made.close()
    marks, before = len(list(tmp_path.iterdir())), -1
    while marks > before:
        time.sleep(0.5)
        marks, before = len(list(tmp_path.iterdir())), marks
    assert marks < 200

"""The plan of fine-tuning's views, and what becomes of files that cannot be read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs

from seqvis.devise.views import PART, MakeViews, Plan, Step, ViewReader, Views
from seqvis.storage import locate
from seqvis.training.ahead import in_threads
from seqvis.vision.augment import AugmentSettings, view
from seqvis.vision.images import decode, enough, square
from seqvis.vision.listing import list_images
from tests.support.pictures import encoded, tar_of

SIZE = 24
HERE = fs.LocalFileSystem()
MAKE = MakeViews(HERE, HERE, SIZE, "crop", AugmentSettings())


def pictures(folder: Path, count: int) -> pa.Table:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03d}.png").write_bytes(encoded(number))
    return list_images(locate(str(folder)), "none").table


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    train, valid = pictures(tmp_path / "train", 22), pictures(tmp_path / "valid", 7)
    return Plan(train, valid, batch_size=6, epochs=3, seed=4)


def share(plan: Plan, rank: int, count: int) -> Plan:
    return Plan(plan.train, plan.valid, plan.batch_size, plan.epochs, plan.seed, rank, count)


def test_the_shares_of_any_number_of_workers_are_one_batch(plan: Plan) -> None:
    for whole, *shares in zip(
        plan.training(1), *(share(plan, rank, 4).training(1) for rank in range(4)), strict=True
    ):
        assert whole.seeds is not None
        assert len(whole.rows) == 6
        assert len({len(part.rows) for part in shares}) == 2  # six rows for four workers
        for rank, part in enumerate(shares):
            np.testing.assert_array_equal(part.rows, whole.rows[rank::4])
            np.testing.assert_array_equal(part.seeds, whole.seeds[rank::4])
    seen = [row for rank in range(4) for step in share(plan, rank, 4).validation(1)
            for row in step.rows]  # fmt: skip
    assert sorted(seen) == list(range(7))


def test_a_plan_that_begins_in_the_middle_is_the_rest_of_the_whole(plan: Plan) -> None:
    whole = pa.concat_tables(plan.parts(0, 0))
    rest = pa.concat_tables(plan.parts(1, 2))
    assert rest.num_rows == (6 + 7) + (18 + 7)
    assert rest.equals(whole.slice(len(whole) - len(rest)))
    orders = [[tuple(step.rows) for step in plan.training(epoch)] for epoch in range(3)]
    assert len(set(map(tuple, orders))) == 3


def test_views_come_in_the_plans_order_over_the_ends_of_epochs(plan: Plan) -> None:
    reader = ViewReader(plan, MAKE, in_threads)
    for epoch, first in ((0, 1), (1, 0), (2, 0), (1, 2)):  # goes on, and then back
        reader.start(epoch, first)
        for step in (*plan.training(epoch, first), *plan.validation(epoch)):
            check(plan, step, reader.take(step))
    reader.close()


def check(plan: Plan, step: Step, views: Views) -> None:
    listed = plan.valid if step.seeds is None else plan.train
    assert views.failures == {}
    np.testing.assert_array_equal(views.rows, step.rows)
    for number, (row, picture) in enumerate(zip(step.rows, views.pictures, strict=True)):
        content = Path(listed["place"][int(row)].as_py()).read_bytes()
        shown = decode(content, enough(SIZE)).picture
        expected = square(shown, SIZE, "crop")
        if step.seeds is not None:
            expected = view(shown, AugmentSettings(), SIZE, int(step.seeds[number]))
        np.testing.assert_array_equal(picture, expected)


def test_views_of_pictures_in_a_tar_are_those_of_the_files(plan: Plan, tmp_path: Path) -> None:
    members = {
        Path(place).name: Path(place).read_bytes() for place in plan.train["place"].to_pylist()
    }
    (tmp_path / "pictures.tar").write_bytes(tar_of(members))
    in_tar = list_images(str(tmp_path / "pictures.tar"), "none").table
    (step,) = plan.training(0, first=2)
    (part,), (same,) = step.parts(plan.train), step.parts(in_tar)
    assert part["place"] != same["place"]
    assert MAKE(part)["view"] == MAKE(same)["view"]


def test_views_of_another_step_are_refused(plan: Plan) -> None:
    reader = ViewReader(plan, MAKE, in_threads)
    reader.start(0, 0)
    with pytest.raises(RuntimeError, match="came for"):
        reader.take(next(plan.training(1)))
    reader.close()


def test_files_that_are_damaged_or_gone_are_left_out_and_named(plan: Plan) -> None:
    (step,) = plan.training(0, first=2)
    damaged, gone = (plan.train["place"][int(row)].as_py() for row in step.rows[[1, 4]])
    Path(damaged).write_bytes(encoded(1)[:40])
    Path(gone).unlink()
    reader = ViewReader(plan, MAKE, in_threads)
    reader.start(0, 2)
    views = reader.take(step)
    reader.close()
    np.testing.assert_array_equal(views.rows, np.delete(step.rows, [1, 4]))
    assert views.pictures.shape == (4, SIZE, SIZE, 3)
    assert {Path(path).name for path in views.failures} == {Path(damaged).name, Path(gone).name}
    assert "truncated or damaged (PNG)" in views.failures[Path(damaged).name]
    assert views.failures[Path(gone).name] == "no such file"


def test_a_large_step_is_read_in_parts_and_an_empty_one_not_at_all(tmp_path: Path) -> None:
    few = pictures(tmp_path / "few", 3)
    many = few.take(pa.array([0, 1, 2] * PART))
    plan = Plan(many, few, batch_size=len(many), epochs=1, seed=0, rank=0, count=2)
    (step,) = plan.training(0)
    assert [len(part) for part in step.parts(many)] == [PART, PART // 2]
    reader = ViewReader(plan, MAKE, in_threads)
    reader.start(0, 0)
    check(plan, step, reader.take(step))
    nothing = Step(0, 1, step.rows[:0], step.rows[:0])
    assert reader.take(nothing).pictures.shape == (0, SIZE, SIZE, 3)
    reader.close()


def test_only_a_few_parts_are_read_ahead() -> None:
    taken = []

    def plan() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    made = in_threads(plan(), lambda number: number * 2)
    assert [next(made) for _ in range(3)] == [0, 2, 4]
    made.close()
    assert len(taken) < 50

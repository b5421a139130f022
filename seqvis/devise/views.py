"""What fine-tuning sees of the pictures: the plan of views, and how they are read.

The order of the pictures and the view of each depend on seed and epoch alone, so a plan can begin
at any step and cut each step into the shares of any number of workers. `MakeViews` turns a part of
the plan into pixels wherever there is a processor: in a thread of the worker, or in a task on
another node. A task's process imports this module, which does not load PyTorch.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import fs

from seqvis.vision.augment import AugmentSettings, view
from seqvis.vision.foldertree import NO_FILE, UNREADABLE
from seqvis.vision.images import BadImage, Fit, decode, enough, square
from seqvis.vision.listing import WHERE, read_picture

if TYPE_CHECKING:
    from seqvis.training.ahead import Ahead  # loads PyTorch

PART = 64  # most pictures that are read together: half a second, 10 MB of pixels


@dataclass(frozen=True)
class Step:
    """One worker's share of a batch."""

    epoch: int
    number: int  # in the epoch; the steps of validation follow those of training
    rows: np.ndarray  # int64 [n], of the pictures of training or of validation
    seeds: np.ndarray | None  # int64 [n], of the views; None: squares, as features are made from

    def parts(self, pictures: pa.Table) -> Iterator[pa.Table]:
        """Yield what `MakeViews` takes, a few rows of `pictures` at a time."""
        for begin in range(0, len(self.rows), PART):
            part = slice(begin, begin + PART)
            rows = self.rows[part]
            seeds = None if self.seeds is None else self.seeds[part]
            labels = {
                "epoch": pa.repeat(self.epoch, len(rows)),
                "step": pa.repeat(self.number, len(rows)),
                "row": pa.array(rows),
                "seed": pa.nulls(len(rows), pa.int64()) if seeds is None else pa.array(seeds),
            }
            files = pictures.select(["path", *WHERE]).take(pa.array(rows)).combine_chunks()
            yield pa.table(labels | {name: files[name] for name in files.column_names})


@dataclass(frozen=True)
class Plan:
    """Which views one of `count` workers sees, in which order."""

    train: pa.Table  # rows of a listing: the pictures to train on
    valid: pa.Table
    batch_size: int  # pictures, over all workers
    epochs: int
    seed: int
    rank: int = 0
    count: int = 1

    @property
    def steps(self) -> int:
        """Batches of an epoch's training."""
        return max(1, len(self.train) // self.batch_size)

    @property
    def pictures(self) -> int:
        """Pictures that one worker sees in an epoch, of training and of validation."""
        trained = min(len(self.train), self.steps * self.batch_size)
        return -(-(trained + len(self.valid)) // self.count)

    def training(self, epoch: int, first: int = 0) -> Iterator[Step]:
        """Yield the steps of an epoch's training from number `first` on."""
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.train))
        start = (self.seed * 1_000_003 + epoch) * 1_000_003 % (1 << 62)
        for number in range(first, self.steps):
            batch = order[number * self.batch_size : (number + 1) * self.batch_size]
            rows = batch[self.rank :: self.count]
            yield Step(epoch, number, rows, (rows + start) % (1 << 62))

    def validation(self, epoch: int) -> Iterator[Step]:
        """Yield the steps of the validation after an epoch; each worker has a share of them."""
        rows = np.arange(len(self.valid))[self.rank :: self.count]
        for begin in range(0, len(rows), self.batch_size):
            number = self.steps + begin // self.batch_size
            yield Step(epoch, number, rows[begin : begin + self.batch_size], None)

    def parts(self, epoch: int, first: int) -> Iterator[pa.Table]:
        """Yield what `MakeViews` takes, from a step of training on to the end of all epochs."""
        while epoch < self.epochs:
            for step in self.training(epoch, first):
                yield from step.parts(self.train)
            for step in self.validation(epoch):
                yield from step.parts(self.valid)
            epoch, first = epoch + 1, 0


@dataclass(frozen=True)
class MakeViews:
    """Read and decode a part of the plan, and draw a view of each picture.

    The result has the part's `epoch`, `step`, `row` and `path`, the pixels `view` (empty if there
    is a failure), and `failure`: null, or what is wrong with the file.
    """

    filesystem: fs.FileSystem  # of the pictures of training
    valid_filesystem: fs.FileSystem
    image_size: int
    fit: Fit
    augment: AugmentSettings

    def __call__(self, part: pa.Table) -> pa.Table:
        views = np.zeros((len(part), self.image_size, self.image_size, 3), np.uint8)
        failures = []
        for picture, row in zip(views, part.select([*WHERE, "seed"]).to_pylist(), strict=True):
            failure = None
            try:
                picture[:] = self._view(**row)
            except FileNotFoundError:
                failure = NO_FILE
            except OSError as error:
                failure = f"{UNREADABLE} ({error})"
            except BadImage as error:
                failure = str(error)
            failures.append(failure)
        pixels = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(views[0].size), len(part), [None, pa.py_buffer(views)]
        )
        made = part.select(["epoch", "step", "row", "path"]).append_column("view", pixels)
        return made.append_column("failure", pa.array(failures, pa.string()))

    def _view(self, place: str, first_byte: int, size: int, seed: int | None) -> np.ndarray:
        filesystem = self.valid_filesystem if seed is None else self.filesystem
        content = read_picture(filesystem, place, first_byte, size)
        picture = decode(content, enough(self.image_size), max_pixels=None).picture
        if seed is None:
            return square(picture, self.image_size, self.fit)
        return view(picture, self.augment, self.image_size, seed)


@dataclass(frozen=True)
class Views:
    """The views of a step whose pictures could be read."""

    rows: np.ndarray  # int64 [n], as of the `Step`
    pictures: np.ndarray  # uint8 [n, image_size, image_size, 3]
    failures: dict[str, str]  # of the others, by path: what is wrong with the file


class ViewReader:
    """Reads the views of a plan ahead of the network, across the ends of epochs."""

    def __init__(self, plan: Plan, make: MakeViews, ahead: "Ahead"):
        self.plan, self.make, self._ahead = plan, make, ahead
        self._made: Generator[pa.Table, None, None] | None = None
        self._epoch = -1

    def start(self, epoch: int, first: int) -> None:
        """Make this step of an epoch's training the next one."""
        if self._made is None or first or epoch != self._epoch + 1:
            self.close()
            self._made = self._ahead(self.plan.parts(epoch, first), self.make)
        self._epoch = epoch

    def take(self, step: Step) -> Views:
        """Return the views of the next step, which must be this one."""
        assert self._made is not None
        size = self.make.image_size
        rows, pictures = [step.rows[:0]], [np.empty((0, size, size, 3), np.uint8)]
        failures: dict[str, str] = {}
        for begin in range(0, len(step.rows), PART):
            part = next(self._made)
            came = {*zip(part["epoch"].to_pylist(), part["step"].to_pylist(), strict=True)}
            made = part["row"].to_numpy()
            whole = np.array_equal(made, step.rows[begin : begin + PART])
            if came != {(step.epoch, step.number)} or not whole:
                raise RuntimeError(f"views of {came} came for {(step.epoch, step.number)}")
            read = part["failure"].is_null().to_numpy()
            rows.append(made[read])
            pictures.append(_pixels(part["view"], size)[read])
            wrong = part.filter(pa.array(~read))
            failures |= zip(wrong["path"].to_pylist(), wrong["failure"].to_pylist(), strict=True)
        return Views(np.concatenate(rows), np.concatenate(pictures), failures)

    def close(self) -> None:
        """Stop reading ahead."""
        if self._made is not None:
            self._made.close()


def _pixels(column: pa.ChunkedArray, size: int) -> np.ndarray:
    """Return the pictures as uint8 [n, size, size, 3], without a copy of a single chunk."""
    array = column.combine_chunks()
    pixels = np.frombuffer(array.buffers()[1], np.uint8)
    begin = array.offset * size * size * 3
    return pixels[begin : begin + len(array) * size * size * 3].reshape(-1, size, size, 3)

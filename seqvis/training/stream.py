"""Make what the training loop needs next in tasks on a Ray cluster, with Ray Data.

Each worker turns its own share of the plan into datasets. Ray Train's way (`datasets=` and
`get_dataset_shard`) would not do: such a dataset begins anew at each epoch and each start of the
workers, so it cannot go on from a checkpoint in the middle, and where `streaming_split` cuts it, no
worker knows which rows it will get. A dataset holds a stretch of the plan, and the next one is
started before it ends. Ray Data divides the processors that Ray Train's workers leave among all
datasets that run.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue

import pyarrow as pa
import ray

from seqvis.cluster import amount
from seqvis.training.ahead import in_threads
from seqvis.training.events import Report

STRETCH = 256  # parts of the plan in a dataset
FOLLOWING = 16  # parts that are left of a dataset when the next one is started
READY = 2  # parts that wait in the worker
PATIENCE = 60.0  # seconds without a part after which the worker makes the others itself

Make = Callable[[pa.Table], pa.Table]


class Stream:
    """Makes one worker's plan on the cluster, or in its own threads where no processor is free."""

    def __init__(self, taken: int, report: Report):
        """`taken`: processors that the training's workers hold themselves."""
        self._taken, self._report = taken, report

    def __call__(self, plan: Iterable[pa.Table], make: Make) -> Generator[pa.Table, None, None]:
        """Yield `make(part)` of each part of the plan, in order: an `Ahead`.

        `make` must be picklable. A task whose process or node dies is repeated. Raises what `make`
        raises.
        """
        parts = iter(plan)
        current: _Stretch | None = self._start(parts, make)
        following: _Stretch | None = None
        try:
            while current:
                for made in current.results():
                    if not following and len(current) <= FOLLOWING:
                        following = self._start(parts, make)
                    yield made
                current, following = following, None
        finally:
            for stretch in (current, following):
                if stretch:
                    stretch.stop()

    def _start(self, parts: Iterator[pa.Table], make: Make) -> "_Stretch":
        free = amount("CPU") - self._taken
        return _Stretch(list(islice(parts, STRETCH)), make, free >= 1, self._report)


class _Stretch:
    """A part of the plan, and the dataset that makes it. Its length is what is still to come."""

    def __init__(self, parts: list[pa.Table], make: Make, on_cluster: bool, report: Report):
        self._parts, self._make, self._report = deque(parts), make, report
        self._on_cluster = on_cluster
        self._ready: SimpleQueue[pa.Table | BaseException] = SimpleQueue()
        self._room = threading.Semaphore(READY)
        self._stopped = False
        if parts and on_cluster:
            threading.Thread(target=self._run, args=(parts,), daemon=True).start()

    def __len__(self) -> int:
        return len(self._parts)

    def results(self) -> Iterator[pa.Table]:
        """Yield what is made of the parts, in order."""
        while self._parts and self._on_cluster:
            try:
                made = self._ready.get(timeout=PATIENCE)
            except Empty:
                text = f"nothing came from the cluster for {PATIENCE:.0f} s, which may have no "
                text += "processor left: this worker reads the next pictures itself"
                self._report({"event": "note", "text": text})
                break
            self._room.release()
            if isinstance(made, BaseException):
                raise made
            self._parts.popleft()
            yield made
        self.stop()
        for made in in_threads([*self._parts], self._make):
            self._parts.popleft()
            yield made

    def stop(self) -> None:
        """Let the dataset end with the part that it is at."""
        self._stopped = True
        self._room.release()

    def _run(self, parts: list[pa.Table]) -> None:
        """Run the dataset, in a thread of its own: a wait for Ray Data cannot be bounded."""
        try:
            for made in _dataset(parts, self._make).iter_batches(
                batch_size=None, batch_format="pyarrow", prefetch_batches=READY
            ):
                self._ready.put(made)
                self._room.acquire()
                if self._stopped:
                    return
        except BaseException as error:  # the loop raises it
            self._ready.put(error)


def _dataset(parts: list[pa.Table], make: Make) -> "ray.data.Dataset":
    """Return the dataset of what is made of the parts: one block and one task for each."""

    def make_part(part: pa.Table) -> pa.Table:
        return make(part)

    dataset = ray.data.from_arrow(parts).map_batches(
        make_part, batch_size=None, batch_format="pyarrow"
    )
    dataset.context.target_max_block_size = None  # a larger result would be cut in two
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    dataset.context.execution_options.preserve_order = True
    return dataset

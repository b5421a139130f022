"""The processes that train together: a single one, or several joined by `torch.distributed`.

The training loop sees them as `Workers`. Ray Train starts the processes and their process group;
without a process group there is a single worker, and every operation is the identity.

Gradients are averaged over all workers: either whole, or, for an embedding table, only the rows
that were touched. A batch of 1,600 words touches a few hundred rows of a table of many thousand,
and the gradient of the others is zero in all workers. So the workers first exchange which rows they
touched, one byte a row, and then average those. The sum is the same to the last bit if the sum over
the whole table is. A table whose weights are tied to the output projection is averaged whole,
because a softmax over the vocabulary touches every row. So is every table among the GPUs of one
node: they have exchanged it sooner than the host has learnt which rows were touched.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from seqvis.errors import ConfigError
from seqvis.training.ahead import Ahead, in_threads

MOST_TOUCHED = 0.9  # share of a table's rows from which packing them saves too little
LEAST_BYTES = 1 << 20  # of a table's gradient; below, a second message costs more than it saves


@dataclass
class Reduction:
    """The state of the hook that `DistributedDataParallel` calls for each bucket of gradients."""

    tables: frozenset[int]  # ids of the parameters that are reduced by rows
    payload_bytes: int = field(default=0)  # handed to all-reduce so far, by this worker

    @classmethod
    def of(cls, module: nn.Module) -> "Reduction":
        """Make it for `module`: its large embedding tables that no other layer shares."""
        layers = list(module.modules())
        uses = Counter(
            id(parameter) for layer in layers for parameter in layer.parameters(recurse=False)
        )
        weights = [layer.weight for layer in layers if isinstance(layer, nn.Embedding)]
        large = [
            parameter
            for parameter in weights
            if parameter.numel() * parameter.element_size() >= LEAST_BYTES
        ]
        return cls(frozenset(id(parameter) for parameter in large if uses[id(parameter)] == 1))


def average(state: Reduction, bucket: distributed.GradBucket) -> Future[Tensor]:
    """Average a bucket over all workers: the communication hook of DistributedDataParallel."""
    gradients = bucket.gradients()
    by_rows = [id(parameter) in state.tables for parameter in bucket.parameters()]
    touched = _touched_by_any(
        [table for table, chosen in zip(gradients, by_rows, strict=True) if chosen], state
    )
    places = [touched.pop(0) if chosen else None for chosen in by_rows]
    buffer = bucket.buffer()
    if all(rows is None for rows in places):
        packed = buffer
    else:
        parts = [
            gradient if rows is None else gradient.index_select(0, rows)
            for gradient, rows in zip(gradients, places, strict=True)
        ]
        packed = torch.cat([part.reshape(-1) for part in parts])
    packed.div_(distributed.get_world_size())
    state.payload_bytes += packed.numel() * packed.element_size()
    work = distributed.all_reduce(packed, async_op=True)

    def unpack(done: Future[list[Tensor]]) -> Tensor:
        averaged = done.value()[0]
        if averaged.data_ptr() == buffer.data_ptr():
            return buffer
        begin = 0
        for gradient, rows in zip(gradients, places, strict=True):
            shape = gradient.shape if rows is None else (len(rows), gradient.shape[1])
            size = gradient.numel() if rows is None else len(rows) * gradient.shape[1]
            part = averaged[begin : begin + size].view(shape)
            if rows is None:
                gradient.copy_(part)
            else:
                gradient.index_copy_(0, rows, part)
            begin += size
        return buffer

    return work.get_future().then(unpack)


def _touched_by_any(tables: list[Tensor], state: Reduction) -> list[Tensor | None]:
    """Return for each table the rows that any worker touched, or None if nearly all."""
    if not tables:
        return []
    marks = torch.cat([table.ne(0).any(1) for table in tables]).to(torch.uint8)
    distributed.all_reduce(marks, distributed.ReduceOp.MAX)
    state.payload_bytes += marks.numel()
    touched: list[Tensor | None] = []
    for table, mark in zip(tables, marks.split([len(table) for table in tables]), strict=True):
        rows = mark.nonzero().squeeze(1)
        touched.append(rows if len(rows) < MOST_TOUCHED * len(table) else None)
    return touched


# Of gradients that are sent together. At DDP's 25 a model of the lesson's sizes is one bucket, and
# nothing is sent before the backward pass has ended.
BUCKET_MB = 4


@dataclass(frozen=True)
class Resources:
    """How many processes train together, and what each of them gets of the machine."""

    workers: int | None = 0  # processes of Ray Train; 0: this process, without Ray; None: as fits
    min_workers: int = 0  # fewest to go on with when nodes are lost; 0: wait for room for all
    gpu: bool = False  # one GPU, or a share of one, for each worker
    cpus_per_worker: int = 0  # 0: an equal share of the processors that the cluster has now
    gpus_per_worker: float = 1.0  # less than 1 for a single worker, so that runs share a GPU


IN_THIS_PROCESS = Resources()


@dataclass(frozen=True)
class Workers:
    """This process's place among all processes that train the model."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    leaving: Callable[[], bool] = lambda: False
    """Whether the node of one of the workers is about to be taken away; costs nothing to ask."""
    ahead: Ahead = in_threads
    """Makes what comes next while the model learns."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return `module` with gradients averaged over all workers in the backward pass."""
        if self.count == 1:
            return module
        wrapped = DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            bucket_cap_mb=BUCKET_MB,
        )
        if self.device.type != "cuda" or not _on_one_node(self.count):
            wrapped.register_comm_hook(Reduction.of(module), average)
        return wrapped

    def share_buffers(self, module: nn.Module) -> None:
        """Give all workers the first one's buffers, such as batch norm's statistics."""
        if self.count > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all workers, by rank; any picklable objects."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """Return the first worker's value, on all of them."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


def _on_one_node(count: int) -> bool:
    """Return whether all processes of the group are on this node, as Ray Train and torchrun say."""
    return os.environ.get("LOCAL_WORLD_SIZE") == str(count)


def this_worker(use_gpu: bool) -> Workers:
    """Return the place of this process, from the process group if there is one.

    Raises ConfigError if there is no GPU to use.
    """
    device = torch.device("cpu")
    if use_gpu:
        if not torch.cuda.is_available():
            raise ConfigError("--use-gpu: this machine has no GPU that PyTorch can use")
        device = torch.device("cuda", torch.cuda.current_device())
    if distributed.is_available() and distributed.is_initialized():
        return Workers(distributed.get_rank(), distributed.get_world_size(), device)
    return Workers(device=device)

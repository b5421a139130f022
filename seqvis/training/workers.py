"""The processes that train together: one, or several joined by `torch.distributed`.

`Workers` is what the training loop knows of them. Ray Train starts the processes and their
process group; without one there is a single worker, and every operation is the identity.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from seqvis.training.reduction import Reduction, average

# Of gradients that are sent together. At DDP's 25 a model of the lesson's sizes is one bucket, and
# nothing is sent before the backward pass has ended.
BUCKET_MB = 4


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Workers:
    """This process's place among all that train the model."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    leaving: Callable[[], bool] = _never
    """Whether the node of one of the workers is about to be taken away; costs nothing to ask."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over all workers during the backward pass."""
        if self.count == 1:
            return module
        wrapped = DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            bucket_cap_mb=BUCKET_MB,
        )
        wrapped.register_comm_hook(Reduction.of(module), average)
        return wrapped

    def gather(self, value: Any) -> list[Any]:
        """The values of all workers, by rank. Any picklable object."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def from_first(self, value: Any) -> Any:
        """The first worker's value, on all of them."""
        if self.count == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


def this_worker(use_gpu: bool) -> Workers:
    """The place of this process, from the process group if there is one."""
    device = torch.device("cpu")
    if use_gpu:
        device = torch.device("cuda", torch.cuda.current_device())
    if distributed.is_available() and distributed.is_initialized():
        return Workers(distributed.get_rank(), distributed.get_world_size(), device)
    return Workers(device=device)

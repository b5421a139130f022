"""The processes that train together: one, or several joined by `torch.distributed`.

`Workers` is what the training loop knows of them. Ray Train starts the processes and their
process group; without one there is a single worker, and every operation is the identity.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Workers:
    """This process's place among all that train the model."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with gradients averaged over all workers during the backward pass."""
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, gradient_as_bucket_view=True)

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

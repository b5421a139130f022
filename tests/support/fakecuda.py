"""A GPU that is not there, to find what would fail or wait on one.

Tensors have shapes, types and devices, but no contents. An operation on tensors of two devices
raises, and so does everything for which the host would have to wait for a result: `float`, `int`,
`item`, `tolist`, `nonzero`, a mask of bools as an index. Autograd's engine and cuDNN need a real
device, so there are no gradients, and recurrent layers need a stand-in.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Make tensors and modules on the GPU by default; index with them what is on the CPU."""
    with FakeTensorMode(), torch.no_grad(), torch.device("cuda"):
        yield

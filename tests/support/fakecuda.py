"""A GPU that is not there, to find what would fail or wait on one.

Tensors have shapes, types and devices, but no contents. An operation on tensors of two devices
raises, and so does everything for which the host would have to wait for a result: `float`, `int`,
`item`, `tolist`, `nonzero`, a mask of bools as an index. Autograd's engine and cuDNN need a real
device, so there are no gradients, and recurrent layers need a stand-in.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Pretend that there is a GPU; what is made under `torch.device("cuda")` is on it."""
    supported = (
        patch("torch.cuda.amp.common.amp_definitely_not_available", return_value=False),
        patch("torch.cuda.is_bf16_supported", return_value=True),
    )
    with supported[0], supported[1], FakeTensorMode(), torch.no_grad():
        yield


class Cudnn:
    """Stands for cuDNN's GRU and LSTM, which take one type and one device."""

    def __init__(self) -> None:
        self.types: set[torch.dtype] = set()

    def __call__(
        self, inputs: Tensor, before: Tensor, parameters: list[Tensor], both: bool
    ) -> tuple[Tensor, Tensor]:
        self.types |= {tensor.dtype for tensor in (inputs, before, *parameters)}
        assert all(tensor.is_cuda for tensor in (inputs, before, *parameters))
        steps, batch, _ = inputs.shape
        size = parameters[1].shape[1]  # of the recurrent weights
        states = inputs.new_zeros(steps, batch, (1 + both) * size)
        return states, torch.zeros_like(before)

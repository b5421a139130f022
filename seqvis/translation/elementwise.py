"""Operations on each number that another library than PyTorch computes faster on a CPU.

No gradients; both libraries round within a unit of float32's last digit, so either is the other's
test.
"""

import numpy as np
import torch
from torch import Tensor


def tanh_(values: Tensor) -> Tensor:
    """The hyperbolic tangent, in place, of any floating type.

    On a CPU by NumPy, in float32: 0.4 ns a number where PyTorch takes 3.4 (and 1.9 in bfloat16,
    which NumPy does not know).
    """
    if values.is_cuda:
        return values.tanh_()
    known = values.dtype in (torch.float32, torch.float64)
    exact = values.detach() if known else values.detach().float()
    found = exact.numpy()
    np.tanh(found, out=found)
    return values if known else values.copy_(exact)

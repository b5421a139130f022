"""Matrix products with constant weights, which are laid out for the processor once.

On a CPU a product of `pack_linear` takes half to two thirds of the time of PyTorch's own linear
layer. Unlike that layer, it gives a row the same product to the last bit whatever other rows it is
multiplied with, with two exceptions: a single row in float32, and float16, whose products are
FBGEMM's and depend on the number of rows in float32's last digits.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from seqvis.errors import ConfigError

Precision = Literal["float32", "bfloat16", "float16", "int8"]
Product = Callable[[Tensor], Tensor]
"""From (rows, inputs) to (rows, outputs), both float32."""

_SIZES = (0, 1, 2, 4, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512)
"""Numbers of rows that products are made for."""

_NEEDS = {"bfloat16": "AVX-512", "float16": "AVX2", "int8": "VNNI"}


def pack_linear(weight: Tensor, bias: Tensor | None, precision: Precision) -> Product:
    """Return the product with `weight` (outputs, inputs) and the sum with `bias` (outputs,).

    Raises ConfigError for float16 and int8 on a GPU, and for a precision that the processor has no
    products for: they would be many times slower than float32's, or fail.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach().float()
    if weight.is_cuda and precision in ("float16", "int8"):
        raise ConfigError(f"{precision} is for CPUs; on a GPU use bfloat16")
    if not weight.is_cuda and not computes(precision):
        raise ConfigError(f"{precision} needs a processor with {_NEEDS[precision]}; use float32")
    if precision == "int8":
        return _quantised(weight.float(), bias)
    if precision == "float16":
        return _halved(weight.float(), bias)
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    if weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return _packed(weight.to(kind), bias)
    return _plain(weight.to(kind), bias)


def computes(precision: Precision) -> bool:
    """Return whether this processor has products of a precision."""
    capabilities = torch.cpu.get_capabilities()
    if precision == "bfloat16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if precision == "float16":
        compiled = hasattr(torch.ops.quantized, "linear_dynamic_fp16")
        engines = torch.backends.quantized.supported_engines
        return compiled and "fbgemm" in engines and bool(capabilities.get("avx2"))
    return precision == "float32" or any(
        capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")
    )


def padded_rows(rows: int) -> int:
    """Return how many rows a processor computes for so many.

    There are few such numbers, because oneDNN takes a millisecond and half a mebibyte to make a
    product for a new number of rows, and keeps a thousand of them. Beyond the largest, rows are
    computed in pieces.
    """
    whole, rest = divmod(rows, _SIZES[-1])
    return whole * _SIZES[-1] + _SIZES[bisect_left(_SIZES, rest)]


def _in_pieces(compute: Product, inputs: Tensor) -> Tensor:
    """Compute the product for numbers of rows in `_SIZES`."""
    rows = inputs.shape[0]  # `len` of a tensor takes three times as long
    more = padded_rows(rows) - rows
    filled = functional.pad(inputs, (0, 0, 0, more)) if more else inputs
    if rows <= _SIZES[-1]:
        result = compute(filled)
    else:
        result = torch.cat([compute(piece) for piece in filled.split(_SIZES[-1])])
    return result[:rows] if more else result


def _packed(weight: Tensor, bias: Tensor | None) -> Product:
    """Lay the weights out in oneDNN's blocks, in float32 also transposed for a single row, for
    which oneDNN takes two to four times as long."""
    kind = weight.dtype
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    added = None if bias is None else bias.to(kind)
    columns = weight.t().contiguous() if kind == torch.float32 else None

    def multiply(inputs: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, blocks, added, "none", [], "")
        return result

    def product(inputs: Tensor) -> Tensor:
        # Quicker for a single row, but it rounds differently.
        if inputs.shape[0] == 1 and columns is not None:
            return inputs @ columns if added is None else torch.addmm(added, inputs, columns)
        return _in_pieces(multiply, inputs.to(kind)).float()

    return product


def _plain(weight: Tensor, bias: Tensor | None) -> Product:
    kind = weight.dtype
    added = None if bias is None else bias.to(kind)

    def product(inputs: Tensor) -> Tensor:
        return functional.linear(inputs.to(kind), weight, added).float()

    return product


def _halved(weight: Tensor, bias: Tensor | None) -> Product:
    """Round the weights to sixteen bits, to read half as many bytes; sums are float32 (FBGEMM)."""
    packed = torch.ops.quantized.linear_prepack_fp16(weight.contiguous(), bias)

    def product(inputs: Tensor) -> Tensor:
        result: Tensor = torch.ops.quantized.linear_dynamic_fp16(inputs, packed)
        return result

    return product


def _quantised(weight: Tensor, bias: Tensor | None) -> Product:
    """Round to eight bits, with a scale for each output and for each row of the inputs.

    Both are symmetric around zero; sums are exact integers.
    """
    scales = weight.abs().amax(1).clamp_(min=1e-12) / 127
    whole = (weight / scales.unsqueeze(1)).round().to(torch.int8).t()
    added = torch.zeros(len(weight)) if bias is None else bias

    def product(inputs: Tensor) -> Tensor:
        steps = inputs.abs().amax(1, keepdim=True).clamp_(min=1e-12) / 127
        rounded = (inputs / steps).round_().to(torch.int8)
        sums = _in_pieces(lambda piece: torch._int_mm(piece, whole), rounded)
        return torch.addcmul(added, sums * steps, scales)

    return product

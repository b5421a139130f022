"""Milliseconds of a product with a layer's weights, by precision and number of rows.

    python -m benchmarks.products --outputs 9761 --inputs 300

`linear` is PyTorch's own layer in float32. All sides run in turn, on one thread, so that none finds
its weights in the cache; the quickest of the rounds is printed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from seqvis.translation.products import Precision, computes, prepare

ROWS = (1, 4, 8, 16, 20, 32, 64)


def measure(outputs: int, inputs: int, rounds: int) -> dict[int, dict[str, float]]:
    """Rows to side to milliseconds."""
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    sides: dict[str, Callable[[Tensor], Tensor]] = {
        "linear": lambda rows: functional.linear(rows, weight, bias)
    }
    for precision in filter(computes, get_args(Precision)):
        sides[precision] = prepare(weight, bias, precision)
    found: dict[int, dict[str, float]] = {}
    for rows in ROWS:
        given = torch.randn(rows, inputs)
        best = dict.fromkeys(sides, float("inf"))
        for _ in range(rounds):
            for name, side in sides.items():
                began = time.perf_counter()
                side(given)
                best[name] = min(best[name], time.perf_counter() - began)
        found[rows] = {name: round(seconds * 1e3, 3) for name, seconds in best.items()}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outputs", type=int, default=9761)
    parser.add_argument("--inputs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with torch.no_grad():
        print(json.dumps(measure(given.outputs, given.inputs, given.rounds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

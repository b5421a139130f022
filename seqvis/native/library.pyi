"""The extension's interface (module.cpp)."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

class Precision:
    float32: Precision
    bfloat16: Precision
    int8: Precision

def supports(precision: Precision, /) -> bool:
    """Return whether this processor and this PyTorch have the products."""

class Source:
    """A sentence that was read: what the decoder starts from, and attends to."""

class Network:
    def __init__(
        self,
        weights: Mapping[str, NDArray[Any]],
        precision: Precision,
        rectify: bool,
        reads_context: bool,
        /,
    ) -> None: ...
    def read(self, sentences: Sequence[Sequence[int]], /) -> list[Source]: ...

class Sentence:
    def __init__(
        self, source: Source, width: int, limit: int, n_best: int, exponent: float, /
    ) -> None: ...
    def best_so_far(self) -> list[int]: ...
    def hypotheses(self) -> list[tuple[list[int], float, NDArray[Any] | None, bool]]:
        """Return words, score, attention and whether it is finished, best first."""

class Batch:
    steps: int
    extended: int
    def __init__(self, network: Network, /) -> None: ...
    def join(self, sentences: Sequence[Sentence], /) -> None: ...
    def drop(self, sentence: Sentence, /) -> None: ...
    def run(self, most: int, /) -> list[Sentence]: ...
    def interrupt(self) -> None: ...

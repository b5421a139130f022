"""The extension's interface (module.cpp)."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

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

class Attention:
    def __init__(
        self,
        keys: Tensor,
        values: Tensor,
        lengths: Tensor,
        query_weight: Tensor,
        query_bias: Tensor,
        scorer: Tensor,
        rectify: bool,
        /,
    ) -> None: ...

# What these take and return says training.h.
def run_gru(
    words: Tensor,
    hidden: Tensor,
    rows: Sequence[int],
    weights: Sequence[Tensor],
    precision: Precision,
    /,
) -> list[Tensor]: ...
def run_gru_backward(
    of_states: Tensor,
    of_last: Tensor,
    rows: Sequence[int],
    weights: Sequence[Tensor],
    kept: Sequence[Tensor],
    precision: Precision,
    /,
) -> list[Tensor]: ...
def run_attending(
    embedded: Tensor,
    hidden: Tensor,
    attention: Attention,
    masks: Sequence[Tensor],
    weights: Sequence[Tensor],
    precision: Precision,
    /,
) -> list[Tensor]: ...
def run_attending_backward(
    of_states: Tensor,
    of_mixed: Tensor,
    of_last: Tensor,
    attention: Attention,
    masks: Sequence[Tensor],
    weights: Sequence[Tensor],
    results: Sequence[Tensor],
    precision: Precision,
    /,
) -> list[Tensor]: ...
def cross_entropy(
    scores: Tensor,
    bias: Tensor,
    right: Tensor,
    smoothing: float,
    gradients: Tensor,
    of_bias: Tensor,
    /,
) -> list[Tensor]: ...

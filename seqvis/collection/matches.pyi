"""The interface of seqvis/native/matches.cpp."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Kind = TypeVar("Kind")
Strings = Sequence[bytes] | tuple[Any, NDArray[np.int64]]  # or all bytes, and where each ends

def best_matches(
    kind: type[Kind],
    vectors: NDArray[np.float32],
    ids: Strings,
    metadata: Strings,
    rows: Sequence[NDArray[Any]],
    queries: NDArray[np.float32],
    count: int,
) -> list[list[Kind]]:
    """Return what `Rows.best_matches` does (seqvis/collection/segments.py)."""

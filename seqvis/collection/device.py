"""Exact search on a torch device, which holds a segment's vectors and computes the products.

The vectors are copied to the device once. A search returns candidate rows, like `exact_candidates`;
their cosines are then computed in float64 on the CPU, so that ids, scores and order equal the
CPU's.
"""

import numpy as np
import torch

from seqvis.collection.index import rounding
from seqvis.errors import ConfigError

_SCORE_BLOCK = 1 << 26  # scores held at once: 256 MB
_BFLOAT16_ROUNDOFF = 2.0**-8  # the coarsest that torch may use for float32 matrices when told so


class DeviceRows:
    """Unit rows (n, d) on a device. Safe to share between threads."""

    def __init__(self, vectors: np.ndarray, device: str):
        """Copies the rows to `device`, 4 bytes a number. Raises ConfigError if that fails."""
        try:
            self._rows = torch.tensor(vectors, dtype=torch.float32, device=torch.device(device))
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"{device}: cannot hold {vectors.nbytes >> 20} MB of vectors "
                f"({str(error).splitlines()[0]}); give another device, or none"
            ) from error

    def candidates(
        self, queries: np.ndarray, count: int, admitted: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """As `exact_candidates`, with the same arguments but the vectors."""
        total, dimension = self._rows.shape
        count = min(count, total if admitted is None else int(admitted.sum()))
        if count < 1:
            return [np.empty(0, dtype=np.int64) for _ in queries]
        asked = torch.from_numpy(np.ascontiguousarray(queries)).to(self._rows.device)
        left_out = None
        if admitted is not None:
            left_out = torch.from_numpy(~admitted).to(self._rows.device)
        found: list[np.ndarray] = []
        for part in asked.split(max(1, _SCORE_BLOCK // total)):
            scores = part @ self._rows.T  # (part, n)
            if left_out is not None:
                scores.masked_fill_(left_out, -2.0)  # below every cosine
            least = scores.topk(count, dim=1).values[:, -1:] - _margin(dimension)
            found += [row.nonzero()[:, 0].cpu().numpy() for row in scores >= least]
        return found


def _margin(dimension: int) -> float:
    """How far below the k-th greatest product one of the k greatest cosines can be."""
    try:
        if torch.get_float32_matmul_precision() == "highest":
            return rounding(dimension)
    except RuntimeError:
        pass  # it was set by torch's newer switches, of which there are several
    # TF32 may stay on, and no switch of the process is changed: coarser products only give more
    # candidates.
    # Both factors are rounded, once each; sums are still in float32.
    return rounding(dimension) + 4.0 * _BFLOAT16_ROUNDOFF

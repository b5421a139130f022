"""CUDA graphs: all operations of a function are recorded once and then started in one call.

To start an operation takes the host some microseconds, which is longer than a GPU works on a small
one. A recording is made for each set of shapes, at its second call; the first call only prepares
what libraries set up when they meet a shape. If recording fails, functions run as they are.

Recordings are off unless the environment says `SEQVIS_CUDA_GRAPHS=1`.
"""

import os
import threading
import warnings
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]
Record = Callable[[Function, Tensors], tuple[Callable[[], None], Tensors]]
"""Records a function of these tensors; returns what replays it, and where the results are then."""

SWITCH = "SEQVIS_CUDA_GRAPHS"
MOST = 64  # shapes that are recorded; each keeps a copy of its inputs, and others run as they are


class Graphs:
    """The recordings of one function, by shapes. Safe to share between threads."""

    def __init__(self, record: Record | None = None):
        """`record`: by default CUDA's, if it is switched on and there is a GPU."""
        if record is None and os.environ.get(SWITCH) == "1" and torch.cuda.is_available():
            record = _Cuda()
        self._record = record
        self._recordings: dict[Hashable, tuple[Tensors, Callable[[], None], Tensors] | None] = {}
        self._lock = threading.Lock()

    @property
    def on(self) -> bool:
        return self._record is not None

    def run(self, function: Function, inputs: Sequence[Tensor], key: Hashable = ()) -> Tensors:
        """Return `function(*inputs)`.

        Args:
            function: must depend on nothing but the contents of its inputs and `key`, and must not
                wait for the device.
            key: what decides which operations it starts, besides the shapes and types.
        """
        if self._record is None:
            return function(*inputs)
        full = (key, *((tensor.shape, tensor.dtype) for tensor in inputs))
        with self._lock:
            if full not in self._recordings:
                if len(self._recordings) < MOST:
                    self._recordings[full] = None
                return function(*inputs)
            recording = self._recordings[full]
            if recording is None:
                own = tuple(tensor.clone() for tensor in inputs)
                try:
                    recording = (own, *self._record(function, own))
                except RuntimeError as error:
                    warnings.warn(f"CUDA graphs are switched off: {error}", stacklevel=2)
                    self._record = None
                    return function(*inputs)
                self._recordings[full] = recording
            own, replay, results = recording
            for to, given in zip(own, inputs, strict=True):
                to.copy_(given)
            replay()
            return tuple(result.clone() for result in results)


class _Cuda:
    """Records on a GPU; all recordings share their memory, since they run one after the other."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Function, inputs: Tensors) -> tuple[Callable[[], None], Tensors]:
        graph = torch.cuda.CUDAGraph()
        # Threads that pin memory meanwhile must not end the recording.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            results = function(*inputs)
        return graph.replay, results

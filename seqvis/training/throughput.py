"""How fast training is: tokens or pictures a second, and the share of its arithmetic that is used.

Model-flop utilisation (PaLM, Chowdhery et al. 2022) counts the operations that the model needs,
not those that an implementation spends, against the fastest matrix product of this machine in
the same type. On a CPU that peak is measured, on known GPUs it is the vendor's figure.
"""

import time
from functools import cache

import torch

from seqvis.training.workers import Workers

# Dense bfloat16 and float32 (TF32 off) operations a second, from NVIDIA's data sheets.
_PEAKS = {
    "H100": (989e12, 67e12),
    "H200": (989e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L4": (121e12, 30.3e12),
    "T4": (65e12, 8.1e12),
    "V100": (125e12, 15.7e12),
}


class Throughput:
    """Counts the items (the task's `unit`: tokens, pictures) and operations of an epoch."""

    def __init__(self, product_type: torch.dtype, workers: Workers, unit: str):
        self.workers = workers
        self.unit = unit
        self.peak = peak_flops(product_type, workers.device) * workers.count
        self.started = time.monotonic()
        self.items = 0.0
        self.flops = 0.0

    def add(self, items: int, flops: float) -> None:
        """Adds one step of this worker; the others' are taken to be alike."""
        self.items += items * self.workers.count
        self.flops += flops * self.workers.count

    def summary(self) -> dict[str, float]:
        """Items a second of all workers, and the utilisation (0 to 1)."""
        seconds = max(1e-9, time.monotonic() - self.started)
        return {
            f"{self.unit}_per_second": round(self.items / seconds, 1),
            "model_flop_utilisation": round(self.flops / seconds / self.peak, 4),
        }


@cache
def peak_flops(product_type: torch.dtype, device: torch.device) -> float:
    """Operations a second of the fastest matrix product on this device, in this type."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for key, peaks in _PEAKS.items():
            if key in name:
                return peaks[0] if product_type == torch.bfloat16 else peaks[1]
    size = 1024 if device.type == "cpu" else 8192
    left = torch.randn(size, size, device=device, dtype=product_type)
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        result = left @ left
        float(result[0, 0])  # waits for a GPU
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best

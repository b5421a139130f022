"""TensorBoard: the curves by steps, and settings and results for its table of runs (HParams).

Without this tracker `OUT.run/tensorboard` has a point for each epoch alone (launch.py).
"""

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from seqvis.storage import Location
from seqvis.training.trackers.tracking import Run, Status

_SECONDS_BETWEEN = 20.0  # copies to an object store


class TensorboardTracker:
    """Files in `OUT.run/tensorboard`; on an object store written beside it and copied there."""

    def __init__(self) -> None:
        self._place: Location
        self._writer: SummaryWriter
        self._settings: dict[str, Any] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._due = 0.0

    def begin(self, run: Run, known: str | None) -> str:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        self._settings = dict(run.settings)
        self._place = run.folder / "tensorboard"
        if known is None:
            self._place.delete()
        folder = self._place.path
        if not self._place.is_local:
            self._temporary = tempfile.TemporaryDirectory()
            folder = self._temporary.name
        self._writer = SummaryWriter(folder)
        return "tensorboard"

    def log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if name != "epoch":
                self._writer.add_scalar(f"{stage}/{name}" if stage else name, value, step)
        self._writer.flush()
        if time.monotonic() > self._due:
            self._copy()

    def end(
        self, status: Status, results: Mapping[str, Any], kind: str, folder: Path | None
    ) -> None:
        if results:
            numbers = {name: value for name, value in results.items() if not isinstance(value, str)}
            best = {f"best/{name}": float(value) for name, value in numbers.items()}
            self._writer.add_hparams(self._settings, best, run_name=".")
        self._writer.close()
        self._copy()

    def _copy(self) -> None:
        if self._temporary is not None:
            self._due = time.monotonic() + _SECONDS_BETWEEN
            for file in Path(self._temporary.name).iterdir():
                (self._place / file.name).write_bytes(file.read_bytes())

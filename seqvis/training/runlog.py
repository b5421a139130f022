"""The records of a run: a table of epochs as CSV, curves as a picture, TensorBoard's files.

All are made anew from the whole history, so that a resumed run has no gap and nothing twice: at the
end, and before it after an epoch every twenty seconds, since that takes one or two.
"""

import csv
import io
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from seqvis.storage import Location

SECONDS_BETWEEN = 20


class RunLog:
    """Writes the records into a run's directory."""

    def __init__(self, location: Location):
        self.location = location
        self._history: list[dict[str, Any]] = []
        self._best_epoch: int | None = None
        self._written_at = time.monotonic()

    def note(self, history: list[dict[str, Any]], best_epoch: int | None) -> None:
        """Takes the table of all epochs so far, and writes it if the last time was long ago."""
        self._history, self._best_epoch = history, best_epoch
        if time.monotonic() - self._written_at > SECONDS_BETWEEN:
            self.flush()

    def flush(self) -> None:
        """Writes what was noted and not yet written."""
        if self._history:
            self._write(self._history)
            self._history = []
            self._written_at = time.monotonic()

    def _write(self, history: list[dict[str, Any]]) -> None:
        """Rewrites `metrics.csv`, `curves.png` and `tensorboard/`."""
        from seqvis.plots.training import plot_curves  # matplotlib takes a second to load

        self.location.make_directory()
        (self.location / "metrics.csv").write_bytes(history_as_csv(history))
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "curves.png"
            plot_curves(picture, history, self._best_epoch)
            (self.location / "curves.png").write_bytes(picture.read_bytes())
            self._write_tensorboard(Path(folder) / "tensorboard", history)

    def _write_tensorboard(self, folder: Path, history: list[dict[str, Any]]) -> None:
        logging.getLogger("tensorboard").setLevel(logging.ERROR)
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        with SummaryWriter(str(folder)) as writer:
            for row in history:
                for name, value in row.items():
                    if name not in ("epoch", "step"):
                        writer.add_scalar(name, value, row["step"])
        place = self.location / "tensorboard"
        place.delete()
        place.make_directory()
        for file in folder.iterdir():
            (place / file.name).write_bytes(file.read_bytes())
        shutil.rmtree(folder)


def history_as_csv(history: list[dict[str, Any]]) -> bytes:
    """One line an epoch, under a line of names."""
    names = list(dict.fromkeys(name for row in history for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue().encode()

"""How long a training job takes from the shell to the end of its first step, in one process and
with a Ray worker. The limit is Python that imports PyTorch and nothing else.
"""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress

from benchmarks.instrument import Row, Side, WrongResultError, compare, rate
from benchmarks.material import PRESET, Material

_FIRST_STEP = "% MFU"  # a part of what the job shows after its first step
_WIDE = struct.pack("HHHH", 50, 300, 0, 0)  # rows and columns: nothing is cut off


def measure(material: Material, rounds: int) -> Iterator[Row]:
    """One row; the rates are starts a second."""
    command = [
        sys.executable, "-m", "jobs.train_translator", "--config", str(PRESET),
        "--corpus", str(material.corpus.location.uri), "--out", str(material.work / "started"),
        "--restart", "--num-workers",
    ]  # fmt: skip
    imported = [sys.executable, "-c", "import torch"]
    sides = [
        Side("python -c 'import torch'", lambda: rate(1, lambda: subprocess.check_call(imported))),
        Side("train_translator, in this process", lambda: 1 / _first_step([*command, "0"])),
        Side("train_translator, a Ray worker", lambda: 1 / _first_step([*command, "1"])),
    ]
    yield compare("start to first step", "starts/s", sides, rounds)


def _first_step(command: list[str]) -> float:
    """Seconds until a job shows progress on its terminal; then it is stopped."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, _WIDE)
    shown, began = "", time.perf_counter()
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment
    ) as job:
        os.close(terminal)
        while _FIRST_STEP not in shown:
            try:
                shown += os.read(screen, 1 << 16).decode(errors="replace")
            except OSError as error:  # the job has ended
                raise WrongResultError(shown) from error
        seconds = time.perf_counter() - began
        job.terminate()
        with suppress(OSError):  # it would wait for a terminal that nobody reads
            while job.poll() is None:
                if select.select([screen], [], [], 0.1)[0]:
                    os.read(screen, 1 << 16)
    os.close(screen)
    return seconds

"""Tensors in an artifact: as they were, readable like the rest, and one error on a full disk."""

import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seqvis.artifacts import create
from seqvis.errors import StorageError


def test_tensors_come_back_and_may_be_read_by_whoever_may_read_the_rest(tmp_path: Path) -> None:
    tensors = {"weight": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(7)}
    with create(str(tmp_path / "checkpoint"), "checkpoint", {}) as writer:
        writer.write_tensors("tensors.safetensors", tensors)
        writer.write_json("state.json", {})
    stored = load_file(tmp_path / "checkpoint" / "tensors.safetensors")
    torch.testing.assert_close(stored, tensors, rtol=0, atol=0)
    modes = {path.stat().st_mode for path in (tmp_path / "checkpoint").iterdir()}
    assert len(modes) == 1


def test_tensors_that_do_not_fit_on_the_disk_are_one_clear_error(tmp_path: Path) -> None:
    def write() -> None:
        with create(str(tmp_path / "corpus"), "corpus", {}) as writer:
            writer.write_tensors("tensors.safetensors", {"weight": torch.zeros(100_000)})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StorageError, match="File too large"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []

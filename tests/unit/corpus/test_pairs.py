"""A large corpus is mapped, not copied: the same pairs, one set of files for all workers."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from seqvis import artifacts
from seqvis.corpus import pairs
from seqvis.corpus.pairs import load_pairs, training_pairs
from seqvis.translation.batches import make_batch


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every corpus counts as large, and its files go here."""
    monkeypatch.setattr(pairs, "MAPPED_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_mapped_pairs_make_the_batches_of_loaded_ones(questions: Path, scratch: Path) -> None:
    corpus = artifacts.load(str(questions), "corpus")
    loaded, mapped = load_pairs(corpus, "train"), training_pairs(corpus)
    assert len(mapped) == len(loaded)
    for side in ("source", "target"):
        assert np.array_equal(getattr(mapped, side).offsets, getattr(loaded, side).offsets)
        assert np.array_equal(getattr(mapped, side).words, getattr(loaded, side).words)
    rows = np.array([5, 0, len(loaded) - 1])
    ours, theirs = make_batch(mapped, rows), make_batch(loaded, rows)
    assert torch.equal(ours.source.ids, theirs.source.ids)
    assert torch.equal(ours.target, theirs.target)
    assert (ours.target_words, ours.positions) == (theirs.target_words, theirs.positions)


def test_a_second_worker_maps_the_files_of_the_first(questions: Path, scratch: Path) -> None:
    corpus = artifacts.load(str(questions), "corpus")
    first = training_pairs(corpus)
    files = sorted(scratch.rglob("*.words"))
    times = [file.stat().st_mtime_ns for file in files]
    assert len(files) == 2
    second = training_pairs(corpus)
    assert [file.stat().st_mtime_ns for file in files] == times
    for table in (first, second):
        assert isinstance(table.source.words, np.memmap)
        assert not table.source.words.flags.writeable

"""The training pairs of a large corpus, in files that all workers of a node map into memory.

Shuffled batches touch every row in every epoch, so no worker could manage with a part of the
corpus. But the pages of a mapped file are shared by all workers of a node, and pages for which
memory has no room are read again.
"""

import fcntl
import os
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from seqvis.artifacts import Artifact
from seqvis.errors import StorageError
from seqvis.storage import storage_errors
from seqvis.translation.batches import PairTable, Side, load_pairs

MAPPED_BYTES = 64 << 20  # of Parquet; a smaller corpus is read into the memory of each worker
SIDES = ("source", "target")


def training_pairs(corpus: Artifact) -> PairTable:
    """The training part of a corpus. Raises ArtifactError if it has no rows, StorageError if
    there is no room for the mapped files: 2 bytes a word and 16 a pair."""
    names = [name for name in corpus.names_below("train") if name.endswith(".parquet")]
    if sum(corpus.files[name]["size"] for name in names) < MAPPED_BYTES:
        return load_pairs(corpus, "train")
    # Each node makes the files once and keeps them, so that the next run on the same corpus finds
    # them. They may be deleted when no training runs.
    above = Path(tempfile.gettempdir()) / f"seqvis-{os.getuid()}"
    folder = above / f"pairs-{corpus.fingerprint()}"
    with storage_errors(str(above)):
        above.mkdir(mode=0o700, exist_ok=True)
        if above.stat().st_uid != os.getuid():
            raise StorageError(f"{above}: belongs to somebody else; set TMPDIR to another folder")
        with (above / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker of the node writes, the others wait
            if not folder.exists():
                _write(corpus, names, folder)
    return PairTable(_map(folder, "source"), _map(folder, "target"))


def _write(corpus: Artifact, names: list[str], folder: Path) -> None:
    """Streams the Parquet parts into flat files; `folder` appears when they are whole."""
    staging = folder.with_suffix(".partial")
    staging.mkdir(exist_ok=True)
    for side in SIDES:
        with _path(staging, side, "words").open("wb") as words:
            with _path(staging, side, "offsets").open("wb") as offsets:
                last = 0
                offsets.write(np.zeros(1, np.int64).tobytes())
                for name in names:
                    location = corpus.file(name)
                    with parquet.ParquetFile(location.path, filesystem=location.filesystem) as file:
                        for batch in file.iter_batches(columns=[side]):
                            last = _append(batch[side], words, offsets, last)
    staging.rename(folder)


def _append(sentences: pa.ListArray, words: BinaryIO, offsets: BinaryIO, last: int) -> int:
    flat = sentences.flatten().to_numpy(zero_copy_only=False).astype(np.uint16, copy=False)
    lengths = sentences.value_lengths().to_numpy(zero_copy_only=False)
    ends = last + np.cumsum(lengths, dtype=np.int64)
    words.write(flat.tobytes())
    offsets.write(ends.tobytes())
    return last + len(flat)


def _map(folder: Path, side: str) -> Side:
    return Side(
        np.memmap(_path(folder, side, "words"), np.uint16, "r"),
        np.memmap(_path(folder, side, "offsets"), np.int64, "r"),
    )


def _path(folder: Path, side: str, what: str) -> Path:
    return folder / f"{side}.{what}"

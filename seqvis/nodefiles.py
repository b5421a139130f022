"""Folders that are made once a node, for all its processes to map.

They are in the folder for temporary files, below `seqvis-UID`, and stay for the next run on the
same data. They may be deleted whenever no job runs that uses them.
"""

import errno
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from seqvis.disk import sync_file, take_lock
from seqvis.errors import StorageError
from seqvis.storage import storage_errors

MAPPED_BYTES = 64 << 20  # below, each process rather holds the data in its own memory
_SIZES = "sizes.json"  # of all files; written last


def made_once(name: str, size: int, write: Callable[[Path], object]) -> Path:
    """Return the folder `name`, which the first process of the node to ask for it makes.

    The others wait meanwhile. What a killed process left unfinished is made anew, and so is a
    folder of which files were tidied away.

    Args:
        name: tells the content apart, down to its version.
        size: about how many bytes `write` writes.
        write: fills the empty folder that it is given.

    Raises:
        StorageError: there is no room for it, or the place cannot be written.
    """
    parent = Path(tempfile.gettempdir()) / f"seqvis-{os.getuid()}"
    folder = parent / name
    with storage_errors(str(parent)):
        parent.mkdir(mode=0o700, exist_ok=True)
        if parent.stat().st_uid != os.getuid():
            raise StorageError(f"{parent}: belongs to somebody else; set TMPDIR to another folder")
        waiting = f"{folder}: another process writes it"
        with take_lock(parent / f"{name}.lock", StorageError, waiting, math.inf):
            if not _is_whole(folder):
                _make(folder, size, write)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _SIZES).read_bytes())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, ValueError):
        return False


def _make(folder: Path, size: int, write: Callable[[Path], object]) -> None:
    staging = folder.with_name(f"{folder.name}.partial")
    for leftover in (staging, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < size:
        raise _no_room(folder, size, free)
    staging.mkdir()
    try:
        write(staging)
        files = [path for path in staging.rglob("*") if path.is_file()]
        for path in files:  # or a power cut could leave empty files of the right size
            sync_file(path)
        sizes = {str(path.relative_to(staging)): path.stat().st_size for path in files}
        (staging / _SIZES).write_text(json.dumps(sizes))
        staging.rename(folder)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise _no_room(folder, size, shutil.disk_usage(folder.parent).free) from error
        raise


def _no_room(folder: Path, size: int, free: int) -> StorageError:
    return StorageError(
        f"{folder}: needs {size / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB free; delete "
        f"folders in {folder.parent} that no job uses, or set TMPDIR to a folder on a larger disk"
    )

"""Write to a local disk so that acknowledged data survives a crash.

When a call returns, its files are on the disk and not only in its cache. Everything goes through
`os`, one call at a time, so that a test can simulate a crash before and after each.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from seqvis.errors import SeqvisError

_RETRY = 0.05  # seconds between tries to take a lock


def sync(descriptor: int) -> None:
    """Return when what was written to a file or directory is on the disk.

    On macOS `os.fsync` returns when the disk has it in a cache of its own, which a loss of power
    empties; F_FULLFSYNC, which some of the disks there do not know, waits for the rest.
    """
    whole = getattr(fcntl, "F_FULLFSYNC", None)
    if whole is not None:
        try:
            fcntl.fcntl(descriptor, whole)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOTTY):
                raise
    os.fsync(descriptor)


# A new or renamed file is durable only once its directory, too, has been synced.
def sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def synced_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that is on the disk when the block ends; its directory is not synced."""
    with path.open("wb") as stream:
        yield stream
        stream.flush()
        sync(stream.fileno())


def sync_file(path: Path) -> None:
    """Make durable what a library wrote to `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    with synced_file(path) as stream:
        stream.write(content)
    sync_directory(path.parent)


def replace_synced(path: Path, content: bytes) -> None:
    """Put `content` in the place of the file in one step: a crash leaves the old or the new."""
    temporary = path.with_name(f".{path.name}.partial")
    write_synced(temporary, content)
    os.replace(temporary, path)
    sync_directory(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`; os.write may write only a part of it when the disk fills."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def take_lock(path: Path, refusal: type[SeqvisError], text: str, wait: float = 0.0) -> BinaryIO:
    """Lock a file until what is returned is closed or this process ends, and write its id there.

    If somebody, this process included, still holds the lock after `wait` seconds, `refusal` is
    raised with `text` and the holder's process id.
    """
    lock = path.open("ab+", buffering=0)
    until = time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lockf lets a process in twice
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    holder = path.read_text(errors="replace") or "unknown"
                    raise refusal(f"{text} (process {holder.strip()})") from error
            time.sleep(_RETRY)
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())
        return lock
    except BaseException:
        lock.close()
        raise


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, or a synced copy where the disk or the place allows no link."""
    source = source.resolve()  # a hard link to a symbolic one would point elsewhere from its place
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        with source.open("rb") as reader, synced_file(target) as writer:
            shutil.copyfileobj(reader, writer, 1 << 22)


def file_hash(path: Path) -> str:
    """Return the file's SHA-256, hexadecimal (about 1 s per GB)."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remove_quietly(path: Path) -> None:
    """Delete a file or directory that nothing needs; what cannot be deleted stays for later."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        os.unlink(path)
    except OSError:
        return

"""Paths that may be URIs: `s3://`, `gs://`, or a local path, all through `pyarrow.fs`.

`Location` is what every part of seqvis passes around instead of a string: a file system and a
path on it. What would surprise a reader: object stores have neither directories nor renames,
so `is_local` decides how an artifact is made to appear whole (see `seqvis.artifacts`).
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from seqvis.errors import DataError, StorageError


@dataclass(frozen=True)
class Location:
    """A file or directory on a local disk or in an object store."""

    filesystem: fs.FileSystem
    path: str
    uri: str  # as the user wrote it; error messages quote it

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def local_path(self) -> Path:
        """The path on this machine's disk. Raises DataError for a location in an object store."""
        if not self.is_local:
            raise DataError(f"{self.uri}: this input must be on a local disk; copy it there first")
        return Path(self.path)

    def __truediv__(self, name: str) -> "Location":
        return Location(self.filesystem, f"{self.path}/{name}", f"{self.uri.rstrip('/')}/{name}")

    def parent(self) -> "Location":
        """The directory that this file or directory is in."""
        above = self.path.rstrip("/").rpartition("/")[0]
        return Location(self.filesystem, above or "/", self.uri.rstrip("/").rpartition("/")[0])

    def exists(self) -> bool:
        return self.filesystem.get_file_info(self.path).type != fs.FileType.NotFound

    def is_directory(self) -> bool:
        return self.filesystem.get_file_info(self.path).type == fs.FileType.Directory

    def size(self) -> int:
        """Bytes in the file. Raises DataError if there is no such file."""
        info = self.filesystem.get_file_info(self.path)
        if info.type != fs.FileType.File:
            raise DataError(f"{self.uri}: no such file")
        return int(info.size)

    def read_bytes(self) -> bytes:
        if not self.exists():
            raise DataError(f"{self.uri}: no such file")
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def write_bytes(self, content: bytes) -> None:
        with storage_errors(self.uri), self.filesystem.open_output_stream(self.path) as stream:
            stream.write(content)

    @contextmanager
    def local_output(self) -> Iterator[Path]:
        """A local path to write this file to, for libraries that write to a path only."""
        with storage_errors(self.uri):
            if self.is_local:
                yield Path(self.path)
                return
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / self.name
                yield temporary
                self.write_bytes(temporary.read_bytes())

    def make_directory(self) -> None:
        with storage_errors(self.uri):
            self.filesystem.create_dir(self.path, recursive=True)

    def delete(self) -> None:
        """Removes a file or a whole directory; nothing happens if it is not there."""
        info = self.filesystem.get_file_info(self.path)
        if info.type == fs.FileType.Directory:
            self.filesystem.delete_dir(self.path)
        elif info.type == fs.FileType.File:
            self.filesystem.delete_file(self.path)

    def children(self) -> list["Location"]:
        """Files and directories directly below, by name."""
        selector = fs.FileSelector(self.path, allow_not_found=True)
        names = sorted(info.base_name for info in self.filesystem.get_file_info(selector))
        return [self / name for name in names]

    def files_below(self) -> list[str]:
        """Paths of all files below, relative to this directory, sorted."""
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=True)
        found = self.filesystem.get_file_info(selector)
        prefix = len(self.path.rstrip("/")) + 1
        return sorted(info.path[prefix:] for info in found if info.type == fs.FileType.File)


def locate(uri: str | os.PathLike[str]) -> Location:
    """The location that a path or URI names. Raises DataError if its scheme is not known."""
    text = os.fspath(uri)
    if "://" not in text:
        return Location(fs.LocalFileSystem(), str(Path(text).expanduser().absolute()), text)
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except Exception as error:  # pyarrow raises several kinds for a bad scheme, host or bucket
        raise DataError(f"{text}: not a location that can be opened ({error})") from error
    return Location(filesystem, path.rstrip("/"), text)


def absolute(uri: str) -> str:
    """`uri` in a form that another process understands, whatever its working directory."""
    return uri if "://" in uri else locate(uri).path


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Turns a full disk, a missing permission and the like into a StorageError that names `uri`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            advice = "the disk is full: free some space and run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "no permission to write here: choose another place or change its owner"
        else:
            advice = f"cannot be written ({error})"
        raise StorageError(f"{uri}: {advice}") from error

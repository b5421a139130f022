"""Paths that may be URIs (`s3://`, `gs://`) or local, all through `pyarrow.fs`.

`Location`, a file system and a path on it, is what every part of seqvis passes around instead of a
string. A URI may end in a query that configures its file system
(`s3://bucket/corpus?region=eu-west-1`).
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from seqvis.checks import require_extra
from seqvis.errors import DataError, StorageError

HUGGING_FACE = "hf://"  # before the name of a data set, or of an artifact (hub/download.py)
_COPY_BYTES = 4 << 20
_DENIED = ("ACCESS_DENIED", "InvalidAccessKeyId", "SignatureDoesNotMatch", "PERMISSION_DENIED")


@dataclass(frozen=True)
class Location:
    """A file or directory on a local disk or in an object store.

    Object stores have neither directories nor renames, so `is_local` decides how an artifact is
    made to appear whole (see `seqvis.artifacts`).
    """

    filesystem: fs.FileSystem
    path: str
    uri: str  # as the user wrote it, secrets included; error messages quote it without

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def __truediv__(self, name: str) -> "Location":
        return self.beside(f"/{name}")

    def beside(self, suffix: str) -> "Location":
        """Return the location whose path is this one's with `suffix` at its end."""
        before, query = _without_query(self.uri)
        uri = f"{before.rstrip('/')}{suffix}{query}"
        return Location(self.filesystem, f"{self.path.rstrip('/')}{suffix}", uri)

    def parent(self) -> "Location":
        """Return the directory that this file or directory is in."""
        above = self.path.rstrip("/").rpartition("/")[0]
        before, query = _without_query(self.uri)
        uri = before.rstrip("/").rpartition("/")[0] if "/" in before else "."
        return Location(self.filesystem, above or "/", uri + query)

    def exists(self) -> bool:
        return self._info().type != fs.FileType.NotFound

    def is_directory(self) -> bool:
        return self._info().type == fs.FileType.Directory

    def size(self) -> int:
        """Return the file's size in bytes. Raises DataError if there is no such file."""
        info = self._info()
        if info.type != fs.FileType.File:
            raise DataError(f"{self.uri}: no such file")
        return int(info.size)

    def read_bytes(self) -> bytes:
        if not self.exists():
            raise DataError(f"{self.uri}: no such file")
        with storage_errors(self.uri, "read"):
            with self.filesystem.open_input_stream(self.path) as stream:
                return bytes(stream.read())

    def write_bytes(self, content: bytes) -> None:
        """Write the file; in an object store an interruption leaves the old or the new one.

        A store takes the content for whole when the stream is closed, and Ctrl-C closes it; so a
        thread writes, which Ctrl-C does not reach.
        """
        with storage_errors(self.uri):
            if self.is_local:
                self._write(content)
                return
            with ThreadPoolExecutor(1) as thread:
                thread.submit(self._write, content).result()

    def _write(self, content: bytes) -> None:
        with self.filesystem.open_output_stream(self.path) as stream:
            stream.write(content)

    def replace(self, content: bytes) -> None:
        """Write the whole file in one step: a kill or a full disk leaves the old one."""
        if not self.is_local:
            self.write_bytes(content)
            return
        with storage_errors(self.uri):
            path = Path(self.path)
            temporary = path.with_name(f".{path.name}.partial")
            try:
                temporary.write_bytes(content)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def copy_to(self, target: Path) -> None:
        """Copy this file to a path on the local disk, in pieces."""
        with storage_errors(self.uri, "read"):
            with self.filesystem.open_input_stream(self.path) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, _COPY_BYTES)

    @contextmanager
    def local_output(self) -> Iterator[Path]:
        """Yield a local path to write this file to, for libraries that write to a path only."""
        with storage_errors(self.uri):
            if self.is_local:
                yield Path(self.path)
                return
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / self.name
                yield temporary
                with temporary.open("rb") as file:
                    with self.filesystem.open_output_stream(self.path) as stream:
                        shutil.copyfileobj(file, stream, _COPY_BYTES)

    def make_directory(self) -> None:
        with storage_errors(self.uri):
            self.filesystem.create_dir(self.path, recursive=True)

    def delete(self) -> None:
        """Remove a file or a whole directory; nothing happens if it is not there."""
        info = self._info()
        with storage_errors(self.uri):
            if info.type == fs.FileType.Directory:
                self.filesystem.delete_dir(self.path)
            elif info.type == fs.FileType.File:
                self.filesystem.delete_file(self.path)

    def children(self) -> list["Location"]:
        """Return files and directories directly below, by name."""
        return [self / name for name in sorted(info.base_name for info in self._below(False))]

    def files_below(self) -> list[str]:
        """Return the paths of all files below, relative to this directory, sorted."""
        prefix = len(self.path.rstrip("/")) + 1
        infos = self._below(True)
        return sorted(info.path[prefix:] for info in infos if info.type == fs.FileType.File)

    def _info(self) -> fs.FileInfo:
        with storage_errors(self.uri, "read"):
            return self.filesystem.get_file_info(self.path)

    def _below(self, recursive: bool) -> list[fs.FileInfo]:
        selector = fs.FileSelector(self.path, allow_not_found=True, recursive=recursive)
        with storage_errors(self.uri, "read"):
            return list(self.filesystem.get_file_info(selector))


Place = str | os.PathLike[str] | Location
"""What names a file or directory: a path, a URI, or a location."""


def locate(uri: Place) -> Location:
    """Return the location that a path or URI names.

    Raises DataError if its scheme is not known, TypeError for anything but text and paths.
    """
    if isinstance(uri, Location):
        return uri
    text = _text(uri)
    if "://" not in text:
        path = str(Path(text).expanduser().absolute())
        try:
            path.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise DataError(f"{shown}: this name is not UTF-8; rename it") from error
        return Location(fs.LocalFileSystem(), path, text)
    try:
        filesystem, path = fs.FileSystem.from_uri(text)
    except Exception as error:  # pyarrow raises several kinds for a bad scheme, host or bucket
        reason = str(error).replace(text, "it")  # which may hold a password
        raise DataError(f"{text}: not a location that can be opened ({reason})") from None
    return Location(filesystem, path.rstrip("/"), text)


def fetched(uri: Place) -> Location:
    """Return where an artifact can be read: one on the Hugging Face Hub is loaded onto this disk.

    Raises what `locate` raises, and `download`.
    """
    text = uri.uri if isinstance(uri, Location) else _text(uri)
    if not text.startswith(HUGGING_FACE) or (isinstance(uri, Location) and uri.is_local):
        return locate(uri)
    from seqvis.hub.download import download

    return Location(fs.LocalFileSystem(), str(download(text)), text)


def local_path(uri: str | os.PathLike[str]) -> Path:
    """Return a local path. Raises DataError for an object store, where nothing can be mapped."""
    text = _text(uri)
    if "://" in text and not text.startswith(("file://", HUGGING_FACE)):
        raise DataError(f"{text}: must be on a local disk, not in an object store")
    return Path(fetched(text).path)


def _text(uri: str | os.PathLike[str]) -> str:
    if not isinstance(uri, str | os.PathLike):
        raise TypeError(f"a path or URI is needed here, not {type(uri).__name__}: {uri!r:.80}")
    return os.fspath(uri)


def load_named_dataset(uri: str, split: str | None = None) -> Any:
    """Find or download the Hugging Face dataset `hf://NAME` or `hf://NAME:CONFIGURATION`.

    Return one split, or all by name. Raises ConfigError without the extra `hub`, DataError if the
    dataset cannot be loaded.
    """
    require_extra("hub", "datasets")
    from datasets import load_dataset

    name, _, configuration = uri.removeprefix(HUGGING_FACE).partition(":")
    try:
        return load_dataset(name, configuration or None, split=split)
    except Exception as error:  # of many kinds: no network, no such name, several configurations
        chosen = f" with the split {split}" if split else ""
        raise DataError(
            f"{uri}: datasets.load_dataset cannot load it{chosen} ({str(error).strip()}); check "
            f"the name, its configuration ({HUGGING_FACE}NAME:CONFIGURATION), its splits and the "
            f"network, or give a folder that save_to_disk wrote"
        ) from error


def absolute(uri: str) -> str:
    """Return `uri` in a form that does not depend on the working directory."""
    return uri if "://" in uri else locate(uri).path


@contextmanager
def storage_errors(uri: str, doing: str = "written") -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into a StorageError that names `uri`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            advice = "the disk is full: free some space and run the same command again"
        elif any(code in str(error) for code in _DENIED):
            advice = f"the object store refuses: check the credentials and their rights ({error})"
        elif doing == "written" and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "no permission to write here: choose another place or change its owner"
        else:
            advice = f"cannot be {doing} ({error})"
        raise StorageError(f"{uri}: {advice}") from error


def _without_query(uri: str) -> tuple[str, str]:
    """Return a URI up to its query, and the query with its question mark; a path has none."""
    before, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return before, mark + query

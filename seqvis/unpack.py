"""Takes files out of archives, into names of our choosing or below one folder, and nowhere else.

In: a `.gz`, `.zip` or `.tar` (of any compression). Out: files that appear whole or not at all.
An archive is a stranger's: members are copied to names that the caller gave, or, where a whole
tree is wanted, pass Python's "data" filter, which refuses paths and links that lead outside,
devices, and odd permissions.
"""

import gzip
import lzma
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from seqvis.errors import DataError
from seqvis.storage import storage_errors

STAGING = ".unpacking-"  # start of the name of a folder that a killed process may leave
_DAMAGED = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error)


def unpack(archive: Path, form: str, members: Mapping[str, str], folder: Path) -> list[Path]:
    """Unpacks `archive` into `folder` and returns the files written, relative to `folder`.

    `form` is "plain", "gz", "zip" or "tar"; `members` maps names in the archive to names in
    `folder`, where a member that ends in .gz loses its compression too ("gz": the one key is
    empty). A "tar" without members is unpacked whole, less its first folder. Raises DataError if
    the archive is damaged, lacks a member or tries to leave the folder, StorageError if the disk
    is full.
    """
    with storage_errors(str(folder)), _damage(archive):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=folder) as name:
            staging = Path(name)
            if form == "plain":
                with archive.open("rb") as file:
                    _copy(file, staging / archive.name)
            elif form == "gz":
                with archive.open("rb") as file:
                    _copy(file, staging / members[""], compressed=True)
            elif form == "zip":
                _unzip(archive, members, staging)
            else:
                _untar(archive, members, staging)
            return _move_all(staging, folder)


@contextmanager
def _damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.FilterError, *_DAMAGED, lzma.LZMAError) as error:
        raise DataError(
            f"{archive}: cannot be unpacked ({error}); delete it and run the same command again"
        ) from error
    except KeyError as error:
        raise DataError(
            f"{archive}: lacks {error}: its publisher has changed it; unpack it by hand"
        ) from error


def _copy(source: IO[bytes], target: Path, compressed: bool = False) -> None:
    with target.open("wb") as file:
        if compressed:
            with gzip.GzipFile(fileobj=source) as plain:
                shutil.copyfileobj(plain, file, 1 << 20)
        else:
            shutil.copyfileobj(source, file, 1 << 20)


def _unzip(archive: Path, members: Mapping[str, str], staging: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        for member, name in members.items():
            with content.open(member) as file:
                _copy(file, staging / name, member.endswith(".gz"))


def _untar(archive: Path, members: Mapping[str, str], staging: Path) -> None:
    with tarfile.open(archive) as content:
        if not members:
            content.extractall(staging, filter="data")
            _drop_first_folder(staging)
        for member, name in members.items():
            file = content.extractfile(member)
            if file is None:
                raise KeyError(member)
            with file:
                _copy(file, staging / name, member.endswith(".gz"))


def _drop_first_folder(staging: Path) -> None:
    children = list(staging.iterdir())
    if len(children) == 1 and children[0].is_dir():
        first = children[0].rename(staging / ".first")
        for child in first.iterdir():
            child.rename(staging / child.name)
        first.rmdir()


def _move_all(staging: Path, folder: Path) -> list[Path]:
    files = sorted(path.relative_to(staging) for path in staging.rglob("*") if path.is_file())
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / file, folder / file)
    return files

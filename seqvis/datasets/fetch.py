"""Fetch a data set by its name, verify it and unpack it into one directory.

The names are those of catalogue.toml. Text arrives as two aligned files, as
`prepare_corpus` takes them. `fetched.json` records which file came from where; a second run finds
it and does nothing. Archives are kept in `.downloads` until they are unpacked.
"""

import gzip
import json
import lzma
import os
import shutil
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from seqvis.datasets.download import Patience, Transfer, download
from seqvis.disk import take_lock
from seqvis.errors import ConfigError, DataError
from seqvis.storage import storage_errors

RECORD = "fetched.json"
_DOWNLOADS = ".downloads"


@dataclass(frozen=True)
class RemoteFile:
    """A file at a public address, and where its contents go; see catalogue.toml."""

    url: str
    form: Literal["plain", "gz", "zip", "tar"] = "plain"
    members: Mapping[str, str] = field(default_factory=dict)
    checksum: str | None = None  # "md5:..." or "sha256:...", as published
    size: int | None = None  # bytes, as published

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Dataset:
    """A data set: its files and their publisher."""

    files: tuple[RemoteFile, ...]
    origin: str


def read_catalogue() -> dict[str, Dataset]:
    """Return all data sets that can be fetched, by name."""
    text = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
    return {
        name: Dataset(tuple(RemoteFile(**file) for file in entry["files"]), entry["origin"])
        for name, entry in tomllib.loads(text).items()
    }


@dataclass(frozen=True)
class Options:
    """Options of a fetch."""

    base_url: str | None = None  # a mirror: stands in for scheme and host of every address
    verify: bool = True  # check published sizes and checksums
    keep_archives: bool = False
    patience: Patience | None = None


Progress = Callable[[str, int, int | None], None]  # file name, bytes here, bytes in all


def fetch_dataset(
    name: str,
    dataset: Dataset,
    folder: Path,
    options: Options | None = None,
    progress: Progress = lambda file, done, total: None,
) -> dict[str, Any]:
    """Fetch the data set into `folder`; return counts of files and bytes.

    `bytes` came over the network in this run, `resumed_bytes` were there from interrupted
    transfers. Raises DataError if it cannot be fetched, StorageError if the disk is full.
    """
    options = options or Options()
    _check_folder(folder)
    with storage_errors(str(folder)):
        (folder / _DOWNLOADS).mkdir(parents=True, exist_ok=True)
    text = f"{folder}: another fetch_data writes here; wait for it, or choose another --out"
    with take_lock(folder / _DOWNLOADS / "lock", DataError, text):
        files = _recorded_files(name, folder)
        transfer = Transfer(0, 0)
        if files is None:
            files, transfer = _fetch_all(dataset, folder, options, progress)
            _write_record(name, dataset, folder, files)
        if not options.keep_archives:
            shutil.rmtree(folder / _DOWNLOADS, ignore_errors=True)
    return {"files": len(files), "bytes": transfer.fetched, "resumed_bytes": transfer.resumed}


def address(remote: RemoteFile, base_url: str | None) -> str:
    """Return the file's address. Raises ConfigError if `base_url` is not an HTTP address."""
    if base_url is None:
        return remote.url
    base = urlsplit(base_url)
    if base.scheme not in ("http", "https") or not base.netloc:
        raise ConfigError(f"--base-url: needs an http:// or https:// address (given: {base_url})")
    parts = urlsplit(remote.url)
    path = base.path.rstrip("/") + parts.path
    return urlunsplit((base.scheme, base.netloc, path, parts.query, ""))


def _fetch_all(
    dataset: Dataset, folder: Path, options: Options, progress: Progress
) -> tuple[list[str], Transfer]:
    for left_over in folder.glob(f"{STAGING}*"):  # by a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    archives = []
    fetched = resumed = 0
    for remote in dataset.files:
        archive = folder / _DOWNLOADS / remote.name
        transfer = download(
            address(remote, options.base_url),
            archive,
            remote.size if options.verify else None,
            remote.checksum if options.verify else None,
            options.patience,
            lambda done, total, file=remote.name: progress(file, done, total),  # type: ignore[misc]
        )
        fetched, resumed = fetched + transfer.fetched, resumed + transfer.resumed
        archives.append(archive)
    files: list[str] = []
    for remote, archive in zip(dataset.files, archives, strict=True):
        try:
            unpacked = unpack(archive, remote.form, remote.members, folder)
        except DataError:
            archive.unlink(missing_ok=True)  # so that the same command fetches it again
            raise
        files += [path.as_posix() for path in unpacked]
    return files, Transfer(fetched, resumed)


def _check_folder(folder: Path) -> None:
    """Refuse to write among files of something else."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out: {folder} is a file; give a directory")
    known = (folder / RECORD).exists() or (folder / _DOWNLOADS).exists()
    if folder.exists() and not known and any(folder.iterdir()):
        raise ConfigError(
            f"--out: {folder} is not empty and holds no {RECORD}; choose another directory, "
            f"nothing was overwritten"
        )


def _recorded_files(name: str, folder: Path) -> list[str] | None:
    """Return the files of an earlier run that finished and whose files are all here, else None."""
    record = folder / RECORD
    if not record.exists():
        return None
    try:
        content = json.loads(record.read_text())
        recorded, sizes = content["dataset"], content["files"]
    except (ValueError, KeyError, TypeError):
        return None
    if recorded != name:
        raise DataError(f"{folder}: holds the data set {recorded}; choose another --out for {name}")
    whole = all(
        (folder / file).is_file() and (folder / file).stat().st_size == size
        for file, size in sizes.items()
    )
    return list(sizes) if whole else None


def _write_record(name: str, dataset: Dataset, folder: Path, files: list[str]) -> None:
    content = {
        "dataset": name,
        "origin": dataset.origin,
        "addresses": [remote.url for remote in dataset.files],
        "files": {file: (folder / file).stat().st_size for file in files},
    }
    with storage_errors(str(folder)):
        temporary = folder / _DOWNLOADS / RECORD
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.rename(folder / RECORD)


STAGING = ".unpacking-"  # start of the name of a folder that a killed process may leave
_DAMAGED = (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError, zlib.error)


def unpack(archive: Path, form: str, members: Mapping[str, str], folder: Path) -> list[Path]:
    """Unpack `archive` into `folder` and return the files written, relative to `folder`.

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

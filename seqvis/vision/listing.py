"""List the pictures of folders, tar archives, Hugging Face datasets, and tables of URIs.

`list_images` returns a `Listing`, whose table has one row for each picture, sorted by path:

    path        string  below the folder, split and row, or the table's URI; the image's id
    place       string  the file that holds it, by its path on the file system
    first_byte  int64   where in that file it begins; 0 if it is the whole file
    label       string  "" where unknown
    size        int64   bytes; -1 if there is no such file
    modified    int64   the file's time, ns since 1970

It also has any further columns of a table of URIs. `read_picture` reads what a row names.
"""

import io
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pyarrow import fs

from seqvis.checks import has_control_characters
from seqvis.errors import ConfigError, DataError
from seqvis.storage import HUGGING_FACE, Location, locate
from seqvis.text.lines import read_text
from seqvis.vision.foldertree import (
    COMPRESSED,
    CONTROLS,
    REMEDIES,
    FolderTree,
    FoundFile,
    read_tree,
    size_and_time,
)
from seqvis.vision.huggingface import Split, dataset_pictures, named_splits, saved_splits
from seqvis.vision.layouts import labels_of, wnid_at_start
from seqvis.vision.tars import is_packed_tar, is_tar, open_tars

if TYPE_CHECKING:
    import pandas as pd

LabelFrom = Literal["folder", "name", "none"]
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "place", "label")),
        *((name, pa.int64()) for name in ("first_byte", "size", "modified")),
    ]
)
OWN_COLUMNS = tuple(_SCHEMA.names)
WHERE = ("place", "first_byte", "size")  # what `read_picture` takes
_TOGETHER = 1 << 20  # bytes
RESERVED = (  # what the artifact's tables add to these
    "width", "height", "content_hash", "features", "top_classes", "top_probabilities", "thumbnail",
)  # fmt: skip


@dataclass(frozen=True)
class Listing:
    """The files to embed, and the file system that holds all of them."""

    uri: str  # of the folder or table, as the user wrote it
    filesystem: fs.FileSystem
    table: pa.Table
    extra: tuple[str, ...]  # names of a table's further columns
    aside: tuple[tuple[str, str], ...] = ()  # what cannot be listed: printable path, reason

    def __len__(self) -> int:
        return int(self.table.num_rows)


def list_images(
    images: str | Location, label_from: LabelFrom = "folder", split: str = ""
) -> Listing:
    """List the pictures of a folder and the tars in it, of a tar, a dataset, or a table's file.

    A Hugging Face dataset is a folder, or `hf://` and a name; of one with several splits `split`
    chooses one. Raises DataError for a place without pictures, for labels that cannot be had, for a
    damaged tar or dataset, and for what `list_table` refuses.
    """
    if isinstance(images, str):
        if images.startswith(HUGGING_FACE):
            return _list_dataset(images, named_splits(images), label_from, split)
        images = locate(images)
    if not images.exists():
        raise DataError(
            f"{images.uri}: no such folder, tar or table of images (a Hugging Face dataset that is "
            f"not on disk is {HUGGING_FACE}NAME)"
        )
    if images.is_directory() and (splits := saved_splits(images)):
        return _list_dataset(images.uri, splits, label_from, split)
    if split:
        raise ConfigError(f"--split {split}: {images.uri} is no Hugging Face dataset; leave it out")
    if images.is_directory():
        return _list_tree(images.uri, images, read_tree(images), label_from)
    if is_packed_tar(images.path):
        raise DataError(f"{images.uri}: {COMPRESSED}; {REMEDIES[COMPRESSED]}")
    if is_tar(images.path):
        info = images.filesystem.get_file_info(images.path)
        tar = FoundFile(images.name, images.path, *size_and_time(info))
        return _list_tree(images.uri, images.parent(), FolderTree([tar]), label_from)
    return list_table(_read_table(images), images.parent(), images.uri)


def read_picture(
    filesystem: fs.FileSystem, place: str, first_byte: int, size: int, most: int | None = None
) -> bytes:
    """Return the bytes of the picture that a listing's row names by its columns `WHERE`.

    Of a whole file, which may have grown since it was listed, at most `most` bytes are read. Needs
    nothing but its arguments, so that any process can call it. Raises OSError if the file cannot be
    read, FileNotFoundError if it is not there.
    """
    if not first_byte:
        with filesystem.open_input_stream(place) as stream:
            return bytes(stream.read(most))
    with filesystem.open_input_file(place) as file:
        return bytes(file.read_at(size, first_byte))


class PictureReader:
    """Reads the pictures of rows in a listing's order, neighbours in one file a megabyte at a time.

    An object store is then asked once for dozens of pictures in a tar, and not twice for each.
    """

    def __init__(self, filesystem: fs.FileSystem):
        self._filesystem = filesystem
        self._place = ""
        self._file: io.BufferedReader | None = None

    def read(self, place: str, first_byte: int, size: int, most: int | None = None) -> bytes:
        """Do what `read_picture` does."""
        if not first_byte:
            return read_picture(self._filesystem, place, first_byte, size, most)
        if self._file is None or self._place != place:
            self._file = io.BufferedReader(self._filesystem.open_input_file(place), _TOGETHER)
            self._place = place
        self._file.seek(first_byte)
        return self._file.read(size)


def _list_tree(uri: str, folder: Location, tree: FolderTree, label_from: LabelFrom) -> Listing:
    # Every file counts, whatever its name, because only its content tells whether it is a picture.
    # Hidden files and folders do not.
    tree = open_tars(tree, folder.filesystem, label_from == "folder")
    files = tree.files
    if not files and not tree.aside:
        raise DataError(f"{uri}: holds no images; give the folder that they are in or below")
    labels = [""] * len(files)
    if label_from == "name":
        labels = [wnid_at_start(file.path.rsplit("/", 1)[-1]) or "" for file in files]
    elif label_from == "folder":
        labels = labels_of(folder, files)
    _check_labels(uri, label_from, labels)
    return _as_listing(uri, folder.filesystem, files, labels, tree.aside)


def _list_dataset(uri: str, splits: Sequence[Split], label_from: LabelFrom, split: str) -> Listing:
    chosen = [each for each in splits if split in ("", each.name)]
    if not chosen:
        names = ", ".join(each.name for each in splits if each.name)
        remedy = (
            f"(it has {names}); give one of these" if names else "(nor any other); leave it out"
        )
        raise DataError(f"{uri}: has no split {split} {remedy}")
    files = sorted(dataset_pictures(chosen, label_from), key=lambda file: file.path)
    if not files:
        raise DataError(f"{uri}: holds no images; give a dataset or split that has rows")
    labels = [file.label for file in files]
    _check_labels(uri, label_from, labels)
    return _as_listing(uri, chosen[0].filesystem, files, labels, ())


def _check_labels(uri: str, label_from: LabelFrom, labels: Sequence[str]) -> None:
    if label_from == "name" and not any(labels):
        raise DataError(
            f"{uri}: no file's name starts with a WordNet id such as n01440764_; "
            f"use --label-from folder or none"
        )


def _as_listing(
    uri: str,
    filesystem: fs.FileSystem,
    files: Sequence[FoundFile],
    labels: Sequence[str],
    aside: Sequence[tuple[str, str]],
) -> Listing:
    columns = (
        [file.path for file in files],
        [file.place for file in files],
        labels,
        [file.first_byte for file in files],
        [file.size for file in files],
        [file.modified for file in files],
    )
    table = pa.table(dict(zip(OWN_COLUMNS, columns, strict=True)), _SCHEMA)
    return Listing(uri, filesystem, table, (), tuple(aside))


def list_table(rows: "pa.Table | pd.DataFrame", folder: Location, name: str) -> Listing:
    """List the pictures that rows name by `uri`; they may have a `label` and further columns.

    Relative URIs start at `folder`. Raises DataError, with `name` for the table, for one that is
    empty or has no column `uri`, for a file that it names twice or that is on another file system
    than the first, and for columns that the artifact has itself.
    """
    table = rows if isinstance(rows, pa.Table) else _from_pandas(rows, name)
    if "uri" not in table.column_names:
        raise DataError(
            f"{name}: has no column uri (it has {', '.join(table.column_names)}); "
            f"a table of images needs uri and may have label and others; a Hugging Face dataset in "
            f"Parquet is {HUGGING_FACE} and its folder"
        )
    extra = tuple(column for column in table.column_names if column not in ("uri", "label"))
    reserved = set(extra) & {*OWN_COLUMNS, *RESERVED}
    if reserved:
        raise DataError(f"{name}: rename its column {min(reserved)}, seqvis writes one")
    if table.num_rows == 0:
        raise DataError(f"{name}: names no images")
    uris = table["uri"].cast(pa.string()).to_pylist()
    for row, uri in enumerate(uris, 1):
        if not uri:
            raise DataError(f"{name}: row {row} has no uri")
    filesystem, places = _places(name, folder, uris)
    paths = [_name(uri, place) for uri, place in zip(uris, places, strict=True)]
    _check_paths(name, paths)
    labels = [""] * len(uris)
    if "label" in table.column_names:
        labels = [label or "" for label in table["label"].cast(pa.string()).to_pylist()]
    sizes, times = zip(*map(size_and_time, filesystem.get_file_info(places)), strict=True)
    columns = (paths, places, labels, [0] * len(paths), sizes, times)
    listed = pa.table(dict(zip(OWN_COLUMNS, columns, strict=True)), _SCHEMA)
    for column in extra:
        listed = listed.append_column(column, table[column])
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__))
    return Listing(name, filesystem, listed.take(order), extra)


def _from_pandas(frame: "pd.DataFrame", name: str) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"{name}: {error}; each column needs a name of its own and values of one kind, uri text"
        ) from error


def _read_table(location: Location) -> pa.Table:
    try:
        with location.filesystem.open_input_file(location.path) as file:
            if file.read(4) == b"PAR1":
                return pq.read_table(file)
        content = pa.BufferReader(read_text(location).encode())
        as_text = {"uri": pa.string(), "label": pa.string()}
        return pa_csv.read_csv(content, convert_options=pa_csv.ConvertOptions(column_types=as_text))
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{location.uri}: is neither a folder, a tar nor a table of images in CSV or Parquet "
            f"({str(error).splitlines()[0]})"
        ) from error


def _name(uri: str, place: str) -> str:
    """Return a picture's name: its URI without `.` and `..`, or its place if above the table."""
    if "://" in uri:
        return uri
    name = posixpath.normpath(uri)
    return posixpath.normpath(place) if name.startswith("../") else name


def _check_paths(table: str, paths: list[str]) -> None:
    seen = set()
    for row, path in enumerate(paths, 1):
        if has_control_characters(path):
            raise DataError(f"{table}: row {row}: {path!r} {CONTROLS}; {REMEDIES[CONTROLS]}")
        if path in seen:
            raise DataError(f"{table}: row {row} names {path} again; name each file once")
        seen.add(path)


def _places(table: str, folder: Location, uris: list[str]) -> tuple[fs.FileSystem, list[str]]:
    """Return the URIs' file system and their paths on it; relative ones start at the folder."""
    if not any("://" in uri for uri in uris):
        root = folder.path.rstrip("/")
        return folder.filesystem, [u if u.startswith("/") else f"{root}/{u}" for u in uris]
    first = next(uri for uri in uris if "://" in uri)
    server = _server(first)
    strangers = [uri for uri in uris if _server(uri) != server]
    if strangers:
        raise DataError(
            f"{table}: {first} and {strangers[0]} are not in the same place; "
            f"make a table for each file system and bucket"
        )
    opened = locate(first)
    if first.endswith(opened.path) and not any("%" in uri or "?" in uri for uri in uris):
        start = len(first) - len(opened.path)  # one client for all: opening each takes a while
        return opened.filesystem, [uri[start:] for uri in uris]
    return opened.filesystem, [locate(uri).path for uri in uris]


def _server(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.split('/')[0]}" if separator else ""

"""List the pictures of a tree of folders, a flat folder, tar archives, or a table of URIs.

`list_images` returns a `Listing`, whose table has one row for each picture, sorted by path:

    path        string  relative to the folder, or the URI as the table has it; the image's id
    place       string  the file that holds it, by its path on the file system
    first_byte  int64   where in that file it begins; 0 if it is the whole file
    label       string  "" where unknown
    size        int64   bytes; -1 if there is no such file
    modified    int64   the file's time, ns since 1970

It also has any further columns of a table of URIs. `read_picture` reads what a row names.
"""

import posixpath
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from pyarrow import fs

from seqvis.checks import has_control_characters
from seqvis.errors import DataError
from seqvis.storage import Location, locate
from seqvis.text.lines import read_text
from seqvis.vision.foldertree import (
    COMPRESSED,
    CONTROLS,
    REMEDIES,
    FolderTree,
    FoundFile,
    read_tree,
)
from seqvis.vision.layouts import labels_of, wnid_at_start
from seqvis.vision.tars import is_packed_tar, is_tar, open_tars

LabelFrom = Literal["folder", "name", "none"]
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "place", "label")),
        *((name, pa.int64()) for name in ("first_byte", "size", "modified")),
    ]
)
OWN_COLUMNS = tuple(_SCHEMA.names)
WHERE = ("place", "first_byte", "size")  # what `read_picture` takes
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


def list_images(images: Location, label_from: LabelFrom = "folder") -> Listing:
    """List a folder and the tars in it, one tar, or the files that a CSV or Parquet table names.

    Raises DataError for a folder without files, a damaged tar, a table without a column `uri`, with
    the same file twice, or whose files are on several file systems, and labels that cannot be had.
    """
    if not images.exists():
        raise DataError(f"{images.uri}: no such folder, tar or table of images")
    if images.is_directory():
        return _list_tree(images.uri, images, read_tree(images), label_from)
    if is_packed_tar(images.path):
        raise DataError(f"{images.uri}: {COMPRESSED}; {REMEDIES[COMPRESSED]}")
    if is_tar(images.path):
        size, modified = _state(images.filesystem.get_file_info(images.path))
        tar = FoundFile(images.name, images.path, size, modified)
        return _list_tree(images.uri, images.parent(), FolderTree([tar]), label_from)
    return _list_table(images)


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
    if label_from == "name" and not any(labels):
        raise DataError(
            f"{uri}: no file's name starts with a WordNet id such as n01440764_; "
            f"use --label-from folder or none"
        )
    columns = (
        [file.path for file in files],
        [file.place for file in files],
        labels,
        [file.first_byte for file in files],
        [file.size for file in files],
        [file.modified for file in files],
    )
    table = pa.table(dict(zip(OWN_COLUMNS, columns, strict=True)), _SCHEMA)
    return Listing(uri, folder.filesystem, table, (), tuple(tree.aside))


def _list_table(location: Location) -> Listing:
    table = _read_table(location)
    if "uri" not in table.column_names:
        raise DataError(
            f"{location.uri}: has no column uri (it has {', '.join(table.column_names)}); "
            f"a table of images needs uri and may have label and others"
        )
    extra = tuple(name for name in table.column_names if name not in ("uri", "label"))
    reserved = set(extra) & {*OWN_COLUMNS, *RESERVED}
    if reserved:
        raise DataError(f"{location.uri}: rename its column {min(reserved)}, seqvis writes one")
    if table.num_rows == 0:
        raise DataError(f"{location.uri}: names no images")
    uris = table["uri"].cast(pa.string()).to_pylist()
    for row, uri in enumerate(uris, 1):
        if not uri:
            raise DataError(f"{location.uri}: row {row} has no uri")
    filesystem, places = _places(location, uris)
    names = [_name(uri, place) for uri, place in zip(uris, places, strict=True)]
    _check_names(location, names)
    labels = [""] * len(uris)
    if "label" in table.column_names:
        labels = [label or "" for label in table["label"].cast(pa.string()).to_pylist()]
    sizes, times = zip(*map(_state, filesystem.get_file_info(places)), strict=True)
    columns = (names, places, labels, [0] * len(names), sizes, times)
    listed = pa.table(dict(zip(OWN_COLUMNS, columns, strict=True)), _SCHEMA)
    for name in extra:
        listed = listed.append_column(name, table[name])
    order = np.array(sorted(range(len(names)), key=names.__getitem__))
    return Listing(location.uri, filesystem, listed.take(order), extra)


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
            f"{location.uri}: is neither a folder nor a table of images in CSV or Parquet "
            f"({str(error).splitlines()[0]})"
        ) from error


def _name(uri: str, place: str) -> str:
    """Return a picture's name: its URI without `.` and `..`, or its place if above the table."""
    if "://" in uri:
        return uri
    name = posixpath.normpath(uri)
    return posixpath.normpath(place) if name.startswith("../") else name


def _check_names(location: Location, names: list[str]) -> None:
    seen = set()
    for row, name in enumerate(names, 1):
        if has_control_characters(name):
            raise DataError(f"{location.uri}: row {row}: {name!r} {CONTROLS}; {REMEDIES[CONTROLS]}")
        if name in seen:
            raise DataError(f"{location.uri}: row {row} names {name} again; name each file once")
        seen.add(name)


def _places(location: Location, uris: list[str]) -> tuple[fs.FileSystem, list[str]]:
    """Return the URIs' file system and their paths on it; relative ones start at the table."""
    folder = location.parent()
    if not any("://" in uri for uri in uris):
        root = folder.path.rstrip("/")
        return folder.filesystem, [u if u.startswith("/") else f"{root}/{u}" for u in uris]
    first = next(uri for uri in uris if "://" in uri)
    server = _server(first)
    strangers = [uri for uri in uris if _server(uri) != server]
    if strangers:
        raise DataError(
            f"{location.uri}: {first} and {strangers[0]} are not in the same place; "
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


def _state(info: fs.FileInfo) -> tuple[int, int]:
    if info.type != fs.FileType.File:
        return -1, 0
    return int(info.size), int(info.mtime_ns or 0)

"""List the pictures in tar archives, among them webdataset's, by where they begin in the file.

A tar is treated as a folder: its member `a/1.jpg` has the path `shards/7.tar/a/1.jpg`. Only headers
and labels are read; contents are skipped until their picture is needed. Ray Data's own
`read_webdataset` reads shards from end to end, which neither embeds only what is new nor reads
pictures in the random order of training.

In a webdataset tar, members whose names differ only after the first dot are one sample. Its label
is its `.cls` (a class's number or name), or the entry `label`, `class` or the like of its `.json`.
Numbers are lines, from 0, of `classes.txt` or `classnames.txt` beside the tar or in the folder
above. Its other fields that are no pictures, such as captions, are passed over.
"""

import io
import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any, cast

from pyarrow import fs

from seqvis.checks import has_control_characters
from seqvis.encodings import packing
from seqvis.errors import DataError
from seqvis.storage import Location, storage_errors
from seqvis.text.lines import read_sentences
from seqvis.vision.foldertree import (
    COMPRESSED,
    CONTROLS,
    NOT_A_FILE,
    NOT_UTF8,
    FolderTree,
    FoundFile,
    is_utf8,
    printable,
)
from seqvis.vision.layouts import is_label_column, wnid_at_start

TARS_AT_ONCE = 16
CLASS_NAMES = ("classes.txt", "classnames.txt")

_PACKED_TAR = re.compile(r".*\.(?:tar\.(?:gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz)", re.I | re.DOTALL)
_SAMPLE = re.compile(r"((?:.*/)?[^/.]*)\.([^/]+)", re.DOTALL)  # webdataset's key and field
_NO_PICTURES = {  # fields that webdataset decodes as something else
    "cls", "cls2", "class", "count", "index", "inx", "id", "txt", "text", "transcript", "json",
    "jsn", "npy", "npz", "pt", "pth", "pyd", "pickle", "ten", "tb", "mp", "msg", "cbor",
}  # fmt: skip
_MOST_LABEL_BYTES = 1 << 20
_BUFFER = 8 << 10  # bytes that are read at once
_BUFFER_REMOTE = 1 << 20  # takes an object store as long as asking it again


def is_tar(path: str) -> bool:
    """Tell by its name whether a file is a tar that is not compressed."""
    return path.lower().endswith(".tar")


def is_packed_tar(path: str) -> bool:
    """Tell by its name whether a file is a compressed tar."""
    return _PACKED_TAR.fullmatch(path) is not None


def open_tars(tree: FolderTree, filesystem: fs.FileSystem, with_labels: bool) -> FolderTree:
    """Return the tree with the pictures in its tars in the place of these.

    Compressed tars, in which nothing can be found without unpacking all that is before it, are set
    aside. Raises DataError for a tar that is damaged or cut off, and for labels that cannot be read
    or are numbers without names.
    """
    tars = [file for file in tree.files if is_tar(file.path)]
    packed = [file.path for file in tree.files if is_packed_tar(file.path)]
    if not tars and not packed:
        return tree

    buffer = _BUFFER if isinstance(filesystem, fs.LocalFileSystem) else _BUFFER_REMOTE

    def read(tar: FoundFile) -> _Tar:
        with storage_errors(tar.place, "read"), filesystem.open_input_file(tar.place) as file:
            return _Tar(tar, io.BufferedReader(file, buffer), with_labels)

    with ThreadPoolExecutor(TARS_AT_ONCE) as pool:
        opened = list(pool.map(read, tars))
    gone = {*packed, *(tar.path for tar in tars)}
    files = [file for file in tree.files if file.path not in gone]
    files += _labelled(opened, filesystem)
    aside = [*tree.aside, *((path, COMPRESSED) for path in packed)]
    aside += [each for tar in opened for each in tar.aside]
    return FolderTree(sorted(files, key=lambda file: file.path), sorted(aside))


class _Tar:
    """The members of one tar, and of tars in it."""

    def __init__(self, tar: FoundFile, stream: io.BufferedReader, with_labels: bool):
        self._tar, self._stream, self._with_labels = tar, stream, with_labels
        self.files: dict[str, FoundFile] = {}  # of members of one name the last counts, as in tar
        self.aside: list[tuple[str, str]] = []
        self._labels: dict[tuple[str, str], int | str] = {}  # by key and field
        self._read(tar.path, tar.place, 0, tar.size)

    def label_of(self, path: str) -> int | str:
        """Return a picture's class as its sample has it: a number or a name, "" if none."""
        key, _ = _sample(path)
        labels = (self._labels.get((key, field), "") for field in ("cls", "json"))
        return next((label for label in labels if label != ""), "")

    def _read(self, path: str, shown: str, start: int, end: int) -> None:
        """Take the members of a tar that lies between two bytes of the stream."""
        self._stream.seek(start)
        if form := packing(self._stream.peek(16)):
            raise DataError(f"{shown}: is compressed ({form}) in spite of its name; unpack it")
        last = None
        try:
            with tarfile.open(fileobj=self._stream, mode="r:") as tar:
                while (member := tar.next()) is not None and member.offset < end:
                    cast(Any, tar).members.clear()  # it would keep 1 KB of each
                    last = member.name
                    if member.isreg() and member.offset_data + member.size > end:
                        raise tarfile.ReadError
                    self._add(member, path, shown)
        except (tarfile.TarError, ValueError) as error:  # both of what may stand in a header
            raise _damaged(shown, last, self._stream.tell()) from error
        if member is None:  # for tarfile anything that is no header ends the archive
            self._stream.seek(tar.offset)
            if self._stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise _damaged(shown, last, tar.offset)

    def _add(self, member: tarfile.TarInfo, path: str, shown: str) -> None:
        name = posixpath.normpath(f"/{member.name}").lstrip("/")
        path, shown = f"{path}/{name}", f"{shown}/{printable(name)}"
        if member.isdir() or "/." in f"/{name}":
            return
        reason = _why_not(member, name)
        if reason:
            self.aside.append((printable(path), reason))
        elif is_tar(name):
            self._read(path, shown, member.offset_data, member.offset_data + member.size)
        elif _sample(name)[1] in ("cls", "json") and self._with_labels:
            self._stream.seek(member.offset_data)
            content = self._stream.read(min(member.size, _MOST_LABEL_BYTES))
            self._labels[_sample(path)] = _class_in(content, shown)
        elif _sample(name)[1].rpartition(".")[2] not in _NO_PICTURES:
            self.files[path] = replace(
                self._tar, path=path, first_byte=member.offset_data, size=member.size
            )


def _sample(path: str) -> tuple[str, str]:
    """Return a member's key and field: `a/1.seg.png` is the field `seg.png` of `a/1`."""
    match = _SAMPLE.fullmatch(path)
    return (match[1], match[2].lower()) if match else (path, "")


def _why_not(member: tarfile.TarInfo, name: str) -> str | None:
    if not is_utf8(name):
        return NOT_UTF8
    if has_control_characters(name):
        return CONTROLS
    if is_packed_tar(name):
        return COMPRESSED
    return None if member.isreg() and not member.issparse() else NOT_A_FILE


def _damaged(shown: str, last: str | None, at: int) -> DataError:
    where = "at its beginning" if last is None else f"in or after its member {printable(last)}"
    return DataError(
        f"{shown}: is cut off or damaged {where}, near byte {at}; copy it again from its source"
    )


# Labels of samples


def _class_in(content: bytes, shown: str) -> int | str:
    """Return the class that a `.cls` or `.json` names, by number or name; "" if none."""
    try:
        text = content.decode()
        if shown.lower().endswith(".json"):
            text = _label_entry(json.loads(text))
        text = text.strip()
        number = int(text) if re.fullmatch(r"-?\d+", text) else None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{shown}: its label cannot be read ({error}); correct it, or use --label-from none"
        ) from error
    if number is None:
        return text
    return number if number >= 0 else ""  # -1 is for none


def _label_entry(entries: Any) -> str:
    if not isinstance(entries, dict):
        return ""
    labels = [value for name, value in entries.items() if is_label_column(name)]
    names = [value for value in labels if isinstance(value, str)]  # rather than its number
    names += [str(value) for value in labels if type(value) is int]
    return names[0] if names else ""


def _labelled(opened: Sequence[_Tar], filesystem: fs.FileSystem) -> Iterator[FoundFile]:
    """Yield the pictures of all tars with their labels, names in the place of numbers."""

    @cache
    def class_names(folder: str) -> tuple[str, list[str]]:
        for above in (folder, posixpath.dirname(folder)):
            for place in (f"{above}/{name}" for name in CLASS_NAMES):
                location = Location(filesystem, place, place)
                if location.exists():
                    return place, list(read_sentences(location))
        return "", []

    for tar in opened:
        for path, file in tar.files.items():
            label = tar.label_of(path)
            if isinstance(label, int):
                place, names = class_names(posixpath.dirname(file.place))
                if label >= len(names):
                    raise _no_name(path, label, file.place, place, len(names))
                label = names[label].strip()
            yield replace(file, label=wnid_at_start(label) or label)


def _no_name(path: str, number: int, tar: str, place: str, count: int) -> DataError:
    remedy = f"{place} has names for 0 to {count - 1} only; add the others" if place else (
        f"put {CLASS_NAMES[0]}, with the name of a class on each line, beside {tar}, or use "
        f"--label-from none"
    )  # fmt: skip
    return DataError(f"{path}: its class is the number {number}: {remedy}")

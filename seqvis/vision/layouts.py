"""Find labels in the common layouts of picture collections, from names of folders and from tables.

    DIR/<label>/file, DIR/train/<label>/file   ImageNet, torchvision, Keras
    DIR/train/<label>/images/file              Tiny ImageNet
    DIR/val/images/file, val_annotations.txt   Tiny ImageNet, as it is published
    DIR/Data/CLS-LOC/val/file                  ILSVRC, with LOC_val_solution.csv or Annotations/
    DIR/train/file, train_labels.csv           Kaggle and others: a table of files and labels
    DIR/train-0012.tar/file, DIR/<wnid>.tar/file   tars, which are folders here

A folder's name comes first. Tables label the pictures that have none from their folder. A table
whose name says `train`, `val` or `test` labels no picture in a folder of another of these.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from pyarrow import fs

from seqvis.errors import StorageError
from seqvis.storage import Location
from seqvis.text.lines import read_sentences
from seqvis.vision.foldertree import FoundFile

Split = str  # "train", "valid" or "test"

_WNID = re.compile(r"(n\d{8})(?![0-9A-Za-z])")
_SPLIT = re.compile(
    r"(?:ilsvrc\d{4}_)?(?:img_|images?_)?(?:(train(?:ing)?)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?))"
    r"(?:\d{4}|[_-]?set|[_-](?:images?|imgs?|pictures|photos|data))?",
    re.IGNORECASE,
)
_CONTAINER = re.compile(
    r"images?|imgs?|jpegimages|cls-loc|data|ilsvrc.*|(?!n\d{8}\.).*\.tar", re.IGNORECASE
)
_TABLE = re.compile(
    r"(?:.*(?:label|annotation|solution).*|metadata|train(?:ing)?|val(?:id(?:ation)?)?|test)"
    r"\.(?:csv|tsv|txt)",
    re.IGNORECASE,
)
_MOST_TABLE_BYTES = 256 << 20
_FILE_COLUMNS = {
    "file", "filename", "file name", "image", "imageid", "image id", "image name", "img", "id",
    "path", "file path", "filepath", "image path", "uri", "name", "picture", "photo",
}  # fmt: skip
_LABEL_COLUMNS = {
    "label", "labels", "class", "class name", "classname", "label name", "category", "wnid",
    "synset", "breed", "species", "predictionstring", "target",
}  # fmt: skip
_OBJECT_NAME = re.compile(rb"<name>\s*(n\d{8})\s*</name>")


def wnid_at_start(name: str) -> str | None:
    """Return the WordNet id that a name begins with: `n02085620-Chihuahua`, `n01440764_10.JPEG`."""
    match = _WNID.match(name)
    return match.group(1) if match else None


def split_of(path: str) -> Split | None:
    """Return what the innermost folder that is named so says: train, valid or test."""
    folders = path.split("/")[:-1]
    label = _label_folder(folders)
    for folder in reversed(folders if label is None else folders[:label]):
        is_tar = folder.lower().endswith(".tar")
        match = _split_in_words(folder) if is_tar else _SPLIT.fullmatch(folder)
        if match:
            return _split_name(match)
    return None


def folder_label(path: str) -> str:
    """Return the label that a picture's folders give, "" if they give none."""
    folders = path.split("/")[:-1]
    place = _label_folder(folders)
    return "" if place is None else wnid_at_start(folders[place]) or folders[place]


def _label_folder(folders: Sequence[str]) -> int | None:
    """Return which folder is a label: the innermost, but for those that are named after a split.

    Within a split a label may have such a name: `valid/train/1.jpg` shows a train.
    """
    for place in reversed(range(len(folders))):
        if _SPLIT.fullmatch(folders[place]):
            within = place > 0 and _SPLIT.fullmatch(folders[place - 1])
            return place if within else None
        if not _CONTAINER.fullmatch(folders[place]):
            return place
    return None


def is_label_column(name: str) -> bool:
    """Tell whether a table's column, or an entry of a JSON file, holds labels by its name."""
    return _plain(name) in _LABEL_COLUMNS


def labels_of(folder: Location, files: Sequence[FoundFile]) -> list[str]:
    """Return each file's label: its own, its folders', or that of a table in or above `folder`."""
    labels = [file.label or folder_label(file.path) for file in files]
    rest = [number for number, label in enumerate(labels) if not label]
    if not rest:
        return labels
    top, prefix = _top(folder)
    paths = {number: prefix + files[number].path for number in rest}
    for table in _tables(folder, files, top, prefix):
        still = {number: path for number, path in paths.items() if not labels[number]}
        for number, label in _match(table, still).items():
            labels[number] = label
    missing = [n for n in rest if not labels[n] and "/Data/" in files[n].place]
    for number, label in zip(missing, _annotated(folder, files, missing), strict=True):
        labels[number] = label
    return labels


def _split_in_words(name: str) -> re.Match[str] | None:
    """Find the split in a name that has other words, too: `imagenet-train-0012`."""
    words = (_SPLIT.fullmatch(word) for word in re.split(r"[^a-zA-Z]+", name))
    return next(filter(None, words), None)


def _split_name(match: re.Match[str]) -> Split:
    return "train" if match.group(1) else "valid" if match.group(2) else "test"


def _top(folder: Location) -> tuple[Location, str]:
    """Return the folder of the whole data set and the path from there to `folder`."""
    prefix = ""
    while folder.name and (_SPLIT.fullmatch(folder.name) or _CONTAINER.fullmatch(folder.name)):
        prefix = f"{folder.name}/{prefix}"
        folder = folder.parent()
    return folder, prefix


# Tables of files and labels


@dataclass(frozen=True)
class _Table:
    folder: str  # path from the top, with a slash at its end unless it is empty
    split: Split | None
    labels: Mapping[str, str]  # by the file's name as the table has it, or the end of its path


def _tables(
    folder: Location, files: Sequence[FoundFile], top: Location, prefix: str
) -> list[_Table]:
    """Return all tables, those nearest to the pictures first."""
    places = [
        (prefix + file.path, Location(folder.filesystem, file.place, file.place))
        for file in files
        if _TABLE.fullmatch(file.path.rsplit("/", 1)[-1])
        and file.size <= _MOST_TABLE_BYTES
        and not file.first_byte
    ]
    above, path = top, ""
    for name in prefix.split("/")[:-1]:
        places += [(path + table.name, table) for table in _tables_in(above)]
        above, path = above / name, f"{path}{name}/"
    places.sort(key=lambda place: (-place[0].count("/"), place[0]))
    return [_read_table(path, table) for path, table in places]


def _tables_in(folder: Location) -> list[Location]:
    try:
        infos = folder.filesystem.get_file_info(fs.FileSelector(folder.path))
    except OSError:  # what is above the pictures may be closed to their reader
        return []
    names = sorted(
        info.base_name
        for info in infos
        if info.type == fs.FileType.File and 0 <= info.size <= _MOST_TABLE_BYTES
    )
    return [folder / name for name in names if _TABLE.fullmatch(name)]


def _read_table(path: str, location: Location) -> _Table:
    lines = list(read_sentences(location)) if location.size() else []
    first = lines[0] if lines else ""
    separator = next((mark for mark in ("\t", ",", ";") if mark in first), ",")
    rows = [row for row in csv.reader(lines, delimiter=separator) if len(row) > 1]
    split = _split_in_words(PurePosixPath(path).stem)
    labels = _as_labels(rows)
    return _Table(path[: path.rfind("/") + 1], _split_name(split) if split else None, labels)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().lower()


def _as_labels(rows: list[list[str]]) -> dict[str, str]:
    if not rows:
        return {}
    header = [_plain(cell) for cell in rows[0]]
    file = next((place for place, name in enumerate(header) if name in _FILE_COLUMNS), None)
    label = next((place for place, name in enumerate(header) if name in _LABEL_COLUMNS), None)
    if label is not None and file is None:
        file = 0 if label else 1
    if file is not None:
        rows = rows[1:]
    if file is not None and label is None:
        if len(header) != 2:
            return {}
        label = 1 - file
        if len({row[label] for row in rows if len(row) > label}) == len(rows) > 1:
            return {}  # captions, addresses: no two pictures share one
    file, label = (0, 1) if file is None or label is None else (file, label)
    labels: dict[str, str] = {}
    for row in rows:
        if len(row) > max(file, label):
            name = row[file].strip().replace("\\", "/").removeprefix("./").lstrip("/")
            text = row[label].strip()
            if name and text:
                labels.setdefault(name, wnid_at_start(text) or text)
    return labels


def _match(table: _Table, paths: Mapping[int, str]) -> dict[int, str]:
    """Return the labels that a table has for these pictures, by their numbers."""
    numbers_of: dict[str, list[int]] = defaultdict(list)
    for number, path in paths.items():
        if not path.startswith(table.folder):
            continue
        if table.split and split_of(path) not in (None, table.split):
            continue
        name = _name_in(table.labels, path[len(table.folder) :])
        if name is not None:
            numbers_of[name].append(number)
    labels = {}
    for name, numbers in numbers_of.items():
        folders = {paths[number].rpartition("/")[0] for number in numbers}
        if len(folders) > 1:  # test/1.jpg beside train/1.jpg: such a table is that of train
            numbers = [number for number in numbers if split_of(paths[number]) == "train"]
            folders = {paths[number].rpartition("/")[0] for number in numbers}
        if len(folders) == 1:
            labels.update(dict.fromkeys(numbers, table.labels[name]))
    return labels


def _name_in(names: Mapping[str, str], path: str) -> str | None:
    """Return the longest end of the path, with or without its suffix, that is among the names."""
    parts = path.split("/")
    for first in range(len(parts)):
        end = "/".join(parts[first:])
        for name in (end, end.rpartition(".")[0]):
            if name in names:
                return name
    return None


# ILSVRC's annotations: one XML file for each picture


def _annotated(folder: Location, files: Sequence[FoundFile], numbers: Sequence[int]) -> list[str]:
    """Read labels from Annotations/CLS-LOC/val/x.xml for Data/CLS-LOC/val/x.JPEG, "" if none."""
    filesystem = folder.filesystem
    twins = [_annotation(files[number].place) for number in numbers]
    folders = sorted({twin.rpartition("/")[0] for twin in twins if twin})
    there = {
        info.path for info in filesystem.get_file_info(folders) if info.type != fs.FileType.NotFound
    }

    def read(twin: str) -> str:
        if twin.rpartition("/")[0] not in there:
            return ""
        try:
            content = Location(filesystem, twin, twin).read_bytes()
        except (StorageError, OSError):
            return ""
        match = _OBJECT_NAME.search(content)
        return match.group(1).decode() if match else ""

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(read, twins))


def _annotation(place: str) -> str:
    before, data, after = place.rpartition("/Data/")
    return f"{before}/Annotations/{after.rpartition('.')[0]}.xml" if data else ""

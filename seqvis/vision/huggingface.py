"""List the pictures in Hugging Face datasets: the rows of uncompressed Arrow files.

A dataset is a folder that `save_to_disk` wrote, or `hf://NAME`, which `datasets.load_dataset`
finds or downloads. Row 12 of the split `train` has the path `train/00000012`. A picture's bytes lie
in the Arrow file as they are, so a row is listed by where they begin; rows without bytes name a
file.
"""

import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from seqvis.errors import DataError
from seqvis.storage import Location, load_named_dataset, storage_errors
from seqvis.vision.foldertree import FoundFile, size_and_time
from seqvis.vision.layouts import is_label_column, wnid_at_start

_SEVERAL, _ONE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"  # of save_to_disk


@dataclass(frozen=True)
class Split:
    """A split of a dataset: its name, "" if it has none, and the Arrow files with its rows."""

    name: str
    filesystem: fs.FileSystem
    files: tuple[Location, ...]


def saved_splits(folder: Location) -> list[Split]:
    """Return the splits of a dataset that `save_to_disk` wrote; none if the folder is another.

    Raises DataError if a file of it is missing or damaged.
    """
    several, single = folder / _SEVERAL, folder / _ONE
    try:
        if several.exists():
            names = json.loads(several.read_bytes())["splits"]
            splits = {name: saved_splits(folder / name) for name in names}
            return [replace(splits[name][0], name=name) for name in names]
        if not (folder / _INFO).exists():
            return []
        if not single.exists():
            raise DataError(
                f"{folder.uri}: has {_INFO} but no {_ONE}, so the dataset is incomplete; give one "
                f"that save_to_disk wrote"
            )
        state = json.loads(single.read_bytes())
        files = [folder / file["filename"] for file in state["_data_files"]]
        return [Split(state["_split"] or "", folder.filesystem, tuple(files))]
    except (ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{folder.uri}: its {_SEVERAL} or {_ONE} is damaged, or names a split that is not "
            f"there ({error}); save the dataset again"
        ) from error


def named_splits(uri: str) -> list[Split]:
    """Return the splits of a dataset by its name, as `load_named_dataset` loads it."""
    local = fs.LocalFileSystem()
    splits = []
    for name, split in load_named_dataset(uri).items():
        paths = [file["filename"] for file in split.cache_files]
        splits.append(Split(name, local, tuple(Location(local, path, path) for path in paths)))
    return splits


def dataset_pictures(splits: Sequence[Split], label_from: str) -> list[FoundFile]:
    """Return the rows of these splits with their labels.

    With `label_from` "folder" a label is the name of a `ClassLabel`, or a text; with "name" it is
    the WordNet id that the row's file name starts with. From an object store each Arrow file is
    read from end to end. Raises DataError for a damaged file, for a dataset without pictures, and
    if it is not clear which column holds the labels.
    """
    return [file for split in splits for file in _rows(split, label_from)]


def _rows(split: Split, label_from: str) -> Iterator[FoundFile]:
    prefix = f"{split.name}/" if split.name else ""
    row = 0
    for file in split.files:
        try:
            with storage_errors(file.uri, "read"):
                (info,) = file.filesystem.get_file_info([file.path])
                content = _content(file)
            reader = pa.ipc.open_stream(content)
            columns = _Columns.of(reader.schema, file.uri, label_from)
            for batch in reader:
                places = columns.places(batch, content, file, int(info.mtime_ns or 0))
                for place, label in zip(places, columns.labels(batch), strict=True):
                    yield replace(place, path=f"{prefix}{row:08d}", label=label)
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{file.uri}: is cut off or damaged after row {row} of its split ({error}); save "
                f"the dataset again"
            ) from error


def _content(file: Location) -> pa.Buffer:
    if file.is_local:
        return pa.memory_map(file.path).read_buffer()
    with file.filesystem.open_input_file(file.path) as stream:
        return stream.read_buffer()


@dataclass(frozen=True)
class _Columns:
    """Which columns hold pictures and labels, and the names of the labels' classes."""

    picture: str
    label: str | None
    classes: Sequence[str] | None
    from_name: bool

    @classmethod
    def of(cls, schema: pa.Schema, uri: str, label_from: str) -> "_Columns":
        """Choose the columns. Raises DataError if none or several may be meant."""
        recorded = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = recorded.get("info", {}).get("features") or {}
        kinds = {name: kind.get("_type") for name, kind in features.items() if hasattr(kind, "get")}
        pictures = [name for name, kind in kinds.items() if kind == "Image"]
        picture = _only(pictures, "image", f"{uri}: its pictures", "")
        if picture is None:
            raise DataError(
                f"{uri}: has no column of pictures (it has {', '.join(schema.names)}); make one "
                f"with dataset.cast_column(name, datasets.Image()) and save the dataset again"
            )
        if label_from != "folder":
            return cls(picture, None, None, label_from == "name")
        classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        named = [name for name in schema.names if is_label_column(name)]
        likely = [name for name in named if name in classes] or classes or named
        label = _only(likely, "label", f"{uri}: its labels", ", or use --label-from none")
        if label in classes:
            return cls(picture, label, features[label]["names"], False)
        if label and not pa.types.is_string(schema.field(label).type):
            raise DataError(
                f"{uri}: its column {label} holds {schema.field(label).type}, not names; give them "
                f"with dataset.cast_column({label!r}, datasets.ClassLabel(names=[...])) and save "
                f"the dataset again, or use --label-from none"
            )
        return cls(picture, label, None, False)

    def labels(self, batch: pa.RecordBatch) -> list[str]:
        """Return the label of each row, "" where it has none."""
        if self.from_name:
            paths = pc.struct_field(batch[self.picture], "path").to_pylist()
            return [wnid_at_start(posixpath.basename(path or "")) or "" for path in paths]
        if self.label is None:
            return [""] * batch.num_rows
        labels = batch[self.label].to_pylist()
        if self.classes is not None:
            names = dict(enumerate(self.classes))
            labels = [names.get(number) for number in labels]  # -1 is for none
        return [wnid_at_start(label or "") or label or "" for label in labels]

    def places(
        self, batch: pa.RecordBatch, content: pa.Buffer, file: Location, modified: int
    ) -> Iterator[FoundFile]:
        """Yield where each row's picture lies: in the Arrow file, or in a file that it names."""
        stored, paths = (pc.struct_field(batch[self.picture], name) for name in ("bytes", "path"))
        elsewhere = paths.filter(pc.and_(stored.is_null(), paths.is_valid())).to_pylist()
        infos = {info.path: info for info in file.filesystem.get_file_info(elsewhere)}
        spans = zip(*_spans(stored, content, file.uri), strict=True)
        for (first_byte, size), path, is_elsewhere in zip(
            spans, paths.to_pylist(), stored.is_null().to_pylist(), strict=True
        ):
            if not is_elsewhere:
                yield FoundFile("", file.path, size, modified, first_byte)
            elif path in infos:
                yield FoundFile("", path, *size_and_time(infos[path]))
            else:
                yield FoundFile("", file.path, -1, 0)


def _only(names: Sequence[str], preferred: str, what: str, remedy: str) -> str | None:
    """Return the one name, or the preferred of several, or None. Raises DataError if unclear."""
    if len(names) > 1 and preferred not in names:
        raise DataError(
            f"{what} may be those of {' or '.join(names)}; rename one to {preferred} with "
            f"dataset.rename_column and save the dataset again{remedy}"
        )
    return preferred if preferred in names else names[0] if names else None


def _spans(stored: pa.Array, content: pa.Buffer, uri: str) -> tuple[list[int], list[int]]:
    """Return where in the file each row's bytes begin, and how many they are."""
    if not len(stored):
        return [], []
    _, offsets, data = stored.buffers()
    width = np.int64 if pa.types.is_large_binary(stored.type) else np.int32
    ends = np.frombuffer(offsets, width)[stored.offset : stored.offset + len(stored) + 1]
    begin = data.address - content.address if ends[-1] else 0
    if not 0 <= begin <= content.size - int(ends[-1]):
        raise DataError(f"{uri}: is compressed; save the dataset again with save_to_disk")
    return (begin + ends[:-1].astype(np.int64)).tolist(), np.diff(ends).tolist()

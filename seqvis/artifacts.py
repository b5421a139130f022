"""A job's result on disk: a directory with a manifest, which appears whole or not at all.

`manifest.json` holds the kind, the format version, the configuration that made the artifact, its
metrics, and the size and SHA-256 of each file. On a local disk the files are written into a hidden
sibling directory that is renamed at the end. An object store has no rename: there each writer has
its own folder `files-…` within the directory, and at the end a single request replaces the
manifest, which names the folder; until then the previous artifact stays whole. Files are
safetensors, Parquet, JSON, text and pictures, never pickle: loading a stranger's artifact must not
run their code.
"""

import ctypes
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from seqvis.errors import ArtifactError, DataError
from seqvis.storage import HUGGING_FACE, Location, Place, fetched, locate, storage_errors

if TYPE_CHECKING:
    from torch import Tensor

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

_FOLDER = re.compile(r"files-[0-9a-f]{8}$")  # of one writer, in an object store

_MADE_BY = {
    "corpus": "prepare-corpus",
    "vectors": "build-vectors",
    "translator": "train-translator",
    "language model": "pretrain",
    "features": "embed-images",
    "devise": "train-devise",
    "collection": "build-index",
    "checkpoint": "train-translator",
}


@dataclass(frozen=True)
class Artifact:
    """An artifact that was checked on opening and found complete."""

    location: Location
    kind: str
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]  # relative path -> {"size": bytes, "sha256": hex}
    folder: Location  # which the files' paths start from

    def file(self, name: str) -> Location:
        """Return one file of the artifact. Raises ArtifactError if it has no such file."""
        if name not in self.files:
            raise ArtifactError(f"{self.location.uri}: holds no {name}; make the {self.kind} again")
        return self.folder / name

    def names_below(self, folder: str) -> list[str]:
        return sorted(name for name in self.files if name.startswith(folder + "/"))

    def fingerprint(self) -> str:
        """Return a short hash of all files, equal for artifacts with equal content."""
        digest = hashlib.sha256()
        for name, entry in sorted(self.files.items()):
            digest.update(f"{name}:{entry['sha256']}\n".encode())
        return digest.hexdigest()[:16]

    def check_unchanged(self) -> None:
        """Raise ArtifactError if it was replaced or deleted since it was opened."""
        try:
            same = _read_manifest(self.location).get("files") == self.files
        except DataError:  # no manifest
            same = False
        if not same:
            raise ArtifactError(
                f"{self.location.uri}: was replaced or deleted while it was in use; put back what "
                f"was there and run the same command again, or begin anew with what is there now "
                f"(a training: --restart)"
            )

    def local_copy(self, folder: Path) -> Path:
        """Return the artifact's local directory; copy one in an object store to `folder`."""
        if self.location.is_local:
            return Path(self.location.path)
        for name in self.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self.file(name).copy_to(target)
        manifest = _read_manifest(self.location)
        manifest.pop("folder", None)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), "utf-8")
        return folder


class ArtifactWriter:
    """A place for an artifact's files; `create` makes it and commits it."""

    def __init__(self, destination: Location, kind: str, config: Mapping[str, Any]):
        self.destination = destination
        self.kind = kind
        self.config = config
        self.metrics: dict[str, Any] = {}
        self.staging = destination / f"files-{uuid.uuid4().hex[:8]}"
        if destination.is_local:
            path = Path(destination.path)
            staging = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
            self.staging = locate(staging)

    def path(self, name: str) -> Location:
        """Return where to write the file `name`; its folder exists after this call."""
        location = self.staging / name
        folder = location.path.rsplit("/", 1)[0]
        with storage_errors(self.destination.uri):
            location.filesystem.create_dir(folder, recursive=True)
        return location

    @contextmanager
    def local_file(self, name: str) -> Iterator[Path]:
        """Yield a local path to write `name` to, for libraries that write to a path only."""
        with self.path(name).local_output() as path:
            yield path

    def write_tensors(self, name: str, tensors: Mapping[str, "Tensor"]) -> None:
        """Write tensors of the CPU as safetensors, without a second copy of them in memory."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        with self.local_file(name) as path:
            path.touch()
            mode = path.stat().st_mode
            try:
                save_file(dict(tensors), path)
            except SafetensorError as error:
                raise OSError(str(error)) from error
            path.chmod(mode)  # safetensors writes what its owner alone may read

    def write_json(self, name: str, content: Any) -> None:
        self.path(name).write_bytes(json.dumps(content, indent=2, ensure_ascii=False).encode())

    def commit(self) -> None:
        files = {name: describe_file(self.staging / name) for name in self.staging.files_below()}
        manifest: dict[str, Any] = {
            "kind": self.kind,
            "format_version": FORMAT_VERSION,
            "config": self.config,
            "metrics": self.metrics,
            "files": files,
        }
        if self.destination.is_local:
            self.write_json(MANIFEST, manifest)
            with storage_errors(self.destination.uri):
                _swap_in(Path(self.staging.path), Path(self.destination.path))
            return
        manifest["folder"] = self.staging.name
        content = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
        (self.destination / MANIFEST).write_bytes(content)
        for child in self.destination.children():  # the artifact before, and what killed jobs left
            if child.name not in (MANIFEST, self.staging.name):
                child.delete()

    def discard(self) -> None:
        self.staging.delete()


@contextmanager
def create(uri: Place, kind: str, config: Mapping[str, Any]) -> Iterator[ArtifactWriter]:
    """Write an artifact: it appears at `uri` when the block ends, and not if the block raises.

    An artifact of the same kind is replaced at that moment. Raises ArtifactError if something else
    is there, StorageError if the place cannot be written.
    """
    destination = locate(uri)
    check_destination(destination, kind)
    writer = ArtifactWriter(destination, kind, config)
    try:
        writer.staging.make_directory()
        yield writer
        writer.commit()
    except BaseException:
        writer.discard()
        raise


def check_destination(destination: Location, kind: str) -> None:
    """Raise ArtifactError if writing an artifact of `kind` here would destroy something else."""
    if destination.uri.startswith(HUGGING_FACE):
        raise ArtifactError(
            f"{destination.uri}: is not written to directly; give --out a directory, and then "
            f"seqvis push-to-hub"
        )
    if not destination.exists():
        return
    if not destination.is_directory():
        raise ArtifactError(f"{destination.uri}: is a file; --out needs a directory")
    children = destination.children()
    if all(_FOLDER.match(child.name) and not destination.is_local for child in children):
        return  # nothing, or what killed jobs left in an object store
    if not (destination / MANIFEST).exists():
        raise ArtifactError(
            f"{destination.uri}: is not empty and holds no {MANIFEST}; "
            f"choose another --out, nothing was overwritten"
        )
    kind_here = _read_manifest(destination).get("kind")
    if kind_here != kind:
        raise ArtifactError(
            f"{destination.uri}: contains a {kind_here}, which a {kind} must not replace; "
            f"choose another --out"
        )


def kind_of(uri: Place) -> str:
    """Return the kind of the artifact at `uri`. Raises ArtifactError if there is none."""
    location = fetched(uri)
    if not (location / MANIFEST).exists():
        raise ArtifactError(
            f"{location.uri}: holds no {MANIFEST}; give a directory that a job wrote"
        )
    return str(_read_manifest(location).get("kind"))


def load(uri: Place, kind: str, verify: bool = True, other_kind: str | None = None) -> Artifact:
    """Open an artifact of `kind`, or of `other_kind`, and check it against its manifest.

    With `verify` each file's SHA-256 is computed (about 1 s per GB); without, only sizes are
    compared. Raises ArtifactError if it is missing, of another kind or version, or altered.
    """
    location = fetched(uri)
    if not location.exists():
        raise ArtifactError(
            f"{location.uri}: no such {kind}; make one with seqvis {_MADE_BY[kind]}"
        )
    if not (location / MANIFEST).exists():
        raise ArtifactError(
            f"{location.uri}: holds no {MANIFEST}, so it is not a {kind}; "
            f"give the directory that seqvis {_MADE_BY[kind]} wrote"
        )
    manifest = _read_manifest(location)
    kind_here = manifest.get("kind")
    if kind_here not in (kind, other_kind):
        kinds = f"{kind} or a {other_kind}" if other_kind else kind
        raise ArtifactError(f"{location.uri}: is a {kind_here}, but a {kinds} is needed here")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{location.uri}: has format version {manifest.get('format_version')}, this seqvis "
            f"reads version {FORMAT_VERSION}; upgrade seqvis or make the {kind} again"
        )
    _check_manifest(manifest, (location / MANIFEST).uri)
    files = manifest["files"]
    folder = location / manifest["folder"] if "folder" in manifest else location
    for name, expected in files.items():
        _check_file(folder / name, expected, kind, verify)
    return Artifact(
        location, str(kind_here), manifest["config"], manifest["metrics"], files, folder
    )


def _check_file(location: Location, expected: Mapping[str, Any], kind: str, verify: bool) -> None:
    remedy = f"copy the {kind} again from where it was made, or make it again"
    if not location.exists():
        raise ArtifactError(f"{location.uri}: is missing; {remedy}")
    size = location.size()
    if size != expected["size"]:
        raise ArtifactError(
            f"{location.uri}: has {size} bytes where its manifest says {expected['size']}; {remedy}"
        )
    if verify and describe_file(location)["sha256"] != expected["sha256"]:
        raise ArtifactError(f"{location.uri}: was altered since it was made; {remedy}")


def describe_file(location: Location) -> dict[str, Any]:
    """Return a file's size and SHA-256."""
    digest = hashlib.sha256()
    size = 0
    with storage_errors(location.uri, "read"):
        with location.filesystem.open_input_stream(location.path) as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
                size += len(block)
    return {"size": size, "sha256": digest.hexdigest()}


def _read_manifest(location: Location) -> dict[str, Any]:
    path = location / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path.uri}: is not valid JSON ({error}); make it again") from error
    if not isinstance(manifest, dict):
        raise ArtifactError(f"{path.uri}: is not a manifest; make it again")
    return manifest


def _check_manifest(manifest: Mapping[str, Any], uri: str) -> None:
    """Raise ArtifactError if an entry is missing, or a file's name leads out of the directory."""
    for key in ("config", "metrics", "files"):
        if not isinstance(manifest.get(key), dict):
            raise ArtifactError(f"{uri}: has no valid {key}; make it again")
    if "folder" in manifest and not _FOLDER.match(str(manifest["folder"])):
        raise ArtifactError(f"{uri}: names a folder that no job makes; do not trust it")
    for name, entry in manifest["files"].items():
        if not isinstance(entry, dict) or not {"size", "sha256"} <= entry.keys():
            raise ArtifactError(f"{uri}: does not say the size and hash of {name}; make it again")
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            raise ArtifactError(
                f"{uri}: names a file outside its directory ({name}); do not trust it"
            )


def _swap_in(staging: Path, destination: Path) -> None:
    """Put `staging` in the place of `destination`; a kill leaves the old or the new one whole."""
    if not destination.exists():
        os.rename(staging, destination)
    elif _exchange(staging, destination):
        shutil.rmtree(staging)  # which is the old one now
    else:  # for a moment nothing is there; the old one is beside it
        old = destination.with_name(f".{destination.name}.{uuid.uuid4().hex[:8]}.old")
        os.rename(destination, old)
        os.rename(staging, destination)
        shutil.rmtree(old)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False where the system or the disk cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_working_directory, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    names = os.fsencode(first), os.fsencode(second)
    return bool(
        renameat2(at_working_directory, names[0], at_working_directory, names[1], exchange) == 0
    )

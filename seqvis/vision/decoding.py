"""The work of a CPU task of `embed_images`: files become squares of pixels and thumbnails.

A module of its own, because a task's process imports the module of its work: this one does not need
PyTorch, which takes seconds and half a gigabyte.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs

from seqvis.vision import images
from seqvis.vision.featurewriter import EMBEDDED, SAME
from seqvis.vision.foldertree import NO_FILE, UNREADABLE
from seqvis.vision.images import BadImage, Fit, enough


@dataclass(frozen=True)
class DecodePictures:
    """The work of a CPU task: files of the listing become squares of pixels and thumbnails."""

    filesystem: fs.FileSystem
    size: int
    fit: Fit

    def __call__(self, files: pa.Table) -> pa.Table:
        rows = [
            self._decode(place, size, known)
            for place, size, known in zip(
                *(files[name].to_pylist() for name in ("place", "size", "known_hash")), strict=True
            )
        ]
        names = ("status", "width", "height", "content_hash", "thumbnail", "pixels")
        kinds = (pa.string(), pa.int32(), pa.int32(), pa.binary(), pa.binary(), pa.binary())
        columns = zip(*rows, strict=True)
        return pa.table({n: pa.array(c, k) for n, k, c in zip(names, kinds, columns, strict=True)})

    def _decode(self, place: str, size: int, known: bytes | None) -> tuple[Any, ...]:
        nothing = (None,) * 5
        if size < 0:
            return (NO_FILE, *nothing)
        if size > images.MAX_BYTES:
            return (images.TOO_LARGE, *nothing)
        try:
            with self.filesystem.open_input_stream(place) as stream:
                content = stream.read(images.MAX_BYTES + 1)
        except FileNotFoundError:
            return (NO_FILE, *nothing)
        except OSError:
            return (UNREADABLE, *nothing)
        content_hash = hashlib.blake2b(content, digest_size=16).digest()
        if content_hash == known:
            return (SAME, *nothing)
        try:
            found = images.decode(content, enough(self.size))
        except BadImage as error:
            return (error.reason, *nothing)
        pixels = images.square(found.picture, self.size, self.fit).tobytes()
        small = images.thumbnail(found.picture)
        return EMBEDDED, found.width, found.height, content_hash, small, pixels

"""The CPU task of `embed_images`: turn files into squares of pixels and thumbnails.

It has its own module because a task's process imports the module of its function: this one does not
need PyTorch, which takes seconds and half a gigabyte.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import fs

from seqvis.vision import images
from seqvis.vision.feature_writer import EMBEDDED, SAME
from seqvis.vision.foldertree import NO_FILE, REMEDIES, UNREADABLE
from seqvis.vision.images import BadImage, Fit, enough


@dataclass(frozen=True)
class DecodePictures:
    """Turns files of the listing into squares of pixels and thumbnails, in a CPU task."""

    filesystem: fs.FileSystem
    size: int
    fit: Fit
    max_pixels: int

    def __call__(self, files: pa.Table) -> pa.Table:
        rows = [
            self._decode(place, size, known)
            for place, size, known in zip(
                *(files[name].to_pylist() for name in ("place", "size", "known_hash")), strict=True
            )
        ]
        names = ["status", "format", "remedy", "width", "height", "content_hash", "thumbnail"]
        names += ["pixels"]
        kinds = (*(pa.string(),) * 3, *(pa.int32(),) * 2, *(pa.binary(),) * 3)
        columns = zip(*rows, strict=True)
        return pa.table({n: pa.array(c, k) for n, k, c in zip(names, kinds, columns, strict=True)})

    def _decode(self, place: str, size: int, known: bytes | None) -> tuple[Any, ...]:
        if size < 0:
            return _rejected(NO_FILE)
        try:
            images.check_bytes(size, self.max_pixels)
            with self.filesystem.open_input_stream(place) as stream:
                content = stream.read(images.BYTES_A_PIXEL * self.max_pixels + 1)
            content_hash = hashlib.blake2b(content, digest_size=16).digest()
            if content_hash == known:
                return (SAME, *(None,) * 7)
            found = images.decode(content, enough(self.size), self.max_pixels)
        except FileNotFoundError:
            return _rejected(NO_FILE)
        except OSError:
            return _rejected(UNREADABLE)
        except BadImage as error:
            more = ", or raise --max-pixels" if error.reason in images.OF_LIMITS else ""
            return _rejected(error.reason, error.kind, error.remedy + more)
        pixels = images.square(found.picture, self.size, self.fit).tobytes()
        small = images.thumbnail(found.picture)
        about = found.width, found.height, content_hash
        return (EMBEDDED, None, None, *about, small, pixels)


def _rejected(reason: str, kind: str = "", remedy: str | None = None) -> tuple[Any, ...]:
    return (reason, kind, REMEDIES[reason] if remedy is None else remedy, *(None,) * 5)

"""Read pictures, and group those that are sent in one request."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from seqvis.client.results import Content, NewPicture

_BYTES_TOGETHER = 8 << 20  # of the pictures of one request

Read = tuple[NewPicture, bytes | OSError]
"""A picture and the bytes of its file, or why it cannot be read."""


def grouped(pictures: Iterable[NewPicture], together: int) -> Iterator[list[Read]]:
    """Read pictures, and yield as many as are sent in one request."""
    group: list[Read] = []
    size = 0
    for picture in pictures:
        read: bytes | OSError
        try:
            read = bytes_of(picture.content)
        except OSError as error:
            read = error
        more = len(read) if isinstance(read, bytes) else 0
        if group and (len(group) == together or size + more > _BYTES_TOGETHER):
            yield group
            group, size = [], 0
        group.append((picture, read))
        size += more
    if group:
        yield group


def bytes_of(picture: Content) -> bytes:
    return picture if isinstance(picture, bytes) else Path(picture).read_bytes()

"""Decode untrusted pictures safely, and reduce them to what a network takes.

`decode` turns the bytes of one file into an 8-bit RGB picture, turned the right way up, or raises
`BadImage`, whose short reason never depends on the particular file, so that reasons can be counted.
Only the content of a file matters, not its name. Of an animation (GIF, WebP, AVIF, APNG) or a TIFF
with several pages only the first picture is used; transparency becomes white; colour profiles and
texts are ignored.
"""

import hashlib
import io
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from PIL import Image

from seqvis.vision.formats import OPENED, format_of

MAX_PIXELS = 120_000_000  # current cameras have up to 102 million
JPEG_ALLOWANCE = 4  # times as many for a JPEG, of which at most MAX_PIXELS are made
BYTES_A_PIXEL = 3  # of the greatest file
SPARING_ABOVE = 50_000_000  # pixels: a larger picture is made small in bands
THUMBNAIL_SIDE = 128

EMPTY = "empty file"
TOO_LARGE = "file too large"
NOT_AN_IMAGE = "not an image"
NOT_OPENED = "format that is not opened"
TOO_MANY_PIXELS = "too many pixels"
DAMAGED = "truncated or damaged"
UNSUPPORTED = "unsupported kind of pixels"
OF_LIMITS = (TOO_LARGE, TOO_MANY_PIXELS)  # reasons that depend on `max_pixels`

_REMEDIES = {
    EMPTY: "copy it again from where it was made",
    NOT_AN_IMAGE: "give a picture, such as a JPEG or PNG",
    NOT_OPENED: "convert it to JPEG or PNG",
    DAMAGED: "copy it again from where it was made, or open it in an editor and save it anew",
    UNSUPPORTED: "save it with 8 bits for each of red, green and blue",
}
Image.MAX_IMAGE_PIXELS = None  # `_check_size` judges: Pillow's limit would be one for all callers

Fit = Literal["crop", "stretch", "pad"]

_END_OF_JPEG = b"\xff\xd9"
_START_OF_CODESTREAM, _CODING_STYLE = b"\xff\x4f\xff\x51", b"\xff\x52"  # of JPEG 2000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112  # EXIF and TIFF tags
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_TILE_WIDTH, _TILE_LENGTH = 322, 323


class BadImage(Exception):  # noqa: N818  it says what the file is, and is expected
    """A file that cannot be used as a picture.

    `reason` is one of the few texts of this module, `kind` the file's format if it is known, and
    `remedy` what the user can do.
    """

    def __init__(self, reason: str, kind: str = "", remedy: str = ""):
        self.reason = reason
        self.kind = kind
        self.remedy = remedy or _REMEDIES[reason]
        what = f"{reason} ({kind})" if kind else reason
        super().__init__(f"{what}; {self.remedy}")

    def __reduce__(self) -> tuple[type["BadImage"], tuple[str, str, str]]:
        return type(self), (self.reason, self.kind, self.remedy)


@dataclass(frozen=True)
class Decoded:
    """A decoded RGB picture, the right way up, and the size of the original in pixels.

    The size counts after turning. The picture itself may be smaller than width x height if the
    caller of `decode` said that less was enough.
    """

    picture: Image.Image
    width: int
    height: int


def decode(
    content: bytes, enough: int | None = None, max_pixels: int | None = MAX_PIXELS
) -> Decoded:
    """Return the picture in `content`. Raises BadImage if there is none that can be trusted.

    With `enough` a JPEG whose shorter side is at least twice as long is decoded at a half, a
    quarter or an eighth of its size, never below `enough` pixels: many times faster. It may then
    have `JPEG_ALLOWANCE` times `max_pixels`, unless it is progressive, which needs memory for all.
    JPEG 2000 is halved likewise, and other large pictures are reduced after decoding. Without
    `max_pixels` there is no limit.
    Raises TypeError for anything but bytes, such as a file's name.
    """
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(
            f"a picture is given as the bytes of its file, not as {type(content).__name__}: "
            f"{content!r:.80}; pass Path(...).read_bytes()"
        )
    if not content:
        raise BadImage(EMPTY)
    name = format_of(content)
    check_bytes(len(content), max_pixels, name)
    if name not in OPENED:
        raise BadImage(NOT_OPENED if name not in ("", "web page") else NOT_AN_IMAGE, name)
    failure: Exception | None = None
    for attempt in _attempts(content, name):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                versions = [_decode(data, name, enough, max_pixels) for data in attempt]
        except BadImage:
            raise
        except Exception as error:  # a stranger's bytes make Pillow raise every kind there is
            failure = failure or error
        else:
            if all(version.picture == versions[0].picture for version in versions):
                return versions[0]
    raise BadImage(DAMAGED, name) from failure


def check_bytes(count: int, max_pixels: int | None, name: str = "") -> None:
    """Raise BadImage for a file of so many bytes that it is not even read."""
    if max_pixels is not None and count > BYTES_A_PIXEL * max_pixels:
        most = BYTES_A_PIXEL * max_pixels / 1e6
        raise BadImage(
            TOO_LARGE,
            name,
            f"its {count / 1e6:,.0f} MB are more than {most:,.0f} MB: save it smaller",
        )


def _attempts(content: bytes, name: str) -> Iterator[tuple[bytes, ...]]:
    """Yield versions of a file to decode, the next if one fails; those of one must look alike."""
    yield (content,)
    if name == "PNG":
        yield (_without_texts(content),)
    if name == "JPEG":
        # Whether only the marker of its end is missing: bytes before that change nothing if so,
        # but become pixels where some are missing.
        body = content.rstrip(b"\xff")
        bytes_more = hashlib.sha512(b"noise").digest().replace(b"\xff", b"\xfe")
        yield body + _END_OF_JPEG, body + bytes_more + _END_OF_JPEG


def _without_texts(content: bytes) -> bytes:
    """Return a PNG without texts and colour profile, which may be larger than Pillow reads."""
    kept, at = [content[:8]], 8
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(content[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def enough(image_size: int) -> int:
    """Return the shorter side, in pixels, below which no picture is reduced when decoded."""
    return max(2 * image_size, 256)


def square(picture: Image.Image, size: int, fit: Fit) -> np.ndarray:
    """Return an RGB picture as uint8 [size, size, 3].

    `crop` keeps the middle square, `stretch` ignores proportions, `pad` adds white on two sides.
    """
    width, height = picture.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.array(_resize(picture, (size, size), box))
    if fit == "stretch":
        return np.array(_resize(picture, (size, size)))
    inner = _resize(picture, _scaled(width, height, size))
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return np.array(canvas)


def thumbnail(picture: Image.Image) -> bytes:
    """Return a JPEG of the whole picture, its longer side at most 128 pixels; never enlarged."""
    width, height = picture.size
    if max(width, height) > THUMBNAIL_SIDE:
        picture = _resize(picture, _scaled(width, height, THUMBNAIL_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _decode(content: bytes, name: str, enough: int | None, max_pixels: int | None) -> Decoded:
    if name == "ICO" and max_pixels is not None:  # Pillow decodes it when it opens it
        for size in _icon_sizes(content):
            if size[0] * size[1] > max_pixels:
                raise _too_many(name, size, max_pixels)
    with Image.open(io.BytesIO(content), formats=(name,)) as image:
        full_size = image.size
        halvings = 0
        if enough is not None and name == "JPEG":
            image.draft(image.mode, (enough, enough))
        if name == "JPEG2000":
            halvings = _halvings(content, full_size, enough)
            cast(Any, image).reduce = halvings  # which Pillow's types do not know
        if max_pixels is not None:
            _check_size(image, name, full_size, halvings, max_pixels)
        full_scale, inverted = _grey_scale(image)
        image.load()
        # After loading: a TIFF is turned by Pillow itself, which then drops the tag.
        orientation = _orientation(image)
        if name != "JPEG" and not halvings:
            full_size = image.size
        try:
            picture = _small_rgb(image, full_scale, inverted, enough)
        except BadImage as error:
            raise BadImage(error.reason, name) from error
    if orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    width, height = full_size[::-1] if orientation >= 5 else full_size
    return Decoded(picture, width, height)


def _halvings(content: bytes, size: tuple[int, int], enough: int | None) -> int:
    """Count how often a JPEG 2000 can be halved in decoding without becoming too small."""
    start = content.find(_CODING_STYLE, content.find(_START_OF_CODESTREAM) + 4)
    levels = content[start + 9 : start + 10] if start >= 0 else b""
    count = max(0, min((min(size) // enough).bit_length() - 1 if enough else 0, *levels))
    # Pillow rounds the sides that OpenJPEG rounds up, and refuses what differs from its own.
    while any(-(-side >> count) != (side + (1 << count >> 1)) >> count for side in size):
        count -= 1
    return count


def _check_size(
    image: Image.Image, name: str, full_size: tuple[int, int], halvings: int, max_pixels: int
) -> None:
    """Raise BadImage if decoding would make more pixels, or read more of a JPEG, than it may."""
    sizes = [image.size]
    tags = getattr(image, "tag_v2", {})
    if tags:  # a tile is decoded whole, however small the picture
        sizes.append((int(tags.get(_TILE_WIDTH, 0)), int(tags.get(_TILE_LENGTH, 0))))
    if name == "JPEG2000" and not halvings:
        max_pixels //= 4  # its decoder needs four times the memory of others for each
    allowance = JPEG_ALLOWANCE if image.size != full_size else 1
    if {"progressive", "progression"} & set(image.info):
        allowance = 1
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    if width * height <= max_pixels and full_size[0] * full_size[1] <= allowance * max_pixels:
        return
    largest = max(full_size, (width, height), key=lambda size: size[0] * size[1])
    raise _too_many(name, largest, allowance * max_pixels)


def _too_many(name: str, size: tuple[int, int], limit: int) -> BadImage:
    text = f"its {size[0]} x {size[1]} pixels are more than {limit / 1e6:g} million: scale it down"
    return BadImage(TOO_MANY_PIXELS, name, text)


def _icon_sizes(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the sizes in an icon's pictures; the icon's own list cannot name more than 256."""
    for entry in range(int.from_bytes(content[4:6], "little")):
        at = int.from_bytes(content[18 + 16 * entry : 22 + 16 * entry], "little")
        head = content[at : at + 24].ljust(24, b"\0")
        if format_of(head) == "PNG":
            yield struct.unpack(">II", head[16:24])
        else:
            width, height = struct.unpack("<ii", head[4:12])
            yield abs(width), abs(height)  # twice the height: a mask follows


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF does not make the picture unusable
        return 1
    return value if value in _TURNS else 1


def _grey_scale(image: Image.Image) -> tuple[int, bool]:
    """Return the value of full brightness in deep grey pictures, and whether 0 is white."""
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(_BITS, (16,))[0])
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    return (1 << (bits - signed)) - 1, tags.get(_PHOTOMETRIC, 1) == 0


def _small_rgb(
    image: Image.Image, full_scale: int, inverted: bool, enough: int | None
) -> Image.Image:
    """Convert a picture to RGB, a large one in bands and about as small as is enough."""
    width, height = image.size
    factor = min(width, height) // enough if enough else 1
    if factor < 2 or width * height <= SPARING_ABOVE:
        return _to_rgb(image, full_scale, inverted)
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    for top in range(0, height, 16 * factor):
        band = image.crop((0, top, width, min(height, top + 16 * factor)))
        small.paste(_to_rgb(band, full_scale, inverted).reduce(factor), (0, top // factor))
    return small


def _to_rgb(image: Image.Image, full_scale: int, inverted: bool) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _to_eight_bits(image, full_scale, inverted).convert("RGB")
    if image.mode in ("F", "LAB", "HSV"):
        raise BadImage(UNSUPPORTED)
    if not image.has_transparency_data:
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    flat = Image.new("RGB", image.size, "white")
    flat.paste(with_alpha, mask=with_alpha.getchannel("A"))
    return flat


def _to_eight_bits(image: Image.Image, full_scale: int, inverted: bool) -> Image.Image:
    """Scale grey of 12, 16 or 32 bits to the nearest of 8 bits; Pillow would clip at 255."""
    values = np.asarray(image)
    if values.dtype == np.int32 and full_scale == (1 << 32) - 1:
        values = values.view(np.uint32)
    scaled = np.multiply(values, 255.0 / full_scale, dtype=np.float32)
    if inverted:
        scaled = 255.0 - scaled
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _resize(
    picture: Image.Image,
    size: tuple[int, int],
    box: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    return picture.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _scaled(width: int, height: int, longest: int) -> tuple[int, int]:
    """Return the size with the same proportions whose longer side is `longest`."""
    ratio = longest / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))

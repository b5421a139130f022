"""Safe decoding of pictures from strangers, and their reduction to what a network takes.

In: the bytes of one file. Out: a picture in 8-bit RGB, turned the right way up, or `BadImage` with
a short reason that never varies with the file, so that reasons can be counted. What would surprise
a reader: the name of a file counts for nothing, its content decides; of an animation (GIF, WebP,
APNG) and of a TIFF with several pages only the first picture is used; transparency becomes white;
colour profiles are ignored.
"""

import io
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # nothing else is ever opened
MAX_PIXELS = 50_000_000
MAX_BYTES = 64 << 20
THUMBNAIL_SIDE = 128

EMPTY = "empty file"
TOO_LARGE = "file too large"
NOT_AN_IMAGE = "not an image"
TOO_MANY_PIXELS = "too many pixels"
DAMAGED = "truncated or damaged"
UNSUPPORTED = "unsupported kind of pixels"

Fit = Literal["crop", "stretch", "pad"]

_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
    b"II+\0", b"MM\0+",
)  # fmt: skip
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
    """A file that cannot be used as a picture; `reason` is one of this module's few texts."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """A picture in RGB the right way up, and the file's size in pixels after turning.

    The picture is smaller than width x height where `decode` was told that less is enough.
    """

    picture: Image.Image
    width: int
    height: int


def decode(content: bytes, enough: int | None = None) -> Decoded:
    """The picture in `content`. Raises BadImage if there is none that can be trusted.

    With `enough` a JPEG whose shorter side is at least twice as long is decoded at a half, a
    quarter or an eighth of its size, never below `enough` pixels: many times faster.
    """
    if not content:
        raise BadImage(EMPTY)
    if len(content) > MAX_BYTES:
        raise BadImage(TOO_LARGE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(content, enough)
    except BadImage:
        raise
    except UnidentifiedImageError as error:
        raise BadImage(DAMAGED if _looks_like_one(content) else NOT_AN_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise BadImage(TOO_MANY_PIXELS) from error
    except Exception as error:  # a stranger's bytes make Pillow's parsers raise every kind there is
        raise BadImage(DAMAGED) from error


def enough(image_size: int) -> int:
    """The shorter side, in pixels, below which no picture is decoded for this size of input."""
    return max(2 * image_size, 256)


def square(picture: Image.Image, size: int, fit: Fit) -> np.ndarray:
    """An RGB picture as uint8 [size, size, 3].

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
    """A JPEG of the whole picture, its longer side at most 128 pixels; never enlarged."""
    width, height = picture.size
    if max(width, height) > THUMBNAIL_SIDE:
        picture = _resize(picture, _scaled(width, height, THUMBNAIL_SIDE))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _decode(content: bytes, enough: int | None) -> Decoded:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        _check_size(image)
        full_size = image.size
        reduced = image.format == "JPEG"
        if reduced and enough is not None:
            image.draft(image.mode, (enough, enough))
        full_scale, inverted = _grey_scale(image)
        image.load()
        # After loading: a TIFF is turned by Pillow itself, which then drops the tag.
        orientation = _orientation(image)
        picture = _to_rgb(image, full_scale, inverted)
    if orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    width, height = picture.size
    if reduced:
        width, height = full_size[::-1] if orientation >= 5 else full_size
    return Decoded(picture, width, height)


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    tags = getattr(image, "tag_v2", {})
    tile = int(tags.get(_TILE_WIDTH, 0)) * int(tags.get(_TILE_LENGTH, 0))
    if max(width * height, tile) > MAX_PIXELS:  # a tile is decoded whole, however small the picture
        raise BadImage(TOO_MANY_PIXELS)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # broken EXIF does not make the picture unusable
        return 1
    return value if value in _TURNS else 1


def _grey_scale(image: Image.Image) -> tuple[int, bool]:
    """The value of full brightness in a grey picture of more than 8 bits; whether 0 is white."""
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(_BITS, (16,))[0])
    signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    return (1 << (bits - signed)) - 1, tags.get(_PHOTOMETRIC, 1) == 0


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
    """Grey of 12, 16 or 32 bits at 8 bits, to the nearest value; Pillow's own would clip at 255."""
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
    """The size with the same proportions whose longer side is `longest`."""
    ratio = longest / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _looks_like_one(content: bytes) -> bool:
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    return webp or content.startswith(_SIGNATURES)

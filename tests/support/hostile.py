"""Pictures that strangers might send to do harm, made by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

Header = tuple[int, int, int, int]  # of a PNG: width, height, bit depth, colour type


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise(width: int = 40, height: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(header: Header, rows: bytes) -> bytes:
    """A PNG written by hand, of unfiltered rows."""

    def chunk(name: bytes, body: bytes) -> bytes:
        check = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", *header, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bomb(side: int = 30_000) -> bytes:
    """A gigabyte of zeros in a megabyte of file (at the usual side)."""
    packer = zlib.compressobj(9)
    zeros = packer.compress(b"\0" * (side // 8 + 1) * side) + packer.flush()
    return png((side, side, 1, 0), b"").replace(zlib.compress(b""), zeros)


LARGE = (20_000, 25_000)  # more pixels than even a JPEG may have


def announcing(kind: str, size: tuple[int, int] = LARGE) -> bytes:
    """A small picture whose header says that it has this size."""
    width, height = size
    if kind == "PPM":
        return b"P6 %d %d 255\n" % size + bytes(300)
    if kind == "PSD":
        head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, height, width, 8, 3)
        return head + bytes(12) + struct.pack(">H", 0) + bytes(300)
    if kind == "ICO":
        frame = png((width, height, 1, 0), b"")
        return struct.pack("<HHHBBBBHHII", 0, 1, 1, 0, 0, 0, 0, 1, 32, len(frame), 22) + frame
    content = bytearray(encoded(Image.new("RGB", (16, 16), "red"), kind))
    if kind == "TIFF":
        for tag, value in ((256, width), (257, height)):
            at = content.index(struct.pack("<HHI", tag, 4, 1))
            content[at + 8 : at + 12] = struct.pack("<I", value)
        return bytes(content)
    places = {
        "JPEG": (content.find(b"\xff\xc0") + 5, ">HH", size[::-1]),
        "GIF": (6, "<HH", size),
        "BMP": (18, "<ii", size),
        "JPEG2000": (content.find(b"ihdr") + 4, ">II", size[::-1]),
        "AVIF": (content.find(b"ispe") + 8, ">II", size),
    }
    at, form, values = places[kind]
    content[at : at + struct.calcsize(form)] = struct.pack(form, *values)
    return bytes(content)


def webp_of_wrong_size() -> bytes:
    """A WebP of 16 x 16 pixels that says it had 122 million."""
    small = encoded(Image.new("RGB", (16, 16)), "WEBP")
    assert struct.unpack("<HH", small[26:30]) == (16, 16)
    return small[:26] + struct.pack("<HH", 16_000, 7_600) + small[30:]


def gif_with_huge_frame() -> bytes:
    """A GIF whose frame is larger than its screen."""
    gif = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    at = gif.index(b"\x2c")  # the first frame's descriptor: separator, left, top, width, height
    gif[at + 5 : at + 9] = struct.pack("<HH", 30_000, 30_000)
    return bytes(gif)


def tiff_with_huge_tile() -> bytes:
    """A TIFF of 8 x 8 pixels in a tile of 40,000 x 40,000."""
    tags = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, 40_000), (323, 4, 40_000), (324, 4, 8), (325, 4, 4)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0" * 64


def flipped(kind: str, count: int) -> list[bytes]:
    """Small pictures with three bytes near their begin changed; some can still be decoded."""
    draw = np.random.default_rng(1)
    whole = np.frombuffer(encoded(Image.fromarray(noise()), kind), np.uint8)
    pictures = []
    for _ in range(count):
        broken = whole.copy()
        places = draw.integers(0, min(len(broken), 300), 3)
        broken[places] = draw.integers(0, 256, 3)
        pictures.append(broken.tobytes())
    return pictures


def bad_pictures() -> dict[str, bytes]:
    """By name, what no decoder of the project may take."""
    pictures = {
        "empty": b"",
        "text": b"hello, world" * 20,
        "zeros": b"\0" * 500,
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "bomb": bomb(),
        "too wide": png((60_000, 2_100, 1, 0), b""),
        "no pixels": png((600, 900, 1, 0), b""),
        "webp of a wrong size": webp_of_wrong_size(),
        "gif with a huge frame": gif_with_huge_frame(),
        "tiff with a huge tile": tiff_with_huge_tile(),
        "floating point": encoded(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF"),
    }
    for kind in ("PCX", "TGA", "ICNS", "EPS"):
        pictures[f"{kind} is not on the list"] = encoded(Image.new("RGB", (64, 64), "red"), kind)
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        whole = encoded(Image.fromarray(noise(200, 150)), kind)
        pictures[f"half a {kind}"] = whole[: len(whole) // 2]
    for kind in ("GIF", "TIFF", "BMP", "JPEG", "JPEG2000", "AVIF", "PPM", "PSD", "ICO"):
        pictures[f"{kind} of too many pixels"] = announcing(kind)
    return pictures

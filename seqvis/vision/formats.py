"""Recognise file formats by their first bytes, both those that can be opened and some others."""

import re

OPENED = (
    "JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "ICO", "PSD", "PPM",
)  # fmt: skip

_STARTS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\0\0\1\0", "ICO"),
    (b"8BPS\0\1", "PSD"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"FUJIFILMCCD-RAW", "camera raw"),
    (b"IIRO", "camera raw"),
    (b"IIRS", "camera raw"),
    (b"IIU\0", "camera raw"),
    (b"FOVb", "camera raw"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"II\xbc", "JPEG XR"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"8BPS\0\2", "PSB"),
    (b"gimp xcf", "XCF"),
    (b"icns", "ICNS"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"v/1\1", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"SIMPLE  =", "FITS"),
    (b"AT&TFORM", "DjVu"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
)
_BITMAP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)
_PPM = re.compile(rb"P[1-6]\s+(?:#[^\r\n]*[\r\n]+\s*)*\d")
_SVG = re.compile(rb"\s*(?:<\?xml.*?)?(?:<!--.*?-->|<!DOCTYPE svg.*?>|\s)*<svg[\s>]", re.DOTALL)
_HTML = re.compile(rb"\s*<(?:!doctype html|html)\b", re.IGNORECASE)
_HEAD = 1024


def format_of(content: bytes) -> str:
    """Return the format's name, one of `OPENED` or another; "" if it is not known."""
    head = content[:_HEAD].removeprefix(b"\xef\xbb\xbf")
    if head[8:11] == b"CR\2" and head[:4] == b"II*\0":
        return "camera raw"
    for start, name in _STARTS:
        if content.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BITMAP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    if _PPM.match(head):
        return "PPM"
    if _SVG.match(head):
        return "SVG"
    return "web page" if _HTML.match(head) else ""


def _of_brands(head: bytes) -> str:
    """Return the kind of an ISO base media file, by its brand and those it is compatible with."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}:
        return "HEIC"
    return "camera raw" if b"crx " in brands else "video"

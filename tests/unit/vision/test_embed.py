"""What an interrupted embedding keeps, and how a later one goes on from there."""

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from seqvis import artifacts
from seqvis.errors import DataError
from seqvis.storage import Location, locate
from seqvis.vision import feature_table as pieces_module
from seqvis.vision.feature_table import KIND, FeatureTable, Pieces
from seqvis.vision.feature_writer import (
    EMBEDDED,
    NOT_FINITE,
    SAME,
    DecodePictures,
    Known,
    keep_results,
    result_schema,
    write_features,
)
from seqvis.vision.images import DAMAGED
from seqvis.vision.listing import Listing, list_images, list_table
from tests.support.objectstore import Bucket
from tests.support.pictures import encoded, tar_of

DIMENSION = 4
CONFIG = {"backbone": {"name": "x", "sha256": "1"}, "dimension": DIMENSION, "images": "here"}
SCHEMA = result_schema(DIMENSION, False)


def picture(path: str) -> tuple[bytes, list[float]]:
    """A hash and features that say which file they are of."""
    digest = hashlib.sha256(path.encode()).digest()
    return digest, [float(byte) for byte in digest[:DIMENSION]]


def rows(paths: Sequence[str], status: Sequence[str]) -> pa.Table:
    both = [picture(path) for path in paths]
    columns = {
        "status": pa.array(status, pa.string()),
        "format": pa.nulls(len(paths), pa.string()),
        "remedy": ["do" if state not in (EMBEDDED, SAME) else None for state in status],
        "width": [1] * len(paths),
        "height": [1] * len(paths),
        "content_hash": [digest for digest, _ in both],
        "features": pa.array([features for _, features in both], pa.list_(pa.float64(), DIMENSION)),
        "thumbnail": [path.encode() for path in paths],
    }
    return pa.table(columns)


class Work:
    """Embeds the files of a folder without a network, and counts what it had to embed."""

    def __init__(self, images: Path, out: Location, config: dict[str, object] = CONFIG):
        self.listing: Listing = list_images(locate(str(images)))
        self.pieces = Pieces(out, config)
        earlier = None
        with suppress(artifacts.ArtifactError):
            earlier = FeatureTable.open(out)
        self.known = Known.of(self.listing, [self.pieces.earlier(), earlier])
        self.out = out
        self.embedded: list[str] = []

    def results(self, cut: int, status: dict[str, str]) -> Iterator[pa.Table]:
        wanted = np.flatnonzero(~self.known.unchanged)
        paths = self.listing.table["path"].take(wanted).to_pylist()
        for first in range(0, len(paths), 3):
            here = paths[first : first + 3]
            if first >= cut:
                raise KeyboardInterrupt
            self.embedded += here
            yield rows(here, [status.get(path, EMBEDDED) for path in here])

    def run(self, cut: int = 1000, status: dict[str, str] | None = None) -> FeatureTable:
        results = self.results(cut, status or {})
        fates = keep_results(results, self.listing, self.known, self.pieces, SCHEMA)
        with artifacts.create(self.out, KIND, CONFIG) as writer:
            new = Known.of(self.listing, [self.pieces.written()])
            summary = write_features(writer, self.listing, self.known, new, fates, SCHEMA)
            writer.metrics["images"] = summary["images"]
        self.pieces.delete()
        table = FeatureTable.open(self.out)
        for path, features in zip(table.paths, table.features, strict=True):
            assert features.tolist() == picture(path)[1]
        assert table.thumbnails(range(len(table))) == [path.encode() for path in table.paths]
        return table


def test_the_same_pictures_in_any_form_are_decoded_to_the_same(tmp_path: Path) -> None:
    names = ["cat", "dog"]
    datasets = pytest.importorskip("datasets")
    pictures = [encoded(1), encoded(2, "JPEG"), encoded(3)[:300], encoded(4)]
    for number, content in enumerate(pictures):
        path = tmp_path / "folder" / names[number // 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    samples = {f"{number}.png": content for number, content in enumerate(pictures)}
    samples |= {f"{number}.cls": str(number // 2).encode() for number in range(4)}
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "0.tar").write_bytes(tar_of(samples))
    (tmp_path / "shards" / "classes.txt").write_text("cat\ndog\n")
    rows = {
        "image": [{"bytes": content, "path": None} for content in pictures],
        "label": [0, 0, 1, 1],
    }
    columns = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    saved = datasets.Dataset.from_dict(rows, datasets.Features(columns))
    saved.save_to_disk(tmp_path / "dataset")
    uris = [f"folder/{names[number // 2]}/{number}.png" for number in range(4)]
    frame = pd.DataFrame({"uri": uris, "label": ["cat", "cat", "dog", "dog"]})
    listings = [list_images(str(tmp_path / name)) for name in ("folder", "shards/0.tar", "dataset")]
    decoded = []
    for listing in [*listings, list_table(frame, locate(str(tmp_path)), "frame")]:
        assert listing.table["label"].to_pylist() == ["cat", "cat", "dog", "dog"]
        decode = DecodePictures(listing.filesystem, 32, "crop", 10**6)
        unknown = pa.nulls(len(listing), pa.binary())
        decoded.append(decode(listing.table.append_column("known_hash", unknown)))
    assert decoded[0]["status"].to_pylist() == [EMBEDDED, EMBEDDED, DAMAGED, EMBEDDED]
    assert all(table.equals(decoded[0]) for table in decoded)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(20):
        path = tmp_path / "images" / f"label {number % 3}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * (number + 1))
    return tmp_path / "images"


@pytest.fixture
def out(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "features"))


@pytest.mark.parametrize("pause", [0.0, 100.0])
def test_an_interrupted_run_is_gone_on_with_and_ends_as_one_that_was_not(
    images: Path, out: Location, tmp_path: Path, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces_module, "PAUSE_SECONDS", pause)
    whole = Work(images, locate(str(tmp_path / "whole"))).run().artifact.fingerprint()
    done: list[str] = []
    for cut in (6, 9, 3):
        work = Work(images, out)
        with pytest.raises(KeyboardInterrupt):
            work.run(cut)
        assert len(work.embedded) == cut
        done += work.embedded
    work = Work(images, out)
    table = work.run()
    assert len(work.embedded) == 2
    assert sorted(done + work.embedded) == table.paths
    assert table.artifact.fingerprint() == whole
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["features", "images", "whole"]


def test_a_killed_run_loses_nothing_that_it_had_written(images: Path, out: Location) -> None:
    code = (
        "import os, signal, sys\n"
        "from tests.unit.vision import test_embed\n"
        "test_embed.pieces_module.PAUSE_SECONDS = 0\n"
        "class Killed(test_embed.Work):\n"
        "    def results(self, cut, status):\n"
        "        for number, table in enumerate(super().results(cut, status)):\n"
        "            if number == 4:\n"
        "                os.kill(os.getpid(), signal.SIGKILL)\n"
        "            yield table\n"
        "Killed(test_embed.Path(sys.argv[1]), test_embed.locate(sys.argv[2])).run()\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(images), out.path], cwd=Path(__file__).parents[3]
    )
    assert killed.returncode == -signal.SIGKILL
    parts = Path(out.path + ".run") / "features" / "parts"
    (parts / ".half.partial").write_bytes(b"PAR1")  # being written as it was killed
    (parts / "0.parquet").write_bytes(b"PAR1 and no more")  # lost with the machine's memory
    work = Work(images, out)
    assert len(work.run()) == 20
    assert len(work.embedded) == 8


def test_pieces_of_other_settings_and_of_changed_files_are_not_used(
    images: Path, out: Location
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Work(images, out).run(12)
    changed = images / "label 0" / "03.png"
    changed.write_bytes(b"another length")
    other = Work(images, locate(f"{out.path}-2"))
    other.run()
    assert len(other.embedded) == 20
    work = Work(images, out)
    work.run()
    assert len(work.embedded) == 9
    assert "label 0/03.png" in work.embedded
    with pytest.raises(KeyboardInterrupt):
        Work(images, locate(f"{out.path}-3")).run(12)
    work = Work(images, locate(f"{out.path}-3"), CONFIG | {"backbone": {"name": "y"}})
    with pytest.raises(KeyboardInterrupt):
        work.run(15)
    assert len(work.embedded) == 15


def test_an_interrupted_rerun_keeps_what_was_new_beside_the_earlier_features(
    images: Path, out: Location
) -> None:
    Work(images, out).run()
    for number in range(9):
        (images / f"new {number}.png").write_bytes(b"new")
    touched = images / "label 1" / "04.png"
    os.utime(touched, (1, 1))
    with pytest.raises(KeyboardInterrupt):
        Work(images, out).run(6, {"label 1/04.png": SAME})
    assert len(FeatureTable.open(out)) == 20  # as before
    work = Work(images, out)
    same = work.listing.table["path"].to_pylist().index("label 1/04.png")
    assert work.known.content_hash[same].as_py() == picture("label 1/04.png")[0]
    table = work.run(status={"label 1/04.png": SAME, "new 8.png": "not an image"})
    assert len(work.embedded) == 5
    assert len(table) == 28
    assert table.columns(["modified"])["modified"].to_pylist()[same] == 10**9


def test_features_that_are_not_finite_stop_the_run(images: Path, out: Location) -> None:
    with pytest.raises(DataError, match=r"label 0/09\.png: the backbone's features"):
        Work(images, out).run(status={"label 0/09.png": NOT_FINITE})


def test_pieces_may_lie_in_a_bucket(images: Path, bucket: Bucket) -> None:
    out = locate(bucket.uri("features"))
    with pytest.raises(KeyboardInterrupt):
        Work(images, out).run(6)
    work = Work(images, out)
    assert len(work.run()) == 20
    assert len(work.embedded) == 14
    assert not (out.beside(".run")).exists()

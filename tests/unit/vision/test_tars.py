"""Pictures in tar archives: which are listed, where they begin, and what a damaged tar says."""

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from seqvis.errors import DataError
from seqvis.storage import locate
from seqvis.vision.foldertree import COMPRESSED, CONTROLS, NOT_A_FILE, NOT_UTF8
from seqvis.vision.listing import WHERE, LabelFrom, Listing, PictureReader, list_images
from tests.support.objectstore import Bucket
from tests.support.pictures import contents, labels, tar_of

WNID, OTHER = "n01443537", "n02085620"


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))


def listed(path: Path, label_from: LabelFrom = "folder") -> Listing:
    return list_images(locate(str(path)), label_from)


def test_members_are_listed_like_files_in_a_folder(tmp_path: Path) -> None:
    members = {f"dog/{number}.jpg": b"picture %d" % number for number in range(3)}
    hidden = {"./.git/x.jpg": b"", "dog/._1.jpg": b""}
    write_tar(tmp_path / "a" / "pictures.tar", members | hidden | {"../up.JPG": b"", "x": b"y"})
    (tmp_path / "a" / "pictures.tar.jpg").write_bytes(b"a file beside")
    expected = {f"a/pictures.tar/{name}": content for name, content in members.items()}
    expected |= {"a/pictures.tar/up.JPG": b"", "a/pictures.tar/x": b"y"}
    expected |= {"a/pictures.tar.jpg": b"a file beside"}
    listing = listed(tmp_path)
    assert contents(listing) == expected
    assert list(contents(listing)) == sorted(expected)
    assert labels(listing)["a/pictures.tar/dog/1.jpg"] == "dog"
    assert labels(listing)["a/pictures.tar/x"] == "a"  # no tar is a label, but its folder may be
    alone = listed(tmp_path / "a" / "pictures.tar")  # the same ids without its folder
    assert list(contents(alone)) == [name[2:] for name in expected if name.count("/") > 1]


@pytest.mark.parametrize("place", ["", "train"])
def test_a_samples_label_is_its_cls_or_json(tmp_path: Path, place: str) -> None:
    samples = {
        "0": {"cls": b"1\n"},
        "1": {"cls": b"sea lion"},
        "2": {"json": b'{"label": 0, "width": 5}'},
        "3": {"json": json.dumps({"class": 9, "Class-Name": OTHER}).encode()},
        "4": {"cls": b"-1", "txt": b"a caption", "json": b"[]"},
        "5.v2": {"cls": b"0"},
    }
    members = {}
    for key, fields in samples.items():
        members |= {f"{key}.{field}": content for field, content in fields.items()}
        members[f"{key}.jpg"] = b"picture"
    write_tar(tmp_path / place / "train-0.tar", members)
    (tmp_path / "classnames.txt").write_text(f"{WNID} goldfish, Carassius auratus\nmotor boat\n")
    labelled = labels(listed(tmp_path / place))
    labelled.pop("classnames.txt", None)
    assert {path.split("/")[-1]: label for path, label in labelled.items()} == {
        "0.jpg": "motor boat", "1.jpg": "sea lion", "2.jpg": WNID, "3.jpg": OTHER, "4.jpg": "",
        "5.v2.jpg": "",
    }  # fmt: skip
    assert set(labels(listed(tmp_path / place, "none")).values()) == {""}


def test_a_table_beside_the_tars_labels_what_has_no_label_of_its_own(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"1.jpg": b"", "2.jpg": b"", "2.cls": b"cat", "dog/3.jpg": b""})
    (tmp_path / "labels.csv").write_text("file,label\n1.jpg,sea lion\n2.jpg,sea lion\n")
    labelled = labels(listed(tmp_path))
    assert labelled == {
        "labels.csv": "", "x.tar/1.jpg": "sea lion", "x.tar/2.jpg": "cat", "x.tar/dog/3.jpg": "dog",
    }  # fmt: skip


def test_imagenets_tar_of_tars_has_the_label_of_each_inner_one(tmp_path: Path) -> None:
    inner = {f"{wnid}.tar": tar_of({f"{wnid}_1.JPEG": wnid.encode()}) for wnid in (WNID, OTHER)}
    inner["last.tar"] = tar_of({"1.jpg": b"z"})[:1024]  # without the zeros that end a tar
    write_tar(tmp_path / "ILSVRC2012_img_train.tar", inner | {"next.jpg": b"not in last.tar"})
    listing = listed(tmp_path / "ILSVRC2012_img_train.tar")
    top = "ILSVRC2012_img_train.tar"
    assert contents(listing) == {
        f"{top}/{WNID}.tar/{WNID}_1.JPEG": WNID.encode(),
        f"{top}/{OTHER}.tar/{OTHER}_1.JPEG": OTHER.encode(),
        f"{top}/last.tar/1.jpg": b"z",
        f"{top}/next.jpg": b"not in last.tar",
    }
    assert sorted(labels(listing).values()) == ["", "", WNID, OTHER]
    assert labels(listed(tmp_path / top, "name")) == labels(listing)


def test_of_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", {"1.jpg": b"first", "2.jpg": b"two"})
    with tarfile.open(tmp_path / "x.tar", "a") as tar:
        member = tarfile.TarInfo("1.jpg")
        member.size = 6
        tar.addfile(member, io.BytesIO(b"second"))
    assert contents(listed(tmp_path)) == {"x.tar/1.jpg": b"second", "x.tar/2.jpg": b"two"}


def test_members_that_are_no_files_or_have_bad_names_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("1.jpg", "two\nlines.jpg", os.fsdecode(b"caf\xe9.jpg"), "inner.tar.gz"):
            tar.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "1.jpg"
        tar.addfile(link)
    (tmp_path / "y.tgz").write_bytes(b"")
    listing = listed(tmp_path)
    assert contents(listing) == {"x.tar/1.jpg": b""}
    assert listing.aside == (
        ("x.tar/caf\\xe9.jpg", NOT_UTF8),
        ("x.tar/inner.tar.gz", COMPRESSED),
        ("x.tar/link.jpg", NOT_A_FILE),
        ("x.tar/two\\nlines.jpg", CONTROLS),
        ("y.tgz", COMPRESSED),
    )


GOOD = tar_of({"000.jpg": b"a" * 2000, "001.jpg": b"b" * 2000, "002.jpg": b"c" * 700})
NAMED_9 = tar_of({"0.jpg": b"", "0.cls": b"9"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:2000], r"damaged in or after its member 000\.jpg, near byte \d+; copy it"),
        (GOOD[:2800], r"damaged in or after its member 000\.jpg, near byte 2560; copy it"),
        (GOOD[:2600] + b"x" + GOOD[2601:], r"after its member 000\.jpg, near byte 2560"),
        (b"no tar" * 100, "is cut off or damaged at its beginning"),
        (b"", "is cut off or damaged at its beginning"),
        (b"\x1f\x8b\x08" + GOOD, r"is compressed \(gzip\) in spite of its name; unpack it"),
        (tar_of({"in.tar": GOOD[:2000]}), r"x\.tar/in\.tar: is cut off .* 000\.jpg, near byte"),
        (NAMED_9, r"x\.tar/0\.jpg: its class is the number 9: put classes\.txt, with .* none"),
        (tar_of({"0.json": b"{]"}), r"x\.tar/0\.json: its label cannot be read .*label-from none"),
        (tar_of({"0.cls": b"\xff"}), r"x\.tar/0\.cls: its label cannot be read .*utf-8"),
        (tar_of({}), r"holds no images"),
    ],
)
def test_a_damaged_tar_or_label_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    for place in (tmp_path, tmp_path / "x.tar"):
        with pytest.raises(DataError, match=message) as raised:
            listed(place)
        assert str(tmp_path) in str(raised.value)


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(NAMED_9)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"number 9: .*classes\.txt has names for 0 to 1 only"):
        listed(tmp_path)
    assert len(listed(tmp_path, "none")) == 2


def test_a_compressed_tar_alone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(DataError, match=r"x\.tar\.gz: .*compressed.*unpack it"):
        listed(tmp_path / "x.tar.gz")


def test_tars_in_a_bucket_are_listed_and_read_in_place(bucket: Bucket) -> None:
    bucket.put("shards/val-0.tar", tar_of({"0.jpg": b"x" * 100_000, "0.cls": b"0", "1.jpg": b"y"}))
    bucket.put("shards/classes.txt", b"dog\n")
    for place in ("shards", "shards/val-0.tar"):
        listing = list_images(locate(bucket.uri(place)))
        pictures = {name: content for name, content in contents(listing).items() if ".tar/" in name}
        assert pictures == {"val-0.tar/0.jpg": b"x" * 100_000, "val-0.tar/1.jpg": b"y"}
        assert labels(listing)["val-0.tar/0.jpg"] == "dog"


class CountingFilesystem:
    """The local file system; it remembers which files were opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open_input_file(self, place: str) -> Any:
        self.opened.append(Path(place).name)
        return fs.LocalFileSystem().open_input_file(place)

    open_input_stream = open_input_file


def test_a_tar_is_opened_once_for_neighbours(tmp_path: Path) -> None:
    for tar in ("0.tar", "1.tar"):
        write_tar(tmp_path / tar, {f"{n}.jpg": f"{tar} {n}".encode() * 9 for n in range(50)})
    (tmp_path / "2.jpg").write_bytes(b"a file of its own")
    listing = listed(tmp_path)
    filesystem = CountingFilesystem()
    reader = PictureReader(filesystem)
    rows = listing.table.select(WHERE).to_pylist()
    assert [reader.read(**row) for row in rows] == list(contents(listing).values())
    assert filesystem.opened == ["0.tar", "1.tar", "2.jpg"]
    assert reader.read(**rows[3]) == contents(listing)["0.tar/11.jpg"]  # in any order

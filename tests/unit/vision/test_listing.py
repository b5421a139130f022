"""Which files a folder of pictures has, and which labels its layout gives them."""

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import fs

from seqvis.errors import DataError
from seqvis.storage import locate
from seqvis.vision.foldertree import (
    CONTROLS,
    DANGLING,
    LINK_UPWARD,
    NOT_A_FILE,
    NOT_UTF8,
    SAME_FILE,
    SAME_FOLDER,
    UNREADABLE,
)
from seqvis.vision.layouts import split_of
from seqvis.vision.listing import WHERE, Listing, list_images, list_table, read_picture
from tests.support.objectstore import Bucket

WNID, OTHER = "n01443537", "n02085620"


def write(folder: Path, *paths: str, content: bytes = b"picture") -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def listed(folder: Path) -> Listing:
    return list_images(locate(str(folder)))


def paths(listing: Listing) -> list[str]:
    return list(listing.table["path"].to_pylist())


def labels(folder: Path) -> dict[str, str]:
    table = listed(folder).table
    return dict(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_a_row_says_which_bytes_of_which_file_are_its_picture(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", content=b"the whole file")
    listing = listed(tmp_path)
    (row,) = listing.table.select(WHERE).to_pylist()
    assert read_picture(listing.filesystem, **row) == b"the whole file"
    assert read_picture(listing.filesystem, **row, most=3) == b"the"
    assert read_picture(listing.filesystem, row["place"], 4, 5) == b"whole"
    with pytest.raises(FileNotFoundError):
        read_picture(fs.LocalFileSystem(), str(tmp_path / "2.jpg"), 0, 1)


# Links and names


def test_names_that_are_not_utf8_are_set_aside_and_the_rest_is_listed(tmp_path: Path) -> None:
    write(tmp_path, "dog/é.jpg", "dog/two\nlines.jpg", f"dog/{'x' * 251}.jpg")
    for name in (b"dog/caf\xe9.jpg", b"\xff\xfe/inside.jpg"):
        place = os.fsencode(tmp_path) + b"/" + name
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(b"picture")
    listing = listed(tmp_path)
    assert paths(listing) == [f"dog/{'x' * 251}.jpg", "dog/é.jpg"]
    assert listing.aside == (
        ("\\xff\\xfe/inside.jpg", NOT_UTF8),
        ("dog/caf\\xe9.jpg", NOT_UTF8),
        ("dog/two\\nlines.jpg", CONTROLS),
    )
    os.symlink(os.fsencode(tmp_path) + b"/dog/caf\xe9.jpg", tmp_path / "dog" / "coffee.jpg")
    assert "dog/coffee.jpg" in paths(listed(tmp_path))  # a good name for it


def test_a_tables_uris_are_named_without_dots(tmp_path: Path) -> None:
    write(tmp_path, "photos/x.jpg", "tables/a/y.jpg", "tables/z.jpg")
    uris = ["../photos/x.jpg", "./a/y.jpg", "a/../z.jpg"]
    table = tmp_path / "tables" / "pictures.csv"
    table.write_text("uri,label\n" + "".join(f"{uri},dog\n" for uri in uris))
    rows = listed(table).table
    assert rows["path"].to_pylist() == [f"{tmp_path}/photos/x.jpg", "a/y.jpg", "z.jpg"]
    assert min(rows["size"].to_pylist()) > 0
    table.write_text("uri\nz.jpg\n./z.jpg\n")
    with pytest.raises(DataError, match=r"row 2 names z\.jpg again"):
        listed(table)
    table.write_text('uri\n"two\nlines.jpg"\n')
    with pytest.raises(DataError, match=r"row 1: .*control character; rename it"):
        listed(table)


def test_a_data_frame_is_listed_like_the_same_table_in_a_file(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "2.jpg", content=b"picture")
    frame = pd.DataFrame({"uri": ["a/1.jpg", "2.jpg", "gone.jpg"], "year": [1999, 2001, 2020]})
    frame["label"] = pd.Categorical(["dog", None, "motor boat"])
    frame.to_parquet(tmp_path / "list.parquet")
    folder = locate(str(tmp_path))
    expected = listed(tmp_path / "list.parquet").table
    assert list_table(frame[frame.year > 0], folder, "frame").table.equals(expected)
    assert list_table(pa.Table.from_pandas(frame), folder, "frame").table.equals(expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file": ["1.jpg"]}, r"frame: has no column uri \(it has file\); a table of images needs"),
        ({"uri": []}, "frame: names no images"),
        ({"uri": ["1.jpg", None]}, "frame: row 2 has no uri"),
        ({"uri": ["1.jpg", "1.jpg"]}, r"frame: row 2 names 1\.jpg again; name each file once"),
        ({"uri": ["1.jpg"], "size": [1]}, "frame: rename its column size, seqvis writes one"),
        ({"uri": ["1.jpg"], "x": [Path("x")]}, r"frame: .*; each column needs .* of one kind, uri"),
        ({"uri": ["1.jpg", "s3://b/2.jpg"]}, "are not in the same place; make a table for each"),
    ],
)
def test_a_bad_data_frame_is_refused(
    tmp_path: Path, columns: dict[str, list[object]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        list_table(pd.DataFrame(columns), locate(str(tmp_path)), "frame")


def test_a_folder_whose_own_name_is_not_utf8_has_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    monkeypatch.chdir(os.fsdecode(folder))
    for given in (".", os.fsdecode(folder)):
        with pytest.raises(DataError, match=r"caf\\xe9: this name is not UTF-8; rename it"):
            locate(given)


def test_link_cycles_list_each_file_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write(root, "a/1.jpg", "b/deep/2.jpg")
    write(tmp_path, "beside/3.jpg")
    (root / "a" / "up").symlink_to("..")
    (root / "a" / "itself").symlink_to(".")
    (root / "b" / "above").symlink_to(tmp_path)
    (root / "b" / "across").symlink_to("../a")
    (root / "b" / "loop").symlink_to("loop")
    (tmp_path / "beside" / "back").symlink_to(root)
    (root / "outside").symlink_to(tmp_path / "beside")
    listing = listed(root)
    assert paths(listing) == ["a/1.jpg", "b/deep/2.jpg", "outside/3.jpg"]
    assert dict(listing.aside) == {
        "a/up": LINK_UPWARD,
        "a/itself": LINK_UPWARD,
        "b/above": LINK_UPWARD,
        "b/across": SAME_FOLDER,
        "b/loop": DANGLING,
        "outside/back": SAME_FOLDER,
    }


def test_a_file_of_several_names_is_listed_once_by_its_own(tmp_path: Path) -> None:
    write(tmp_path, "b/own.jpg", "z/other.jpg")
    os.link(tmp_path / "b" / "own.jpg", tmp_path / "c.jpg")
    (tmp_path / "a.jpg").symlink_to("z/other.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    listing = listed(tmp_path)
    assert paths(listing) == ["b/own.jpg", "z/other.jpg"]
    assert listing.aside == (("a.jpg", SAME_FILE), ("c.jpg", SAME_FILE), ("gone.jpg", DANGLING))


def test_links_out_of_the_tree_are_followed(tmp_path: Path) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    write(disk, "one.jpg", "folder/two.jpg", "folder/.hidden.jpg")
    root.mkdir()
    (root / "cat").symlink_to(disk / "folder")
    (root / "first.jpg").symlink_to(disk / "one.jpg")
    (root / "second.jpg").symlink_to(disk / "one.jpg")
    listing = listed(root)
    assert paths(listing) == ["cat/two.jpg", "first.jpg"]
    assert listing.aside == (("second.jpg", SAME_FILE),)
    (tmp_path / "entrance").symlink_to(root)
    assert paths(listed(tmp_path / "entrance")) == paths(listing)


def test_what_is_no_file_or_is_closed_is_set_aside(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg", "closed/2.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        aside = dict(listed(tmp_path).aside)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert aside.pop("pipe.jpg") == NOT_A_FILE
    assert aside == ({"closed": UNREADABLE} if os.geteuid() else {})


def test_a_folder_of_nothing_but_dangling_links_is_no_folder_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        listed(tmp_path)
    (tmp_path / "x.jpg").symlink_to("nowhere.jpg")
    assert len(listed(tmp_path)) == 0


def test_a_bucket_is_listed_and_labelled_like_a_folder(bucket: Bucket) -> None:
    for name in ("val/images/a.jpg", "val/.hidden/b.jpg", f"train/{WNID}/images/c.jpg"):
        bucket.put(f"photos/{name}", b"picture")
    bucket.put("photos/val/val_annotations.txt", f"a.jpg\t{OTHER}\t0\t0\t9\t9\n".encode())
    table = list_images(locate(bucket.uri("photos"))).table
    labelled = dict(zip(table["path"].to_pylist(), table["label"].to_pylist(), strict=True))
    labelled.pop("val/val_annotations.txt")
    assert labelled == {"val/images/a.jpg": OTHER, f"train/{WNID}/images/c.jpg": WNID}


# Labels from layouts


def test_a_wnid_at_a_names_beginning_is_the_label(tmp_path: Path) -> None:
    write(tmp_path, f"{OTHER}-Chihuahua/1.jpg", f"Train/{WNID} goldfish/2.jpg", f"{WNID}s/3.jpg")
    assert list(labels(tmp_path).values()) == [WNID, f"{WNID}s", OTHER]
    table = list_images(locate(str(tmp_path)), "none").table
    assert set(table["label"].to_pylist()) == {""}


def test_folders_of_a_split_or_of_nothing_but_images_are_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "valid/train/g.jpg")
    assert labels(tmp_path) == {"valid/train/g.jpg": "train"}  # the vehicle
    (tmp_path / "valid" / "train" / "g.jpg").unlink()
    names = ["val2017/a.jpg", "images/b.jpg", "set/Test/images/c.jpg", "Data/CLS-LOC/test/d.jpg"]
    write(tmp_path, *names, "validation/crash test/e.jpg", "train/data/dog/images/f.jpg")
    labelled = labels(tmp_path)
    assert [labelled.pop(name) for name in names] == [""] * 4
    assert set(labelled.values()) == {"crash test", "dog"}


def imagenet(root: Path) -> Path:
    data = root / "ILSVRC/Data/CLS-LOC"
    write(data, f"train/{WNID}/{WNID}_1.JPEG", "test/ILSVRC2012_test_00000001.JPEG")
    write(data, "val/ILSVRC2012_val_00000001.JPEG", "val/ILSVRC2012_val_00000002.JPEG")
    return data


@pytest.mark.parametrize("start", [".", "ILSVRC", "ILSVRC/Data/CLS-LOC", "ILSVRC/Data/CLS-LOC/val"])
@pytest.mark.parametrize("with_solution", [True, False])
def test_ilsvrcs_validation_pictures_have_the_labels_of_its_solution_or_annotations(
    tmp_path: Path, start: str, with_solution: bool
) -> None:
    imagenet(tmp_path)
    if with_solution:
        solution = "ImageId,PredictionString\n"
        solution += f"ILSVRC2012_val_00000001,{OTHER} 10 20 30 40 {WNID} 1 2 3 4 \n"
        solution += f"ILSVRC2012_val_00000002,{WNID} 10 20 30 40 \n"
        (tmp_path / "LOC_val_solution.csv").write_text(solution)
    else:
        for number, wnid in ((1, OTHER), (2, WNID)):
            text = (
                f"<annotation><folder>val</folder><object><name>{wnid}</name></object></annotation>"
            )
            name = f"ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_0000000{number}.xml"
            write(tmp_path, name, content=text.encode())
    labelled = {path.rsplit("/", 1)[-1]: label for path, label in labels(tmp_path / start).items()}
    assert labelled["ILSVRC2012_val_00000001.JPEG"] == OTHER
    assert labelled["ILSVRC2012_val_00000002.JPEG"] == WNID
    assert labelled.get("ILSVRC2012_test_00000001.JPEG", "") == ""
    assert labelled.get(f"{WNID}_1.JPEG", WNID) == WNID


@pytest.mark.parametrize("start", ["", "val", "val/images"])
def test_tiny_imagenet_as_published_has_the_labels_of_its_annotations(
    tmp_path: Path, start: str
) -> None:
    tiny = tmp_path / "tiny-imagenet-200"
    write(tiny, f"train/{WNID}/images/{WNID}_0.JPEG", "val/images/val_0.JPEG", "test/images/t.JPEG")
    write(tiny, f"train/{WNID}/{WNID}_boxes.txt", content=f"{WNID}_0.JPEG\t0\t1\t2\t3\n".encode())
    text = f"val_0.JPEG\t{OTHER}\t0\t32\t44\t62\r\nval_1.JPEG\t{WNID}\t52\t55\t57\t59\r\n"
    write(tiny, "val/val_annotations.txt", content=text.encode())
    labelled = {path.rsplit("/", 1)[-1]: label for path, label in labels(tiny / start).items()}
    assert labelled["val_0.JPEG"] == OTHER
    assert labelled.get("t.JPEG", "") == ""
    assert labelled.get(f"{WNID}_0.JPEG", WNID) == WNID


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train_labels.csv", "id,label\n1,dog\n2.jpg,sea lion\n"),
        ("labels.csv", "breed;file_name\ndog;train/1.jpg\nsea lion;./train/2.jpg\n"),
        ("train.csv", "\ufeffImage Path,Width,Category\n1.jpg,9,dog\n2.jpg,9,sea lion\n"),
        ("metadata.tsv", "1\tdog\n2\tsea lion\n3\tdog\n"),
        ("train_labels.txt", 'image,phylum\n1,dog\n2,"sea lion"\n5,dog\n'),
    ],
)
def test_a_table_of_files_and_labels_labels_what_has_no_folder_of_its_own(
    tmp_path: Path, name: str, text: str
) -> None:
    write(tmp_path, "train/1.jpg", "train/2.jpg", "test/1.jpg", "train/cat/3.jpg", "train/4.jpg")
    (tmp_path / name).write_text(text, encoding="utf-8")
    expected = {"train/1.jpg": "dog", "train/2.jpg": "sea lion", "test/1.jpg": ""}
    expected |= {"train/cat/3.jpg": "cat", "train/4.jpg": ""}
    labelled = labels(tmp_path)
    assert {path: labelled[path] for path in expected} == expected
    below = labels(tmp_path / "train")
    assert (below["1.jpg"], below["2.jpg"], below["4.jpg"]) == ("dog", "sea lion", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "x/1.jpg,a\n"),  # names no picture here
        ("labels.csv", "1,dog\n"),  # two pictures have this name
        ("metadata.csv", "file_name,text\na/1.jpg,A dog runs\nb/1.jpg,A cat sleeps\n"),
        ("val_labels.csv", "id,label\na/1,dog\n"),
        ("labels.csv", ""),
        ("notes.csv", "file,label\na/1.jpg,dog\n"),
    ],
)
def test_a_table_that_does_not_say_which_picture_is_what_labels_nothing(
    tmp_path: Path, name: str, text: str
) -> None:
    write(tmp_path, "train/images/1.jpg", "test/images/1.jpg")
    (tmp_path / name).write_text(text.replace("a/", "train/images/").replace("b/", "test/images/"))
    if text == "1,dog\n":  # of which only train's can be meant
        (tmp_path / "train").rename(tmp_path / "valid")
    labelled = labels(tmp_path)
    assert {label for path, label in labelled.items() if path.endswith("jpg")} == {""}


def test_a_paths_innermost_split_counts() -> None:
    cases = {
        "train/cat/1.jpg": "train",
        "VAL/1.jpg": "valid",
        "dev/1.jpg": "valid",
        "ILSVRC2012_img_val/x.JPEG": "valid",
        "home/test/train2017/dog/1.jpg": "train",
        "s3://bucket/testing/images/1.jpg": "test",
        "valid.jpg": None,
        "crash test/1.jpg": None,
        "trainers/1.jpg": None,
        "valid/train/1.jpg": "valid",
        "train/test/images/1.jpg": "train",
        "imagenet-val-0012.tar/1.jpg": "valid",
        "train.tar/dog/1.jpg": "train",
        "trainers.tar/1.jpg": None,
    }
    assert {path: split_of(path) for path in cases} == cases

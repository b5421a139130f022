"""Pictures in Hugging Face datasets: rows, labels, splits, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqvis.errors import ConfigError, DataError, StorageError
from seqvis.storage import locate
from seqvis.vision.listing import list_images
from tests.support.objectstore import Bucket
from tests.support.pictures import contents, encoded, labels

datasets = pytest.importorskip("datasets")

WNID = "n01443537"
IMAGE = {"_type": "Image"}
TWO = {"_type": "ClassLabel", "names": ["motor boat", f"{WNID} goldfish"]}


def save(folder: Path, features: dict[str, Any], **columns: list[Any]) -> Path:
    """A dataset of one file, as `save_to_disk` writes it."""
    folder.mkdir(parents=True)
    kinds = {"Image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
    arrays = {
        name: pa.array(values, kinds.get(features.get(name, {}).get("_type")))
        for name, values in columns.items()
    }
    table = pa.table(arrays).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    with pa.ipc.new_stream(folder / "data.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
        writer.write_batch(pa.RecordBatch.from_pylist([], table.schema))
    state = {"_data_files": [{"filename": "data.arrow"}], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def picture(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": content, "path": path}


def test_a_saved_datasets_rows_are_read_where_they_lie(tmp_path: Path) -> None:
    rows = {
        "image": [{"bytes": encoded(n), "path": f"{WNID}_{n}.JPEG"} for n in range(7)],
        "label": [n % 2 for n in range(7)],
    }
    kinds = datasets.ClassLabel(names=["motor boat", "sea lion"])
    features = datasets.Features({"image": datasets.Image(), "label": kinds})
    whole = datasets.Dataset.from_dict(rows, features)
    parts = {"train": whole.select(range(2, 7)), "validation": whole.select(range(2))}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "set", num_shards={"train": 2})
    listing = list_images(str(tmp_path / "set"))
    expected = {f"train/{n:08d}": encoded(n + 2) for n in range(5)}
    expected |= {f"validation/{n:08d}": encoded(n) for n in range(2)}
    assert contents(listing) == expected
    assert labels(listing)["train/00000003"] == "sea lion"
    assert set(labels(list_images(str(tmp_path / "set"), "none")).values()) == {""}
    assert set(labels(list_images(str(tmp_path / "set"), "name")).values()) == {WNID}
    validation = list_images(str(tmp_path / "set"), split="validation")
    assert list(contents(validation)) == ["validation/00000000", "validation/00000001"]
    assert validation.table["modified"].to_pylist()[0] > 0


def test_a_dataset_by_name_may_keep_its_pictures_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for name in ("train/cat/1.png", "train/dog/2.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        (tmp_path / "set" / name).write_bytes(name.encode())
    listing = list_images(f"hf://{tmp_path}/set", split="train")
    assert contents(listing) == {
        "train/00000000": b"train/cat/1.png",
        "train/00000001": b"train/dog/2.png",
    }
    assert list(labels(listing).values()) == ["cat", "dog"]
    with pytest.raises(DataError, match=r"hf://no/such/set: .*cannot load it .*save_to_disk"):
        list_images("hf://no/such/set")


def test_rows_without_a_picture_or_a_label_stay_in_their_places(tmp_path: Path) -> None:
    rows = [picture(b"0"), None, picture(None), picture(b""), picture(None, "gone.png")]
    place = save(
        tmp_path / "set", {"image": IMAGE, "kind": TWO}, image=rows, kind=[1, 0, -1, None, 0]
    )
    listing = list_images(str(place))
    assert listing.table["size"].to_pylist() == [1, -1, -1, 0, -1]
    assert listing.table["path"].to_pylist() == [f"{n:08d}" for n in range(5)]
    assert list(labels(listing).values()) == [WNID, "motor boat", "", "", "motor boat"]
    with pytest.raises(DataError, match="no file's name starts with a WordNet id"):
        list_images(str(place), "name")


def test_a_dataset_in_a_bucket_is_read_in_place(tmp_path: Path, bucket: Bucket) -> None:
    place = save(tmp_path / "set", {"image": IMAGE}, image=[picture(b"0"), picture(b"11")])
    for path in place.iterdir():
        bucket.put(f"set/{path.name}", path.read_bytes())
    assert contents(list_images(bucket.uri("set"))) == {"00000000": b"0", "00000001": b"11"}


ONE = [picture(b"0")]


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        ({}, {"text": ["a"]}, r"has no column of pictures \(it has text\); make one with"),
        ({"a": IMAGE, "b": IMAGE}, {"a": ONE, "b": ONE}, "its pictures may be those of a or b; re"),
        ({"image": IMAGE}, {"image": ONE, "label": [3]}, r"column label holds int64.*ClassLabel"),
        (
            {"image": IMAGE, "fine": TWO, "coarse": TWO},
            {"image": ONE, "fine": [0], "coarse": [0]},
            r"its labels may be those of fine or coarse; .* or use --label-from none",
        ),
        ({"image": IMAGE}, {"image": []}, "holds no images; give a dataset or split that has rows"),
    ],
)
def test_a_dataset_that_does_not_say_what_is_what_is_refused(
    tmp_path: Path, features: dict[str, Any], columns: dict[str, list[Any]], message: str
) -> None:
    place = save(tmp_path / "set", features, **columns)
    with pytest.raises(DataError, match=message) as raised:
        list_images(str(place))
    assert str(place) in str(raised.value)


def test_a_damaged_dataset_is_named_with_the_row(tmp_path: Path) -> None:
    place = save(tmp_path / "set", {"image": IMAGE}, image=[picture(b"x" * 999)] * 5)
    arrow = place / "data.arrow"
    whole = arrow.read_bytes()
    arrow.write_bytes(whole[:3000])
    with pytest.raises(DataError, match=r"data\.arrow: is cut off or damaged after row 2 of its"):
        list_images(str(place))
    arrow.write_bytes(b"no arrow file")
    with pytest.raises(DataError, match=r"data\.arrow: is cut off or damaged after row 0"):
        list_images(str(place))
    arrow.unlink()
    with pytest.raises(StorageError, match=r"data\.arrow: cannot be read"):
        list_images(str(place))
    (place / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"state\.json is damaged.*; save the dataset again"):
        list_images(str(place))
    (place / "state.json").unlink()
    with pytest.raises(
        DataError, match=r"set: has dataset_info\.json but no state\.json, .*; give"
    ):
        list_images(str(place))


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    alone = save(tmp_path / "one", {"image": IMAGE}, image=ONE)
    with pytest.raises(DataError, match=r"one: has no split train \(nor any other\); leave it out"):
        list_images(str(alone), split="train")
    for name in ("train", "test"):
        save(tmp_path / "set" / name, {"image": IMAGE}, image=ONE)
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test", "dev"]}')
    with pytest.raises(DataError, match=r"or names a split that is not there"):
        list_images(str(tmp_path / "set"))
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(DataError, match=r"has no split valid \(it has train, test\); give one of"):
        list_images(str(tmp_path / "set"), split="valid")
    with pytest.raises(ConfigError, match=r"--split train: .* is no Hugging Face dataset"):
        list_images(locate(str(tmp_path)), split="train")

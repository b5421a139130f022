"""build_index through its main: what is built, which columns are kept, what is refused."""

import datetime
import decimal
import io
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import build_index, search
from jobs import collection as keep
from seqvis import artifacts
from seqvis.collection.collection import Collection
from seqvis.collection.index import Backend
from seqvis.vision.backbones import load_backbone
from seqvis.vision.feature_table import FeatureTable
from tests.support.searching import World, draw, embed_to
from tests.unit.conftest import Job


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Path:
    """A collection that a test may change."""
    return world.copy_collection(tmp_path)


def build_flags(world: World, out: Path, *more: object) -> list[object]:
    return ["--model", world.model, "--features", world.features, "--out", out, *more]


@pytest.mark.parametrize("backend", get_args(Backend))
def test_a_collection_is_built_and_its_recall_reported(
    backend: str, world: World, tmp_path: Path, job: Job
) -> None:
    code, result, _ = job(
        build_index.main,
        *build_flags(world, tmp_path / "c", "--backend", backend, "--index.exact-below", 10),
    )
    assert code == 0
    assert (result["items"], result["left_out"], result["dimension"]) == (72, 0, 12)
    assert result["backend"] == backend
    assert result["recall@10"] >= 0.99
    assert result["seconds"] > 0
    with Collection.open(tmp_path / "c", read_only=True) as collection:
        assert set(collection.ids()) == set(world.pictures)
        item = collection.get("000030.jpg")
        assert item is not None
        assert item.metadata["name"] == "boat"
        assert item.thumbnail


def test_further_columns_become_metadata(world: World, tmp_path: Path, job: Job) -> None:
    flags = build_flags(world, tmp_path / "c", "--columns", "size")
    assert job(build_index.main, *flags)[0] == 0
    with Collection.open(tmp_path / "c", read_only=True) as collection:
        item = collection.get("000000.jpg")
        assert item is not None
        assert item.metadata["size"] == 1
    code, _, error = job(
        build_index.main, *build_flags(world, tmp_path / "d", "--columns", "colour")
    )
    assert code == 1
    assert "has no column colour" in error
    assert not (tmp_path / "d").exists()


def with_columns(world: World, out: Path, columns: dict[str, Any]) -> Path:
    """The world's features with further columns, as a table of images brings them."""
    table = FeatureTable.open(str(world.features))
    rows = pq.read_table(io.BytesIO((world.features / "parts/part-00000.parquet").read_bytes()))
    for name, values in columns.items():
        rows = rows.append_column(name, values)
    with artifacts.create(str(out), "features", table.artifact.config) as writer:
        content = io.BytesIO()
        pq.write_table(rows, content)
        writer.path("parts/part-00000.parquet").write_bytes(content.getvalue())
        writer.metrics["images"] = len(rows)
    return out


HOUR = datetime.timezone(datetime.timedelta(hours=1))
KINDS: dict[str, tuple[pa.DataType, Any, Any, list[str]]] = {
    # column: Arrow's type, a value, what it becomes, texts that find it
    "day": (pa.date32(), datetime.date(2024, 2, 29), "2024-02-29", ["2024-02-29"]),
    "day64": (pa.date64(), datetime.date(1969, 1, 1), "1969-01-01", ["1969-01-01"]),
    "taken": (
        pa.timestamp("s"),
        datetime.datetime(2024, 1, 2, 3, 4, 5),
        "2024-01-02T03:04:05",
        ["2024-01-02T03:04:05"],
    ),
    "nanos": (
        pa.timestamp("ns"),
        1_000_000_001,
        "1970-01-01T00:00:01.000000001",
        ["1970-01-01T00:00:01.000000001"],
    ),
    "zoned": (
        pa.timestamp("us", "+01:00"),
        datetime.datetime(2024, 1, 2, 3, tzinfo=HOUR),
        "2024-01-02T03:00:00+01:00",
        ["2024-01-02T03:00:00+01:00"],
    ),
    "clock": (pa.time32("s"), datetime.time(3, 4), "03:04:00", ["03:04:00"]),
    "lasted": (pa.duration("ms"), datetime.timedelta(seconds=90), 90.0, ["90", "90.0"]),
    "price": (pa.decimal128(8, 2), decimal.Decimal("12.50"), 12.5, ["12.5", "12.50"]),
    "exact": (
        pa.decimal128(30, 5),
        decimal.Decimal("1234567890123456789.12345"),
        "1234567890123456789.12345",
        ["1234567890123456789.12345"],
    ),
    "hash": (pa.binary(), b"\x00\xff\n", "00ff0a", ["00ff0a"]),
    "unknown": (pa.float64(), float("nan"), None, ["null"]),
    "endless": (pa.float32(), float("-inf"), "-inf", ["-inf"]),
    "share": (pa.float32(), 0.1, 0.1, ["0.1", ".10"]),
    "half": (pa.float16(), np.float16(0.5), 0.5, [".5", "0.50", "5e-1"]),
    "code": (pa.int64(), 1234, 1234, ["1234", "01234", "1234.0"]),
    "flag": (pa.bool_(), True, True, ["true", "True", "TRUE"]),
    "kind": (pa.dictionary(pa.int8(), pa.string()), "red", "red", ["red"]),
    "tags": (pa.list_(pa.string()), ["a", "b=c, d"], ["a", "b=c, d"], ["a", "b=c, d"]),
    "years": (pa.list_(pa.date32()), [datetime.date(2024, 1, 1)], ["2024-01-01"], ["2024-01-01"]),
    "shares": (pa.list_(pa.float32()), [0.5, float("nan")], [0.5, None], [".5", "null"]),
    "camera": (
        pa.struct({"make": pa.string(), "since": pa.date32()}),
        {"make": "X", "since": datetime.date(2020, 1, 1)},
        {"make": "X", "since": "2020-01-01"},
        ['{"since": "2020-01-01", "make": "X"}'],
    ),
    "pairs": (pa.map_(pa.int8(), pa.string()), [(1, "x")], [[1, "x"]], ['[1.0, "x"]']),
    "title": (pa.string(), 'Paris, "=France"', 'Paris, "=France"', ['Paris, "=France"']),
    "empty": (pa.null(), None, None, ["null"]),
    "name": (pa.string(), "my name", "my name", ["my name"]),
}


def test_columns_of_every_kind_become_metadata_that_filters_find(
    world: World, tmp_path: Path, job: Job
) -> None:
    columns = {
        name: pa.array([value, *[None] * 71], kind) for name, (kind, value, _, _) in KINDS.items()
    }
    features = with_columns(world, tmp_path / "features", columns)
    flags = [flag for name in KINDS for flag in ("--columns", name)]
    code, _, error = job(
        build_index.main,
        *("--model", world.model, "--features", features, "--out", tmp_path / "c", *flags),
    )
    assert code == 0, error
    with Collection.open(tmp_path / "c") as collection:
        item = collection.get("000000.jpg")
        assert item is not None
        assert {name: item.metadata[name] for name in KINDS} == {
            name: stored for name, (_, _, stored, _) in KINDS.items()
        }
        for name, (_, _, _, texts) in KINDS.items():
            for text in texts:
                where = search._filters([f"{name}={text}"])
                ids = {match.id for match in collection.search(item.vector, 99, where)}
                assert "000000.jpg" in ids, (name, text)
                assert len(ids) == 1 or text == "null"
        collection.delete(list(collection.ids()))
    code, result, error = job(
        keep.main, "--collection", tmp_path / "c", "--add", features, "--columns", "taken"
    )
    assert (code, result["added"]) == (0, 72), error


@pytest.mark.parametrize(
    ("kind", "value"),
    [(pa.timestamp("s"), 10**13), (pa.date32(), 10**8), (pa.timestamp("s", "Mars/Base"), 1)],
)
def test_a_date_that_does_not_exist_is_an_error_that_names_the_column(
    kind: pa.DataType, value: int, world: World, tmp_path: Path, job: Job
) -> None:
    columns = {"taken": pa.array([value] * 72, kind)}
    features = with_columns(world, tmp_path / "features", columns)
    flags = ["--model", world.model, "--features", features, "--out", tmp_path / "c"]
    code, _, error = job(build_index.main, *flags, "--columns", "taken")
    assert code == 1
    assert "column taken has a value of the type" in " ".join(error.split())
    assert "Traceback" not in error
    assert job(build_index.main, *flags, "--recall-queries", 0)[0] == 0


def test_features_of_another_backbone_are_refused(world: World, tmp_path: Path, job: Job) -> None:
    other = load_backbone("efficientnet_lite0", image_size=96)
    embed_to(tmp_path / "features", other, ["n02084071"], [draw(0, 1)])
    code, _, error = job(
        build_index.main,
        *("--model", world.model, "--features", tmp_path / "features", "--out", tmp_path / "c"),
    )
    assert code == 1
    assert "at 96 pixels" in error
    assert "efficientnet_lite0 at 64 pixels" in error


def test_a_feature_that_is_not_finite_stops_the_build_and_the_old_collection_stays(
    world: World, copy: Path, tmp_path: Path, job: Job
) -> None:
    table = FeatureTable.open(str(world.features))
    rows = pq.read_table(io.BytesIO((world.features / "parts/part-00000.parquet").read_bytes()))
    features = table.features.copy()
    features[41, 3] = np.nan
    with artifacts.create(str(tmp_path / "f"), "features", table.artifact.config) as writer:
        column = type(rows["features"].combine_chunks()).from_arrays(
            features.astype(np.float16).reshape(-1), features.shape[1]
        )
        content = io.BytesIO()
        place = rows.column_names.index("features")
        pq.write_table(rows.set_column(place, "features", column), content)
        writer.path("parts/part-00000.parquet").write_bytes(content.getvalue())
        writer.metrics["images"] = len(rows)
    code, _, error = job(
        build_index.main,
        *("--model", world.model, "--features", tmp_path / "f", "--out", copy),
    )
    assert code == 1
    assert "000041.jpg are not finite" in error
    assert job(search.main, "--collection", copy, "--text", "boat")[1]["results"]

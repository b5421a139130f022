"""build_index, search and collection through their main: what is built, found, kept and refused."""

import dataclasses
import datetime
import decimal
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from jobs import build_index, search
from jobs import collection as keep
from seqvis import artifacts
from seqvis.collection.collection import Collection
from seqvis.collection.items import Match, check_ids
from seqvis.collection.shards import merge, shard_paths
from seqvis.devise.model import DeviseModel
from seqvis.vision.backbones import load_backbone
from seqvis.vision.feature_table import FeatureTable
from tests.support.searching import World, draw, embed_to, train_small
from tests.unit.conftest import Job


@pytest.fixture(scope="module")
def built(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built") / "collection"
    assert build_index.main([str(flag) for flag in build_flags(world, out)]) == 0
    return out


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    """A collection that a test may change."""
    shutil.copytree(built, tmp_path / "copy")
    return tmp_path / "copy"


def build_flags(world: World, out: Path, *more: object) -> list[object]:
    return ["--model", world.model, "--features", world.features, "--out", out, *more]


@pytest.mark.parametrize("backend", ["nmslib", "exact"])
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
                found = {match.id for match in collection.search(item.vector, 99, where)}
                assert "000000.jpg" in found, (name, text)
                assert len(found) == 1 or text == "null"
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


@pytest.mark.parametrize(
    ("field", "suggestion"), [("nmae", "name"), ("Label", "label"), ("height ", "height")]
)
def test_a_misspelt_field_is_named_with_those_that_there_are(
    field: str, suggestion: str, built: Path, job: Job
) -> None:
    query = ["--collection", built, "--text", "boat"]
    code, result, error = job(search.main, *query, "--where", "name=boat", "--where", f"{field}=1")
    assert (code, result) == (1, {})
    assert f"{field!r}: no picture has such a field" in error
    assert "label, name, path, width" in " ".join(error.split())
    assert f"did you mean {suggestion}?" in " ".join(error.split())


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


def test_words_find_pictures(built: Path, tmp_path: Path, job: Job) -> None:
    sheet = tmp_path / "sheet.png"
    code, result, shown = job(
        search.main, "--collection", built, "--text", "2 * boat - dog", "--k", 4, "--sheet", sheet
    )
    assert code == 0
    assert result["query"] == "2 * boat - dog"
    assert [found["name"] for found in result["results"]] == ["boat"] * 4
    scores = [found["score"] for found in result["results"]]
    assert scores == sorted(scores, reverse=True)
    assert result["results"][0]["id"] in shown
    assert Image.open(sheet).width > 4 * 128


def test_a_sheet_names_the_label_and_the_file(
    built: Path, tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(
        "seqvis.vision.contact_sheet.draw_contact_sheet",
        lambda location, title, cells: drawn.extend(cell.caption for cell in cells),
    )
    flags = ["--collection", built, "--text", "boat", "--k", 3, "--sheet", tmp_path / "s.png"]
    found = job(search.main, *flags)[1]["results"]
    assert [caption.split("\n")[:2] for caption in drawn] == [["boat", one["id"]] for one in found]
    assert search._caption(Match("photos/2024/a.jpg", 0.5, {})) == "a.jpg\n0.500"


def test_words_are_searched_without_what_only_pictures_need(built: Path) -> None:
    code = (
        "import sys\n"
        "from jobs.search import main\n"
        "for query in (['--text', 'boat - dog'], ['--like', '000001.jpg']):\n"
        "    assert main(['--collection', sys.argv[1], *query]) == 0\n"
        "heavy = {'torch', 'ray', 'matplotlib', 'spacy', 'pandas', 'PIL', 'torchvision'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(built)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("-cat", "- 0.5 * cat"),
        ("-cat+boat", "- 0.5 * cat + boat"),
        ("- cat + boat", "- 0.5 * cat + boat"),
        ("a picture of a boat!", "boat"),
        ("boat, not a dog", "boat - 0.5 * dog"),
    ],
)
def test_the_reading_of_words_is_shown(text: str, read: str, built: Path, job: Job) -> None:
    code, result, error = job(search.main, "--collection", built, "--text", text, "--k", 2)
    assert (code, result["query"], result["read_as"]) == (0, text, read)
    assert len(result["results"]) == 2
    assert f"read as: {read}" in " ".join(error.split())


def test_a_value_that_begins_with_a_minus_is_taken_for_each_query(built: Path, job: Job) -> None:
    for flag in ("--like", "--image", "--classify"):
        code, _, error = job(search.main, "--collection", built, flag, "-x.jpg")
        assert (code, "-x.jpg" in error) == (1, True)
    code, _, error = job(search.main, "--collection", built, "--text", "--like", "000001.jpg")
    assert code == 2
    code, result, _ = job(search.main, "--collection", built, "--text", "boat", "-k", 1)
    assert (code, len(result["results"])) == (0, 1)


def test_a_picture_file_and_a_stored_one_find_pictures(
    world: World, built: Path, tmp_path: Path, job: Job
) -> None:
    (tmp_path / "new.png").write_bytes(world.pictures["000050.jpg"])
    code, result, _ = job(search.main, "--collection", built, "--image", tmp_path / "new.png")
    assert code == 0
    assert result["results"][0]["id"] == "000050.jpg"
    code, result, _ = job(search.main, "--collection", built, "--like", "000050.jpg", "--k", 3)
    assert code == 0
    assert len(result["results"]) == 3
    assert "000050.jpg" not in [found["id"] for found in result["results"]]


def test_a_value_of_a_filter_is_taken_to_the_letter(copy: Path, job: Job) -> None:
    titles = ["Paris, France", "[x]", "{", 'a "b"', "a=b", "", "-1 C"]
    with Collection.open(copy) as collection:
        items = [collection.get(name) for name in sorted(collection.ids())[: len(titles)]]
        collection.add(
            [
                dataclasses.replace(item, metadata={**item.metadata, "title": title})
                for item, title in zip(items, titles, strict=True)
                if item is not None
            ]
        )
    for title in titles:
        flags = ["--collection", copy, "--text", "boat", "--where", f"title={title}"]
        found = job(search.main, *flags)[1]["results"]
        assert [one["title"] for one in found] == [title]


def test_filters_and_least_score(built: Path, job: Job) -> None:
    flags = ["--collection", built, "--text", "boat", "--k", 99]
    _, result, _ = job(search.main, *flags, "--where", "name=dog", "--where", "width=8")
    assert [found["name"] for found in result["results"]] == ["dog"] * 12
    _, result, _ = job(search.main, *flags, "--where", "name=dog", "--where", "name=cat")
    assert {found["name"] for found in result["results"]} == {"dog", "cat"}
    _, result, shown = job(search.main, *flags, "--min-score", "0.9999")
    assert result["results"] == []
    assert "nothing found" in shown


@pytest.mark.parametrize("candidates", ["labels", "classes", "wordnet"])
def test_a_picture_is_named(
    candidates: str, world: World, built: Path, tmp_path: Path, job: Job
) -> None:
    (tmp_path / "new.png").write_bytes(world.pictures["000001.jpg"])
    for picture in (tmp_path / "new.png", "000001.jpg"):
        code, result, _ = job(
            search.main,
            *("--collection", built, "--classify", picture, "--candidates", candidates),
        )
        assert code == 0
        best = result["results"][0]
        if candidates != "classes":  # ImageNet's dogs are breeds, whose vectors are not here
            assert best["name"] == "dog"
            assert "n02084071" in best["labels"]


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--text", "baot"], 1, "did you mean boat"),
        (["--text", "boat +"], 1, "column 7"),
        (["--text", "xyzzy plugh"], 1, "has no word vector"),
        (["--like", "no such id"], 1, "no picture"),
        (["--image", "/no/such.png"], 1, "no such file"),
        (["--classify", "/no/such.png"], 1, "no such file"),
        ([], 2, "give one of --text"),
        (["--text", "boat", "--like", "000001.jpg"], 2, "give one of --text"),
        (["--text", "boat", "--where", "dog"], 2, "key=value"),
        (["--text", "boat", "--k", "0"], 2, "--k"),
        (["--text", "boat", "--min-score", "nan"], 2, "--min-score"),
        (["--classify", "000001.jpg", "--sheet", "x.png"], 2, "do not go with --classify"),
    ],
)
def test_a_bad_query_is_one_clear_message(
    flags: list[str], code: int, message: str, built: Path, job: Job
) -> None:
    returned, result, error = job(search.main, "--collection", built, *flags)
    assert returned == code
    assert message in error
    assert result == {}
    assert "Traceback" not in error


def test_a_collection_of_another_model_is_refused(
    world: World, built: Path, tmp_path: Path, job: Job
) -> None:
    train_small(world.folder, tmp_path / "other", epochs=1)
    for main, flags in ((search.main, ["--text", "boat"]), (keep.main, ["--add", world.features])):
        code, _, error = job(main, "--collection", built, "--model", tmp_path / "other", *flags)
        assert code == 1
        assert "was built by another model" in error


def test_pictures_are_added_deleted_and_compacted(
    world: World, copy: Path, tmp_path: Path, job: Job
) -> None:
    code, result, _ = job(
        *(keep.main, "--collection", copy, "--delete", "000001.jpg", "--delete", "nowhere"),
        "--missing-ok",
    )
    assert (code, result["deleted"], result["items"]) == (0, 1, 71)
    found = job(search.main, "--collection", copy, "--text", "dog", "--k", 99)[1]["results"]
    assert "000001.jpg" not in [one["id"] for one in found]
    code, result, _ = job(keep.main, "--collection", copy, "--add", world.features)
    assert (code, result["added"], result["items"]) == (0, 72, 72)
    code, result, _ = job(keep.main, "--collection", copy, "--compact")
    assert (code, result["items"], result["segments"], result["dead"]) == (0, 72, 1, 0)
    model = DeviseModel.open(str(world.model))
    expected = model.project(FeatureTable.open(str(world.features)).features)
    with Collection.open(copy, read_only=True) as collection:
        for row, path in enumerate(world.pictures):
            item = collection.get(path)
            assert item is not None
            np.testing.assert_allclose(item.vector, expected[row], atol=1e-6)


@pytest.mark.parametrize(
    "wanted",
    [["nowhere"], ["000001.jpg", "nowhere"], ["000001.jpg, 000002.jpg"], ["[x]"], ["None"], ['"']],
)
def test_an_id_that_is_not_there_is_named_and_nothing_is_deleted(
    wanted: list[str], copy: Path, job: Job
) -> None:
    flags = [flag for name in wanted for flag in ("--delete", name)]
    code, result, error = job(keep.main, "--collection", copy, *flags)
    assert (code, result) == (1, {})
    assert f"has no picture {wanted[-1]!r}, so nothing was deleted" in error
    assert "--missing-ok" in error
    assert job(keep.main, "--collection", copy)[1]["items"] == 72
    code, result, _ = job(keep.main, "--collection", copy, *flags, "--missing-ok")
    assert (code, result["deleted"]) == (0, len(wanted) - 1)


def test_an_empty_path_is_an_error_not_no_action(copy: Path, job: Job) -> None:
    for flag in ("--add", "--snapshot", "--restore"):
        code, result, error = job(keep.main, "--collection", copy, flag, "")
        assert code in (1, 2), flag
        assert "error: " in error
        assert result == {}


@pytest.mark.parametrize(
    "name", ["../b.jpg", "a\nb.jpg", "\x1b[2J.jpg", "weird://b.jpg", "%2e%2e", "cafe\u0301", " "]
)
def test_pictures_of_odd_ids_are_found_named_and_deleted(name: str, copy: Path, job: Job) -> None:
    with Collection.open(copy) as collection:
        item = collection.get("000050.jpg")
        assert item is not None
        with pytest.MonkeyPatch.context() as before:  # as earlier versions stored it
            before.setattr("seqvis.collection.items.check_new_ids", check_ids)
            collection.add([dataclasses.replace(item, id=name)])
    flags = ["--collection", copy, "--k", 1]
    code, result, shown = job(search.main, *flags, "--like", "000050.jpg")
    assert (code, result["results"][0]["id"]) == (0, name)
    assert "\x1b[2J" not in shown
    code, result, _ = job(search.main, *flags, f"--like={name}")
    assert (code, result["results"][0]["id"]) == (0, "000050.jpg")
    assert job(search.main, *flags, f"--classify={name}")[0] == 0
    code, result, _ = job(keep.main, "--collection", copy, f"--delete={name}")
    assert (code, result["deleted"], result["items"]) == (0, 1, 72)


def test_a_snapshot_is_restored_and_recall_is_measured(
    copy: Path, tmp_path: Path, job: Job
) -> None:
    assert job(keep.main, "--collection", copy, "--snapshot", tmp_path / "s")[0] == 0
    assert job(keep.main, "--collection", copy, "--delete", "000000.jpg")[0] == 0
    code, result, _ = job(keep.main, "--collection", tmp_path / "r", "--restore", tmp_path / "s")
    assert (code, result["items"]) == (0, 72)
    code, result, _ = job(keep.main, "--collection", tmp_path / "r", "--recall", "--queries", 20)
    assert (code, result["recall"], result["queries"]) == (0, 1.0, 20)
    code, result, _ = job(keep.main, "--collection", copy)
    assert (code, result["items"], result["dimension"]) == (0, 71, 12)
    code, _, error = job(keep.main, "--collection", copy, "--compact", "--recall")
    assert code == 2
    assert "give one of" in error


def test_a_collection_is_split_into_shards_that_answer_as_it_does(
    built: Path, tmp_path: Path, job: Job
) -> None:
    flags = ["--collection", built, "--split", 3]
    code, result, _ = job(keep.main, *flags, "--out", tmp_path / "shards")
    assert code == 0
    assert (len(result["shards"]), sum(result["shards"])) == (3, 72)
    query = np.ones(12, dtype=np.float32)
    answers = []
    for path in shard_paths(tmp_path / "shards"):
        with Collection.open(path, read_only=True) as shard:
            answers.append(shard.search(query, 20))
    with Collection.open(built, read_only=True) as whole:
        assert merge(answers, 20) == whole.search(query, 20)
    code, _, error = job(keep.main, *flags)
    assert code == 2
    assert "--split and --out go together" in error
    code, _, error = job(keep.main, *flags, "--out", tmp_path / "shards")
    assert code == 1
    assert "choose another --out" in error
    code, _, error = job(keep.main, "--collection", tmp_path / "shards")
    assert code == 1
    assert "is a sharded collection" in error

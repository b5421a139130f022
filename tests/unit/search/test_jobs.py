"""search and collection through their main: what is found, shown, changed and refused."""

import dataclasses
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import collection as keep
from jobs import search
from seqvis.collection.collection import Collection
from seqvis.collection.items import Match, check_ids, merge
from seqvis.collection.shards import shard_paths
from seqvis.devise.model import DeviseModel
from seqvis.search.engine import Matches
from seqvis.vision.feature_table import FeatureTable
from tests.support.searching import World, train_small
from tests.unit.conftest import Job


@pytest.fixture
def built(world: World) -> Path:
    return world.collection


@pytest.fixture
def copy(world: World, tmp_path: Path) -> Path:
    """A collection that a test may change."""
    return world.copy_collection(tmp_path)


def test_words_find_pictures(built: Path, tmp_path: Path, job: Job) -> None:
    sheet = tmp_path / "sheet.png"
    code, result, shown = job(
        search.main, "--collection", built, "--text", "2 * boat - dog", "--k", 4, "--sheet", sheet
    )
    assert code == 0
    assert result["query"] == "2 * boat - dog"
    assert [match["name"] for match in result["results"]] == ["boat"] * 4
    scores = [match["score"] for match in result["results"]]
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
    matches = job(search.main, *flags)[1]["results"]
    assert [caption.split("\n")[:2] for caption in drawn] == [
        ["boat", match["id"]] for match in matches
    ]
    bare = Matches([Match("photos/2024/a.jpg", 0.5, b"{}")], "boat", lambda name: None)
    assert bare.captions() == ["a.jpg\n0.500"]


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
    assert "000050.jpg" not in [match["id"] for match in result["results"]]


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
        matches = job(search.main, *flags)[1]["results"]
        assert [match["title"] for match in matches] == [title]


def test_filters_are_the_text_form_or_key_and_value(copy: Path, job: Job) -> None:
    more = [
        {"year": 1999, "title": "fire truck", "license": {"name": "CC0"}},
        {"year": 2010, "title": "3", "tags": ["red", "blue"]},
        {"year": 2020, "title": "'a b'"},
        {"year": None, "in stock": True, "title": "x=1 and y"},
    ]
    with Collection.open(copy) as collection:
        items = [collection.get(name) for name in sorted(collection.ids())]
        items = [item for item in items if item is not None]
        names = [item.id for item in items]
        pairs = zip(items, more, strict=False)
        collection.add(
            [dataclasses.replace(item, metadata={**item.metadata, **data}) for item, data in pairs]
        )

    def found(*filters: str) -> list[int]:
        flags = [word for text in filters for word in ("--where", text)]
        code, result, error = job(
            search.main, "--collection", copy, "--text", "boat", "--k", 99, *flags
        )
        assert code == 0, error
        return sorted(names.index(match["id"]) for match in result["results"])

    for filters, numbers in (
        (["year >= 2000"], [1, 2]),
        (["2000<year<2020"], [1]),
        (["not year missing and year != 2010"], [0, 2]),
        (["year=1999 or title=3 or license.name=CC0"], [0]),  # the title 3 is a text
        (["year=1999 or title='3'"], [0, 1]),
        (["title=3"], [1]),
        (["title=fire truck"], [0]),
        (["title='a b'"], [2]),
        (["license.name=CC0"], [0]),
        (["in stock=true"], [3]),
        (["tags all [red, blue]"], [1]),
        (["title=fire truck", "title=3", "year < 2000"], [0]),
        (["year exists", "year>2010"], [2]),
        (['title = "x=1 and y"'], [3]),
    ):
        assert found(*filters) == numbers, filters


@pytest.mark.parametrize(
    ("text", "line", "place"),
    [
        ("width >= 8 and 漢字 = fire truck", "width >= 8 and 漢字 = fire truck", 27),
        ("x" * 200 + " > 1 and ", "x" * 51 + " > 1 and ", 60),
        ("width = 8 and\n width > ]\n", " width > ]", 9),
    ],
)
def test_a_filter_that_cannot_be_read_is_pointed_at(
    text: str, line: str, place: int, built: Path, job: Job
) -> None:
    query = ["--collection", built, "--text", "boat"]
    code, result, error = job(search.main, *query, "--where", text)
    assert (code, result) == (2, {})
    assert error.startswith("error: --where: ")
    assert error.splitlines()[1:] == [f"error:   {line}", f"error:   {' ' * place}^"]


def test_filters_and_least_score(built: Path, job: Job) -> None:
    flags = ["--collection", built, "--text", "boat", "--k", 99]
    _, result, _ = job(search.main, *flags, "--where", "name=dog", "--where", "width=8")
    assert [match["name"] for match in result["results"]] == ["dog"] * 12
    _, result, _ = job(search.main, *flags, "--where", "name=dog", "--where", "name=cat")
    assert {match["name"] for match in result["results"]} == {"dog", "cat"}
    _, result, shown = job(search.main, *flags, "--min-score", "0.9999")
    assert result["results"] == []
    assert "nothing found" in shown


@pytest.mark.parametrize(
    "candidates", ["labels", "classes", pytest.param("wordnet", marks=pytest.mark.slow)]
)
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
        (["--text", "boat", "--where", "dog"], 2, "column 4: expected =, !=, <, <=, >, >="),
        (["--text", "boat", "--where", "name=a dog or name=cat"], 2, "column 8: expected `and`"),
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
    matches = job(search.main, "--collection", copy, "--text", "dog", "--k", 99)[1]["results"]
    assert "000001.jpg" not in [match["id"] for match in matches]
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


def test_the_libraries_say_which_they_are(job: Job) -> None:
    code, installed, _ = job(keep.main, "--about")
    assert (code, installed["nmslib"]) == (0, metadata.version("nmslib"))
    compiled = installed["nmslib"].endswith("+avx2")  # build_nmslib.py
    assert not compiled or installed["unused_instructions"] == []
    assert installed["rabitqlib"] == metadata.version("rabitqlib")
    assert installed["exact_scores"] in ("C++", "NumPy")
    code, _, error = job(keep.main, "--compact")
    assert (code, "--collection is needed" in error) == (2, True)


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


@pytest.mark.parametrize(
    ("field", "suggestion"), [("nmae", "name"), ("Label", "label"), ("heigth", "height")]
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

"""The page and its JSON, as the job writes them."""

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from seqvis.errors import DataError
from seqvis.storage import locate
from tests.support.objectstore import Bucket
from tests.support.searches import translator, trials, write_search
from tune.report.__main__ import main
from tune.report.settings import ForestSettings, ReportSettings
from tune.report.words import duration, listed, show, three
from tune.report.writing import write_report

COARSE = ReportSettings(forest=ForestSettings(trees=20, repeats=5, refits=4))
PICTURE = "data:image/svg+xml;base64,"
VOID = {"meta", "img", "source", "wbr", "br", "link"}
LEFT_OPEN = {"li", "td", "th", "dt", "dd", "p"}  # HTML ends these by what follows


class Reader(HTMLParser):
    """The tags, the text and the pictures of a page; fails where tags do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open[-1] != tag:
            assert self.open[-1] in LEFT_OPEN, f"</{tag}> inside <{self.open[-1]}>"
            self.open.pop()
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)


def read(page: Path) -> Reader:
    reader = Reader()
    reader.feed(page.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search's folder with its report; one trial failed with an error that looks like a tag."""
    table = translator(60)
    table.loc[7, ["status", "metric", "error"]] = ["failed", None, "<script>alert(1)</script>"]
    folder = write_search(tmp_path_factory.mktemp("search"), table, metric="loss", mode="min")
    title = "Dropouts & <others>"
    write_report(
        locate(folder), locate(folder), metric="loss", mode="min", title=title, settings=COARSE
    )
    return folder


def test_the_page_has_all_its_pictures_inside_and_needs_nothing_else(folder: Path) -> None:
    reader = read(folder / "report.html")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in reader.tags}
    pictures = [
        attributes[key]
        for _, attributes in reader.tags
        for key in ("src", "srcset", "href")
        if key in attributes
    ]
    # Four curves, four surfaces, six scatters.
    assert len(pictures) >= 4 + 4 + 6
    for picture in pictures:
        assert picture.startswith(PICTURE)
        root = ElementTree.fromstring(base64.b64decode(picture.removeprefix(PICTURE)))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert all(attributes["alt"] for tag, attributes in reader.tags if tag == "img")
    # An importance for each setting and group, with a name for those who cannot see it.
    ranking = json.loads((folder / "report.json").read_text())["ranking"]
    intervals = [attributes["aria-label"] for tag, attributes in reader.tags if tag == "svg"]
    assert len(intervals) == len(ranking["settings"]) + len(ranking["groups"])
    assert intervals[0].startswith(
        f"Importance {three(ranking['settings'][0]['importance']['value'])}"
    )
    style = (folder / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_texts_of_trials_are_shown_as_texts(folder: Path) -> None:
    text = "".join(read(folder / "report.html").text)
    assert "<script>alert(1)</script>" in text
    assert "Dropouts & <others>" in text


def test_the_page_says_what_the_json_says(folder: Path) -> None:
    content = json.loads((folder / "report.json").read_text())
    text = re.sub(r"\s+", " ", "".join(read(folder / "report.html").text))
    for sentence in content["summary"]:
        assert sentence in text
    for row in content["ranking"]["settings"]:
        importance = row["importance"]
        cells = f"{row['setting']} {three(importance['value'])} ({three(importance['low'])} to "
        assert cells + three(importance["high"]) in text
        assert not row["important"] or row["says"] in text
    for pair in content["ranking"]["interactions"]:
        assert f"H² {three(pair['h2'])}, without interaction up to {three(pair['chance'])}" in text
    for group in content["ranking"]["groups"]:
        assert ", ".join(group["settings"]) in text
    assert content["best"][0]["trial"] in text
    assert content["failed"][0]["reason"] in text
    assert content["budget"]["explanation"] in text


def test_the_best_trials_come_first_by_the_mode(folder: Path) -> None:
    best = [trial["metric"] for trial in json.loads((folder / "report.json").read_text())["best"]]
    assert best == sorted(best)
    assert len(best) == 10


def test_a_page_that_refuses_says_why_and_still_shows_the_trials(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "search", trials([3.0, 1.0, 2.0], {"a": [1, 2, 3]}))
    result = write_report(
        locate(folder), locate(tmp_path / "out"), metric="bleu", mode="max", title="Short"
    )
    assert "3 usable trials for 1 setting that varied" in result["refused"][0]
    assert result["important"] == []
    reader = read(tmp_path / "out" / "report.html")
    assert "3 usable trials for 1 setting" in "".join(reader.text)
    assert sum(tag == "img" for tag, _ in reader.tags) == 1  # the scatter of `a`
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["ranking"] is None
    assert [trial["metric"] for trial in content["best"]] == [3, 2, 1]


def test_the_job_prints_one_line_and_takes_metric_and_mode_from_the_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_search(tmp_path / "search", trials([3.0, 1.0], {"a": [1, 2]}), mode="min")
    assert main(["--trials", str(folder / "trials.parquet"), "--title", "Two"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["report"] == str(folder / "report.html")
    content = json.loads((folder / "report.json").read_text())
    assert (content["metric"], content["mode"], content["title"]) == ("bleu", "min", "Two")
    assert content["best"][0]["metric"] == 1


def test_the_job_asks_for_the_metric_where_no_search_says_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_search(tmp_path / "search", trials([3.0, 1.0], {"a": [1, 2]}))
    (folder / "search.json").unlink()
    assert main(["--trials", str(folder)]) == 2
    assert "give --metric and --mode" in capsys.readouterr().err
    assert main(["--trials", str(folder), "--metric", "bleu", "--mode", "max"]) == 0


def test_a_table_in_the_working_directory_has_its_report_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_search(tmp_path / "search", trials([3.0, 1.0], {"a": [1, 2]}))
    monkeypatch.chdir(folder)
    assert main(["--trials", "trials.parquet"]) == 0
    page = Path(json.loads(capsys.readouterr().out.splitlines()[-1])["report"])
    assert page.resolve() == (folder / "report.html").resolve()
    assert page.is_file()


def test_a_search_in_a_bucket_has_its_report_there(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_search(tmp_path / "search", trials([3.0, 1.0], {"a": [1, 2]}))
    for file in folder.iterdir():
        bucket.put(f"search/{file.name}", file.read_bytes())
    assert main(["--trials", bucket.uri("search")]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["report"] == bucket.uri("search/report.html")
    assert json.loads(bucket.get("search/report.json"))["trials"]["all"] == 2
    assert main(["--trials", bucket.uri("search/trials.parquet"), "--out", str(tmp_path)]) == 0
    for name in ("report.json", "report.html"):
        assert (tmp_path / name).read_bytes() == bucket.get(f"search/{name}")


def test_a_file_that_is_no_table_of_trials_is_refused_by_name(tmp_path: Path) -> None:
    def write(place: Path) -> None:
        write_report(locate(place), locate(tmp_path), metric="bleu", mode="max", title="None")

    with pytest.raises(DataError, match=r"trials\.parquet: no such file"):
        write(tmp_path)
    (tmp_path / "trials.parquet").write_text("no table")
    with pytest.raises(DataError, match=r"trials\.parquet: not a Parquet file"):
        write(tmp_path)
    trials([1.0], {"a": [1]}).drop(columns="epochs").to_parquet(tmp_path / "trials.parquet")
    with pytest.raises(DataError, match="no column 'epochs'"):
        write(tmp_path)
    trials([1.0], {"a": [1]}, status="lost").to_parquet(tmp_path / "trials.parquet")
    with pytest.raises(DataError, match="status 'lost' is none of finished, stopped, failed"):
        write(tmp_path)


def test_without_scikit_learn_the_report_says_what_to_install(tmp_path: Path) -> None:
    folder = write_search(tmp_path / "search", trials([3.0, 1.0], {"a": [1, 2]}))
    program = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from tune.report.__main__ import main\n"
        f"sys.exit(main(['--trials', {str(folder)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'seqvis[tune]'" in done.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000234567, "0.000235"),
        (1e-7, "1e-07"),
        (-0.5, "−0.5"),
        (12345.6, "12346"),
        (256, "256"),
        (True, "true"),
        (None, "–"),
        ("relu", "relu"),
    ],
)
def test_values_are_written_as_a_reader_wants_them(value: object, text: str) -> None:
    assert show(value) == text


def test_sentences_are_put_together() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert [duration(seconds) for seconds in (30, 600, 9000)] == ["30 s", "10 min", "2.5 h"]
    assert three(-0.0001) == "0.000"

"""Every kind of input gives the same pairs, and each is refused in words if it does not fit."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqvis.cluster import ignore_progress
from seqvis.corpus.inputs import tables, textindex
from seqvis.corpus.inputs.opening import open_input
from seqvis.corpus.inputs.source import PairSource
from seqvis.corpus.settings import PrepareSettings
from seqvis.errors import ConfigError, DataError
from seqvis.storage import locate

PAIRS = [
    *((f"Où est le chat n° {n} ?", f"Where is cat {n}?") for n in range(40)),
    ("  Des espaces.\u3000", "Spaces. "),
    ("", "No source."),
    ('Il dit "non".', 'He says "no", \\n and 5" of it.'),
    ("Deux\u2028lignes 🐈", "Two\u2028lines 🐈"),
    ("x" * 300, "Too long."),
    ("Le dernier.", "The last."),
]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray's tasks would do is done here; tests/ray/test_prepare.py has the real ones."""
    monkeypatch.setattr(textindex, "run_items", lambda items, work, *_: map(work, items))


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PairSource]:
    """Index the input that these settings name, in a folder that they are relative to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scratch").mkdir()

    def index(**settings: Any) -> PairSource:
        given = PrepareSettings(source_lang="fr", target_lang="en", out="out", **settings)
        return open_input(given, "train")(locate("scratch"), ignore_progress)

    return index


def read(pairs: PairSource, rows_per_task: int = 1000, longest: int = 200) -> list[dict[str, Any]]:
    found = []
    for first in range(0, len(pairs.rows), rows_per_task):
        for table in pairs.reader(pairs.rows[first : first + rows_per_task], longest)():
            found += table.to_pylist()
    return found


def write_aligned() -> list[dict[str, Any]]:
    """Write the pairs as two files; return the rows that they are."""
    for side, name in enumerate(("text.fr", "text.en")):
        Path(name).write_text("".join(f"{pair[side]}\n" for pair in PAIRS), encoding="utf-8")
    return [
        {
            "row": row,
            "source": "" if (problem := problem_of(*pair)) else pair[0].strip(),
            "target": "" if problem else pair[1].strip(),
            "problem": problem,
        }
        for row, pair in enumerate(PAIRS)
    ]


def problem_of(source: str, target: str) -> str | None:
    if len(source) > 200:
        return "source_line_too_long"
    return None if source and target else "blank"


def as_tsv(path: Path) -> None:
    path.write_text("".join(f"{fr}\t{en}\n" for fr, en in PAIRS), encoding="utf-8")


def as_tatoeba(path: Path) -> None:
    rows = (f"{n}\t{fr}\t{n + 7}\t{en}\n" for n, (fr, en) in enumerate(PAIRS))
    path.write_text("\ufeff" + "".join(rows), encoding="utf-8")


def as_tsv_with_dos_line_ends(path: Path) -> None:
    path.write_bytes("".join(f"{en}\t{fr}\r\n" for fr, en in PAIRS).encode())


def as_json_lines(path: Path) -> None:
    rows = ({"id": n, "fr": fr or None, "en": en} for n, (fr, en) in enumerate(PAIRS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def as_nested_json_lines(path: Path) -> None:
    rows = ({"translation": {"en": en, "fr": fr}} for fr, en in PAIRS)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


FORMATS: dict[str, tuple[Callable[[Path], None], str]] = {
    "TSV": (as_tsv, "1,2"),
    "Tatoeba's export": (as_tatoeba, "2,4"),
    "TSV with DOS line ends": (as_tsv_with_dos_line_ends, "2,1"),
    "JSON lines": (as_json_lines, "fr,en"),
    "nested JSON lines": (as_nested_json_lines, "translation.fr,translation.en"),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_rows_of_two_aligned_files(
    form: str, opened: Callable[..., PairSource]
) -> None:
    expected = write_aligned()
    assert read(opened(source="text.fr", target="text.en")) == expected
    write, columns = FORMATS[form]
    write(Path("pairs"))
    pairs = opened(pairs="pairs", columns=columns)
    assert read(pairs) == read(pairs, rows_per_task=7) == expected
    assert pairs.lines == {"pairs": len(PAIRS)}


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, "zstd"])
@pytest.mark.parametrize("form", ["Tatoeba's export", "JSON lines"])
def test_a_compressed_file_gives_the_same(
    form: str, pack: Any, opened: Callable[..., PairSource]
) -> None:
    expected = write_aligned()
    write, columns = FORMATS[form]
    write(Path("plain"))
    content = Path("plain").read_bytes()
    packed = pa.compress(content, "zstd", asbytes=True) if pack == "zstd" else pack(content)
    Path("pairs").write_bytes(packed)
    pairs = opened(pairs="pairs", columns=columns)
    assert read(pairs, rows_per_task=7) == expected
    assert pairs.lines == {"pairs": len(PAIRS)}


def test_a_header_names_columns_and_is_no_pair(opened: Callable[..., PairSource]) -> None:
    lines = ["id\tFrench \tEnglish", *(f"{n}\t{fr}\t{en}" for n, (fr, en) in enumerate(PAIRS))]
    Path("pairs.tsv").write_text("\n".join(lines), encoding="utf-8")
    pairs = opened(pairs="pairs.tsv", columns="French,English")
    expected = [{**row, "row": row["row"] + 1} for row in write_aligned()]
    assert read(pairs, rows_per_task=7) == expected  # a row is a line of the file
    assert pairs.names == ("pairs.tsv, column French", "pairs.tsv, column English")
    assert pairs.lines == {"pairs.tsv": len(PAIRS)}


def test_blank_lines_and_endless_ones_are_pairs_of_which_nothing_is_kept(
    opened: Callable[..., PairSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LINE_BYTES", 900)
    Path("a.tsv").write_text(f"un\tone\n\n  \n{'x' * 5000}\ndeux\ttwo\n", encoding="utf-8")
    problems = [None, "blank", "blank", "source_line_too_long", None]
    assert [row["problem"] for row in read(opened(pairs="a.tsv", columns="1,2"))] == problems
    long = json.dumps({"fr": "x" * 5000, "en": "x"})
    Path("a.jsonl").write_text(f'{{"fr": "un", "en": "one"}}\n\n{long}\n', encoding="utf-8")
    problems = [None, "blank", "source_line_too_long"]
    assert [row["problem"] for row in read(opened(pairs="a.jsonl", columns="fr,en"))] == problems


def test_bytes_that_are_no_utf8_are_found_in_their_column(
    opened: Callable[..., PairSource],
) -> None:
    Path("a.tsv").write_bytes("café\tcoffee\nbon\tgood\n".encode() + b"th\xe9\ttea\neau\twat\0er\n")
    pairs = opened(pairs="a.tsv", columns="1,2")
    problems = [None, None, "source_not_utf8", "target_not_utf8"]
    assert [row["problem"] for row in read(pairs)] == problems
    assert "other lines are in UTF-8" in pairs.encoding_advice(0)
    Path("a.jsonl").write_bytes(
        b'{"fr": "eau", "en": "water"}\n{"fr": "th\xe9", "en": "tea"}\n'
        rb'{"fr": "bon", "en": "\ud83d"}' + b"\n"
    )
    problems = [None, "source_not_utf8", "target_not_utf8"]
    assert [row["problem"] for row in read(opened(pairs="a.jsonl", columns="fr,en"))] == problems


GOOD_TSV = "fr\ten\nun\tone\n"
GOOD_JSON = '{"fr": "un", "en": "one"}\n'


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (GOOD_TSV, None, r"a: give --columns .*; it has 1 'fr', 2 'en'$"),
        (GOOD_TSV, "1,3", "a has no column 3, it has 1, 2$"),
        (GOOD_TSV, "0,1", "a has no column 0"),
        (GOOD_TSV, "fra,en", "a has no column fra, it has fr, en, did you mean fr"),
        (f"{GOOD_TSV}deux\n", "1,2", "a: line 3 has 1 columns, the first line 2; .*NF == 2"),
        (f"{GOOD_TSV}\nà\tb\tc\n", "fr,en", "a: line 4 has 3 columns, the first line 2; repair"),
        ("fr\ten\n", "fr,en", "a: has no lines below its header"),
        (GOOD_JSON, None, "a: give --columns .*; it has fr, en$"),
        (GOOD_JSON, "fr,translation.en", "a has no column translation.en, it has fr, en"),
        (f'{GOOD_JSON}{{"fr": "un"}}\n', "fr,en", "a: line 2 has no column en, it has fr"),
        (f'{GOOD_JSON}{{"fr": "u\n', "fr,en", r"a: line 2 is not JSON \(Unterminated string"),
        (f"{GOOD_JSON}[1]\n", "fr,en", "a: line 2 is no JSON object"),
        (f'{GOOD_JSON}{{"fr": 5, "en": "x"}}\n', "fr,en", "a: line 2 has 5 as fr, which is no"),
        (f'{GOOD_JSON}{{"fr": 0, "en": "x"}}\n', "fr,en", "a: line 2 has 0 as fr, which is no"),
        (f"{GOOD_JSON}{'[' * 9999}\n", "fr,en", "a: line 2 is not JSON"),
        ('[{"fr": "un"}]\n', "fr,en", "a: is one JSON array; .*jq -c"),
        ("[\n", "fr,en", "a: is one JSON array"),
        ("{\n", "fr,en", "a: line 1 is not JSON .*each line must be an object"),
        ("un,one\n", "1,2", "a: is not known as a file of pairs: .*--source and --target"),
        ("", "1,2", "a: is empty"),
        ("un\tone\n".encode("utf-16"), "1,2", "a: is UTF-16; convert it"),
        (b"PK\x03\x04" + bytes(50), "1,2", "a: is a zip archive"),
        (gzip.compress(b"a\tb\n" * 999)[:-12], "1,2", "a: damaged or cut off gzip"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_line_and_remedy(
    content: str | bytes, columns: str | None, message: str, opened: Callable[..., PairSource]
) -> None:
    Path("a").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((DataError, ConfigError), match=message):
        read(opened(pairs="a", columns=columns))


def test_a_file_that_is_not_there_is_named(opened: Callable[..., PairSource]) -> None:
    with pytest.raises(DataError, match=r"no\.tsv: no such file"):
        opened(pairs="no.tsv", columns="1,2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give the pairs: --source and --target, or --pairs"),
        ({"source": "a"}, "--source and --target must be given together"),
        ({"source": "a", "target": "b", "pairs": "c"}, "or --pairs alone"),
        ({"valid_source": "a"}, "--valid-source and --valid-target must be given together"),
        ({"valid_source": "a", "valid_target": "b", "valid_pairs": "c"}, "or --valid-pairs alone"),
        *(({"pairs": "a", "columns": bad}, "two names or numbers") for bad in ("1", "1,2,3", ",2")),
    ],
)
def test_settings_that_name_no_input_or_two_are_refused(
    settings: dict[str, str], message: str, opened: Callable[..., PairSource]
) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        opened(**settings)


def test_a_large_table_is_read_in_many_tasks_of_little_memory(
    opened: Callable[..., PairSource],
) -> None:
    Path("a.tsv").write_text("".join(f"phrase {n}\tsentence {n}\n" for n in range(200_000)))
    pairs = opened(pairs="a.tsv", columns="1,2")
    tasks = [pairs.reader(pairs.rows[n : n + 50_000], 100) for n in range(0, 200_000, 50_000)]
    before = pa.total_allocated_bytes()
    for number, task in enumerate(tasks):
        [table] = list(task())
        assert table["row"].to_pylist() == list(range(50_000 * number, 50_000 * (number + 1)))
        assert table["target"][-1].as_py() == f"sentence {50_000 * (number + 1) - 1}"
        assert pa.total_allocated_bytes() - before < 10 << 20

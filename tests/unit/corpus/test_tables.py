"""Tables in text, TSV and JSON lines: what is read of them, and what is refused in words."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqvis.corpus.inputs import tables
from seqvis.corpus.inputs.source import PairSource
from seqvis.errors import ConfigError, DataError
from tests.support.pairs import PAIRS, read, write_aligned


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
        (GOOD_TSV, "1,3", "a has no column 3, it has 1, 2; add it, or name other --columns$"),
        (GOOD_TSV, "0,1", "a has no column 0"),
        (GOOD_TSV, "fra,en", "a has no column fra, it has fr, en, did you mean fr"),
        ("fr\ten\ten\n", "fr,en", "a has several columns en; rename all but one"),
        (f"{GOOD_TSV}deux\n", "1,2", "a: line 3 has 1 columns, the first line 2; .*NF == 2"),
        (f"{GOOD_TSV}\nà\tb\tc\n", "fr,en", "a: line 4 has 3 columns, the first line 2; repair"),
        ("fr\ten\n", "fr,en", "a: has no lines below its header"),
        (GOOD_JSON, None, "a: give --columns .*; it has fr, en$"),
        (GOOD_JSON, "fr,translation.en", "a has no column translation.en, it has fr, en"),
        (f'{GOOD_JSON}{{"fr": "un"}}\n', "fr,en", "a: line 2 has no column en, it has fr"),
        (
            f'{GOOD_JSON}{{"fr": "u\n',
            "fr,en",
            r"a: line 2 is not JSON \(Unterminated string .*, char",
        ),
        (f'{GOOD_JSON}{{"fr": ["ça"], "en": "x"}}\n', "fr,en", r'a: line 2 has \["ça"\] as fr, wh'),
        (f"{GOOD_JSON}[1]\n", "fr,en", "a: line 2 is no JSON object"),
        (f'{GOOD_JSON}{{"fr": 5, "en": "x"}}\n', "fr,en", "a: line 2 has 5 as fr, which is no"),
        (f'{GOOD_JSON}{{"fr": 0, "en": "x"}}\n', "fr,en", "a: line 2 has 0 as fr, which is no"),
        (f"{GOOD_JSON}{'[' * 9999}\n", "fr,en", "a: line 2 is not JSON"),
        ('[{"fr": "un"}]\n', "fr,en", "a: is one JSON array; .*jq -c"),
        ("[\n", "fr,en", "a: is one JSON array"),
        ("{\n", "fr,en", "a: line 1 is not JSON .*each line must be an object"),
        (
            "un,one\n",
            "1,2",
            "a: is not known as a file of pairs: .*--source and --target.* of a CSV",
        ),
        ("", "1,2", "a: is empty"),
        ("un\tone\n".encode("utf-16"), "1,2", "a: is UTF-16; convert it"),
        (b"PK\x03\x04" + bytes(50), "1,2", "a: is a zip archive"),
        (gzip.compress(b"a\tb\n" * 999, mtime=0)[:-12], "1,2", "a: damaged or cut off gzip"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_line_and_remedy(
    content: str | bytes, columns: str | None, message: str, opened: Callable[..., PairSource]
) -> None:
    Path("a").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((DataError, ConfigError), match=message):
        read(opened(pairs="a", columns=columns))


def test_a_null_in_the_place_of_an_object_is_a_blank_pair(
    opened: Callable[..., PairSource],
) -> None:
    rows: list[Any] = [{"fr": "un", "en": "one"}, None, {"fr": None, "en": "x"}]
    Path("a").write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows))
    pq.write_table(pa.table({"translation": rows}), "b")
    for name in ("a", "b"):
        pairs = opened(pairs=name, columns="translation.fr, translation.en")
        assert [row["problem"] for row in read(pairs)] == [None, "blank", "blank"]

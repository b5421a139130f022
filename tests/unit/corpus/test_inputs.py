"""Every kind of input gives the same pairs, and each is refused in words if it does not fit."""

import bz2
import gzip
import json
import lzma
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from seqvis.cluster import ignore_progress
from seqvis.corpus.inputs import tables, textindex, tmx
from seqvis.corpus.inputs.frames import open_frame
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
SIDES = [[pair[side] for pair in PAIRS] for side in (0, 1)]


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray's tasks would do is done here; tests/ray/test_prepare.py has the real ones."""
    for module in (textindex, tmx):
        monkeypatch.setattr(module, "run_items", lambda items, work, *_: map(work, items))


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


def as_parquet(path: Path) -> None:
    pq.write_table(pa.table([range(len(PAIRS)), *SIDES], names=["id", "fr", "en"]), path)


def as_nested_parquet(path: Path) -> None:
    pairs = [{"translation": {"fr": fr or None, "en": en}, "score": 1.0} for fr, en in PAIRS]
    pq.write_table(pa.Table.from_pylist(pairs), path, row_group_size=5)


def as_parquet_of_other_types(path: Path) -> None:
    columns = [pa.array(SIDES[0], pa.large_string()), pa.array(SIDES[1]).dictionary_encode()]
    pq.write_table(pa.table(columns, names=["a.fr", "a.en"]), path)


def as_dataset(path: Path) -> None:
    pairs = [
        {"id": str(n), "translation": {"fr": fr, "en": en}} for n, (fr, en) in enumerate(PAIRS)
    ]
    Dataset.from_list(pairs, split="train").save_to_disk(path)


def as_splits(path: Path) -> None:
    backwards = Dataset.from_dict({"fr": SIDES[0][::-1], "en": SIDES[1][::-1]})
    train = backwards.select(range(len(PAIRS) - 1, -1, -1))
    DatasetDict({"train": train, "test": backwards.select([1])}).save_to_disk(path)


def as_memory(path: Path) -> None:
    write_memory(path, [[("en-US", en), ("fr-FR", fr)] for fr, en in PAIRS])


def as_wide_memory(path: Path) -> None:
    write_memory(path, [[("FR", fr), ("de", "x"), ("en", en)] for fr, en in PAIRS], "UTF-16")


def write_memory(path: Path, units: list[list[tuple[str, str]]], encoding: str = "UTF-8") -> None:
    variants = (
        "".join(f'<tuv xml:lang="{tag}"><seg>{escape(text)}</seg></tuv>' for tag, text in unit)
        for unit in units
    )
    body = "".join(f"<tu>{one}</tu>\n" for one in variants)
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'
        f'<tmx version="1.4"><header srclang="en"/><body>\n{body}</body></tmx>\n'
    )
    path.write_text(text, encoding=encoding)


FORMATS: dict[str, tuple[Callable[[Path], None], str | None]] = {
    "TSV": (as_tsv, "1,2"),
    "Tatoeba's export": (as_tatoeba, "2,4"),
    "TSV with DOS line ends": (as_tsv_with_dos_line_ends, "2,1"),
    "JSON lines": (as_json_lines, "fr,en"),
    "nested JSON lines": (as_nested_json_lines, "translation.fr,translation.en"),
    "Parquet": (as_parquet, "fr,en"),
    "nested Parquet": (as_nested_parquet, "translation.fr,translation.en"),
    "Parquet of other types": (as_parquet_of_other_types, "a.fr,a.en"),
    "a dataset": (as_dataset, "translation.fr,translation.en"),
    "a dataset with splits": (as_splits, "fr,en"),
    "TMX": (as_memory, None),
    "TMX in UTF-16": (as_wide_memory, "fr,en"),
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
@pytest.mark.parametrize("form", ["Tatoeba's export", "JSON lines", "TMX"])
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
        (gzip.compress(b"a\tb\n" * 999)[:-12], "1,2", "a: damaged or cut off gzip"),
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


def memory(*segments: str, doctype: str = "") -> bytes:
    """A TMX file of one unit in French, and one with this content."""
    return (
        f'<?xml version="1.0"?>\n{doctype}<tmx version="1.4"><body>\n'
        f'<tu><tuv xml:lang="fr"><seg>un</seg></tuv></tu>\n<tu>{"".join(segments)}</tu>\n'
        f"</body></tmx>\n"
    ).encode()


ENGLISH = '<tuv xml:lang="en-GB"><seg>one</seg></tuv>'
FRENCH = '<tuv lang="FR"><seg>%s</seg></tuv>'
BOMB = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        (memory(FRENCH % "&b;", ENGLISH, doctype=BOMB), None, "a: line 2 declares the entity a; "),
        (
            memory(FRENCH % "&nbsp;", ENGLISH, doctype='<!DOCTYPE tmx SYSTEM "tmx14.dtd">'),
            None,
            "a: line 4 has the entity &nbsp;, which is not XML's; write the character",
        ),
        (memory(FRENCH % "&nbsp;", ENGLISH), None, "a: line 4, column .* not XML .undefined ent"),
        (memory(FRENCH % "caf\x01", ENGLISH), None, "a: line 4, column .*invalid token.*; repair"),
        (memory(ENGLISH, FRENCH % "un")[:-9], None, "a: line 5, .* not XML .unclosed token"),
        (memory(ENGLISH), None, "a: no unit is in both fr and en, the languages are fr, en-GB; "),
        (memory(ENGLISH, FRENCH % "un"), "fr,en-US", "no unit is in both fr and en-US"),
        (b'<?xml version="1.0" encoding="big5"?><tmx/>', None, "a: its encoding cannot be read"),
        (b'<?xml version="1.0"?><tmx><body/></tmx>', None, "a: holds no translation unit"),
        (b'<?xml version="1.0"?><xliff/>', None, "a: is XML, but no TMX"),
        (b"PAR1 and so on", "fr,en", "a: damaged or cut off Parquet file .*; fetch it again"),
        (gzip.compress(b"PAR1 and so on"), "fr,en", "a: is a compressed Parquet file; unpack"),
    ],
)
def test_a_memory_or_parquet_file_that_does_not_fit_is_refused(
    content: bytes, columns: str | None, message: str, opened: Callable[..., PairSource]
) -> None:
    Path("a").write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(pairs="a", columns=columns)


def test_units_keep_their_text_and_lose_native_codes(opened: Callable[..., PairSource]) -> None:
    marked = (
        'Le <bpt i="1">&lt;b&gt;<sub>gras</sub></bpt><hi>mot</hi><ept i="1">x</ept>\n  &amp; co'
    )
    two = '<tuv xml:lang="fr-CA"><seg>char</seg></tuv><tuv xml:lang="fr-FR"><seg>auto</seg></tuv>'
    Path("a").write_bytes(
        memory(FRENCH % marked, ENGLISH, f"</tu><tu><note>no</note>{two}{ENGLISH}")
    )
    expected = {"fr,en": ["", "Le mot & co", "char"], "fr-FR,en-GB": ["", "", "auto"]}
    for columns, texts in expected.items():
        rows = read(opened(pairs="a", columns=columns))
        assert [row["source"] for row in rows] == texts
        assert [row["problem"] for row in rows] == [None if text else "blank" for text in texts]
        Path("scratch/pairs.parquet").unlink()
    same = PrepareSettings(source_lang="en", target_lang="en", out="out", pairs="a")
    with pytest.raises(ConfigError, match=r"a: both sides are en; .* such as pt-BR,pt-PT"):
        open_input(same, "train")


def tables_that_do_not_fit() -> dict[str, tuple[pa.Table, str | None, str]]:
    good = pa.table({"fr": ["un"], "en": ["one"], "n": [1], "t": [{"fr": "un"}]})
    return {
        "no columns": (good, None, r"give --columns .*; it has fr, en, n, t\.fr"),
        "a missing column": (good, "fra,en", "has no column fra, it has .*, did you mean fr?"),
        "a missing path": (good, "t.fr,t.en", r"has no column t\.en, it has fr, en, n, t\.fr"),
        "numbers": (good, "fr,n", "column n holds int64, not text; name other --columns"),
        "a struct": (good, "fr,t", "has no column t, it has"),
        "no rows": (
            good.slice(1),
            "fr,en",
            "(has no rows|.* or with an empty or damaged one .*); give ",
        ),
    }


@pytest.mark.parametrize("case", tables_that_do_not_fit())
@pytest.mark.parametrize("kind", ["Parquet", "a dataset"])
def test_a_table_that_does_not_fit_is_refused(
    kind: str, case: str, opened: Callable[..., PairSource]
) -> None:
    table, columns, message = tables_that_do_not_fit()[case]
    if kind == "Parquet":
        pq.write_table(table, "pairs")
    else:
        Dataset(table).save_to_disk("pairs")
    with pytest.raises((DataError, ConfigError), match=f"^pairs:? {message}"):
        opened(pairs="pairs", columns=columns)


def test_a_name_that_a_table_has_twice_is_refused(opened: Callable[..., PairSource]) -> None:
    pq.write_table(pa.table([["un"], ["one"], ["two"]], ["fr", "en", "en"]), "a")
    with pytest.raises(DataError, match=r"^a has several columns en; rename all but one of them"):
        opened(pairs="a", columns="fr,en")


def test_texts_that_are_no_utf8_are_found_in_parquet(opened: Callable[..., PairSource]) -> None:
    pq.write_table(pa.table({"fr": [b"un", b"th\xe9"], "en": ["one", "tea"]}), "a")
    pairs = opened(pairs="a", columns="fr,en")
    assert [row["problem"] for row in read(pairs)] == [None, "source_not_utf8"]
    assert "with its texts in UTF-8" in pairs.encoding_advice(0)


def test_a_dataset_without_the_split_says_which_it_has(
    opened: Callable[..., PairSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_splits(Path("splits"))
    assert len(opened(pairs="splits", columns="fr,en", split="test").rows) == 1
    languages = {"source_lang": "fr", "target_lang": "en", "out": "out"}
    alone = PrepareSettings(pairs="splits", columns="fr,en", valid_split="test", **languages)
    assert not alone.holds_out
    assert len(open_input(alone, "valid")(locate("scratch"), ignore_progress).rows) == 1
    files = PrepareSettings(source="a", target="b", valid_split="test", **languages)
    with pytest.raises(ConfigError, match="--valid-split go with pairs in one file"):
        open_input(files, "valid")
    with pytest.raises(
        DataError, match=r"^splits: has no split tests, it has train, test, did you"
    ):
        opened(pairs="splits", columns="fr,en", split="tests")
    as_dataset(Path("one"))
    with pytest.raises(DataError, match=r"^one: has no split test, it has train; name it by"):
        opened(pairs="one", columns="translation.fr,translation.en", split="test")
    Dataset.from_dict({"fr": ["un"], "en": ["one"]}).save_to_disk("unnamed")
    with pytest.raises(DataError, match=r"^unnamed: is one dataset without splits; leave out"):
        opened(pairs="unnamed", columns="fr,en", split="test")
    Path("folder").mkdir()
    with pytest.raises(DataError, match=r"^folder: is a folder without a dataset"):
        opened(pairs="folder", columns="fr,en")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"datasets: not installed; pip install 'seqvis\[hf\]'"):
        opened(pairs="one", columns="fr,en")


def test_a_dataset_is_loaded_by_its_name(
    opened: Callable[..., PairSource], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    Path("corpus").mkdir()
    as_parquet(Path("corpus/train.parquet"))
    expected = write_aligned()
    assert read(opened(pairs="hf://./corpus", columns="fr,en"), rows_per_task=7) == expected
    with pytest.raises(
        DataError, match=r"^hf://\./corpus: .*cannot load it with the split dev .*train"
    ):
        opened(pairs="hf://./corpus", columns="fr,en", split="dev")


def test_a_data_frame_gives_the_same(opened: Callable[..., PairSource]) -> None:
    expected = write_aligned()
    frame = pd.DataFrame({"id": range(len(PAIRS)), "fr": SIDES[0], "en": SIDES[1]})
    frame.loc[41, "fr"] = None  # the blank text
    frame.index = frame.index[::-1]
    pairs = open_frame(frame, ("fr", "en"))(locate("scratch"), ignore_progress)
    assert read(pairs, rows_per_task=7) == expected
    assert pairs.names == ("DataFrame, column fr", "DataFrame, column en")
    frame["en"] = frame["en"].astype(object)
    frame.iloc[3, 2] = 5
    with pytest.raises(DataError, match=r"^DataFrame: row 3 has 5 as en, which is no text; repair"):
        open_frame(frame, ("fr", "en"))(locate("scratch"), ignore_progress)
    with pytest.raises(
        DataError, match=r"^DataFrame has no column fra, it has id, fr, en, did you"
    ):
        open_frame(frame, ("fra", "en"))
    numbered = frame[["fr", "en"]].set_axis([0, 1], axis=1)
    with pytest.raises(DataError, match=r"^DataFrame has no column 2, it has 0, 1; add it"):
        open_frame(numbered, ("0", "2"))
    assert open_frame(numbered, ("0", "1"))
    with pytest.raises(DataError, match=r"^DataFrame has several columns fr; rename all but one"):
        open_frame(frame[["fr", "fr", "en"]], ("fr", "en"))
    with pytest.raises(ConfigError, match=r"^DataFrame: give --columns .* it has id, fr, en$"):
        open_frame(frame, None)
    with pytest.raises(DataError, match=r"^DataFrame: has no rows"):
        open_frame(frame.iloc[:0], ("fr", "en"))


def test_a_file_that_is_not_there_is_named(opened: Callable[..., PairSource]) -> None:
    with pytest.raises(DataError, match=r"no\.tsv: no such file"):
        opened(pairs="no.tsv", columns="1,2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give the pairs: --source and --target, or --pairs"),
        ({"source": "a"}, "--source and --target must be given together"),
        ({"source": "a", "target": "b", "pairs": "c"}, "or --pairs alone"),
        ({"source": "a", "target": "b", "columns": "1,2"}, "go with pairs in one file"),
        ({"source": "a", "target": "b", "split": "train"}, "go with pairs in one file"),
        ({"pairs": "a", "split": "train"}, "a: is one file, of which there are no splits"),
        ({"valid_source": "a"}, "--valid-source and --valid-target must be given together"),
        ({"valid_source": "a", "valid_target": "b", "valid_pairs": "c"}, "or --valid-pairs alone"),
        *(
            ({"pairs": "a", "columns": bad}, "two names or numbers")
            for bad in ("1", "1,2,3", ",2", "2, 2")
        ),
    ],
)
def test_settings_that_name_no_input_or_two_are_refused(
    settings: dict[str, str], message: str, opened: Callable[..., PairSource]
) -> None:
    with pytest.raises((ValueError, ConfigError), match=message):
        opened(**settings)


@pytest.mark.parametrize("form", ["TSV", "Parquet"])
def test_a_large_table_is_read_in_many_tasks_of_little_memory(
    form: str, opened: Callable[..., PairSource]
) -> None:
    rows = 200_000
    sides = [[f"{word} {n}" for n in range(rows)] for word in ("phrase", "sentence")]
    if form == "TSV":
        Path("a").write_text("".join(map("{}\t{}\n".format, *sides)))
    else:
        pq.write_table(pa.table(sides, names=["1", "2"]), "a")
        assert pq.ParquetFile("a").num_row_groups == 1
    pairs = opened(pairs="a", columns="1,2")
    tasks = [
        pairs.reader(pairs.rows[first : first + 50_000], 100) for first in range(0, rows, 50_000)
    ]
    del sides
    before = pa.total_allocated_bytes()
    for number, task in enumerate(tasks):
        [table] = list(task())
        assert table["row"].to_pylist() == list(range(50_000 * number, 50_000 * (number + 1)))
        assert table["target"][-1].as_py() == f"sentence {50_000 * (number + 1) - 1}"
        assert pa.total_allocated_bytes() - before < 10 << 20

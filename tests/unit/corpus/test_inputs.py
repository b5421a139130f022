"""Every kind of input gives the same pairs, and settings that name none are refused."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqvis.cluster import ignore_progress
from seqvis.corpus.inputs.frames import open_frame
from seqvis.corpus.inputs.source import PairSource
from seqvis.errors import ConfigError, DataError
from seqvis.storage import locate
from tests.support.pairs import FORMATS, PAIRS, SIDES, read, write_aligned


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

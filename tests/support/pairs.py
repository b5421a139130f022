"""Pairs of sentences in every form that prepare_corpus reads, and the rows that they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

from seqvis.corpus.inputs.source import PairSource

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


def read(pairs: PairSource, rows_per_task: int = 1000, longest: int = 200) -> list[dict[str, Any]]:
    rows = []
    for first in range(0, len(pairs.rows), rows_per_task):
        for table in pairs.reader(pairs.rows[first : first + rows_per_task], longest)():
            rows += table.to_pylist()
    return rows


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
    body = "".join(f"<tu>{variant}</tu>\n" for variant in variants)
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

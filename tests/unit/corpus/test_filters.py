"""Filters, lines of files, partitions, percentiles: the parts of prepare_corpus without Ray."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seqvis.corpus.columns import read_partition, write_partitions
from seqvis.corpus.counts import percentile_length
from seqvis.corpus.filters import Tally, lengths_too_unequal, question_pair, question_pairs
from seqvis.corpus.inputs.aligned import read_pairs
from seqvis.corpus.tokens import (
    hash_pairs,
    hash_sources,
    in_validation_split,
    write_parquet,
)
from seqvis.errors import DataError, StorageError
from seqvis.storage import Location, locate
from seqvis.text import lines
from seqvis.text.vocabulary import most_frequent


def test_the_question_filter_keeps_the_question_at_the_start_of_both_lines() -> None:
    english, french = "What is it? Tell me.", "Qu'est-ce que c'est? Dis-moi."
    assert question_pair(french, english, "fr", "en") == ("Qu'est-ce que c'est?", "What is it?")
    assert question_pair(english, french, "en", "fr") == ("What is it?", "Qu'est-ce que c'est?")


@pytest.mark.parametrize(
    ("french", "english"),
    [
        ("Est-il là ?", "Is he there?"),  # no wh- word
        ("Il est là.", "Where is he?"),
        ("Où est-il ?", "I ask. Where is he?"),
        ("Où est-il ?", "Where he is."),
    ],
)
def test_other_pairs_are_no_questions(french: str, english: str) -> None:
    assert question_pair(french, english, "fr", "en") is None


def test_without_english_any_question_counts() -> None:
    assert question_pair("Est-il là ?", "Ist er da?", "fr", "de") == ("Est-il là ?", "Ist er da?")
    assert question_pair("他在哪里？好。", "Où est-il ?", "zh", "fr") is not None


@pytest.mark.parametrize("languages", [("fr", "en"), ("en", "zh"), ("ja", "fr")])
def test_whole_columns_are_filtered_as_pairs_are(languages: tuple[str, str]) -> None:
    draw = random.Random(3)
    pieces = [
        "Wh",
        "What",
        "Qu'est",
        "é",
        "？",
        "。",
        "?",
        ".",
        "!",
        "\r",
        "\u2028",
        "🐈",
        "他",
        "?!",
    ]

    def text() -> str:
        return "".join(
            [draw.choice(("Wh", "他 ", "")), *draw.choices(pieces, k=draw.randint(1, 3))]
        )

    sides = [(text() + "?", text() + "？?") for _ in range(2000)]
    columns: dict[str, list[object]] = {"row": list(range(len(sides)))}
    columns |= {name: [side[n] for side in sides] for n, name in enumerate(("source", "target"))}
    questions = question_pairs(pa.table(columns), *languages)
    expected = [
        {"row": row, "source": kept[0], "target": kept[1]}
        for row, side in enumerate(sides)
        if (kept := question_pair(*side, *languages))
    ]
    assert 50 < len(expected) < 1900
    assert questions.to_pylist() == expected


def test_unequal_lengths_are_told_apart_from_short_ones() -> None:
    source, target = np.array([[31, 10], [30, 10], [1, 6], [1, 7], [7, 1]]).T
    assert lengths_too_unequal(source, target, 3.0).tolist() == [True, False, False, True, True]
    assert not lengths_too_unequal(np.array([1]), np.array([1000]), 0).any()


def test_a_tally_keeps_the_lowest_line_numbers_in_whatever_order_parts_arrive() -> None:
    parts = [Tally(), Tally(), Tally()]
    for number, rows in enumerate(([10, 11], [0, 5, 6, 7], [2])):
        for row in rows:
            parts[number].add("blank", 1, [row + 1])
    forwards, backwards = Tally(), Tally()
    for part in parts:
        forwards.merge(part)
    for part in reversed(parts):
        backwards.merge(part)
    assert forwards == backwards
    assert forwards.as_dict() == {"blank": {"pairs": 7, "first_lines": [1, 3, 6]}}


def read_all(path: Path, block_bytes: int, longest: int = 100) -> list[list[bytes]]:
    """For each line, all lines from it to the end, read through an index."""
    place, size = locate(path), path.stat().st_size
    feeds = [lines.count_line_feeds(place, at, block_bytes) for at in range(0, size, block_bytes)]
    index = lines.build_index(place, block_bytes, size, feeds)
    return [
        [
            text
            for some in lines.read_lines(place, index.start_of(line), index.lines - line, longest)
            for text in some
        ]
        for line in range(index.lines)
    ]


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_any_range_of_lines_is_read_whatever_the_block_size(
    tmp_path: Path, block_bytes: int, end: bytes
) -> None:
    content = b"one\n\n\nfour\r\nf\xc3\xa9\xe2\x80\xa8ve\n" + b"x" * 30 + b"\nlast" + end
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    body = content.removesuffix(b"\n") if content.endswith(b"\n") else content
    expected = [line.removesuffix(b"\r") for line in body.split(b"\n")]
    assert read_all(path, block_bytes) == [expected[n:] for n in range(len(expected))]


def decoded(source: bytes, target: bytes, longest: int) -> tuple[str, str, str | None]:
    """Both texts and what is wrong with them, a pair at a time."""
    for name, line in (("source", source), ("target", target)):
        if len(line) > longest:
            return "", "", f"{name}_line_too_long"
    texts = []
    for name, line in (("source", source), ("target", target)):
        try:
            texts.append(line.decode().strip())
        except UnicodeDecodeError:
            return "", "", f"{name}_not_utf8"
    return (texts[0], texts[1], None) if all(texts) else ("", "", "blank")


@pytest.mark.parametrize(("read_bytes", "count"), [(7, 150), (64, 600), (1 << 20, 600)])
def test_pairs_of_odd_lines_are_those_that_are_decoded_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_bytes: int, count: int
) -> None:
    monkeypatch.setattr(lines, "READ_BYTES", read_bytes)
    draw = random.Random(5)
    pieces = [
        "a",
        " ",
        "\t",
        "\r",
        "\x0b",
        "\x1c",
        "\x85",
        "\u3000",
        "\u2028",
        "\ufeff",
        "é",
        "他",
        "🐈",
    ]
    odd = [*(piece.encode() for piece in pieces), b"\xff", b"\xed\xa0\x80", b"b" * 12]
    sides = [
        [b"".join(draw.choices(odd, k=draw.randint(0, 4))) for _ in range(count)] for _ in "ab"
    ]
    places = []
    for number, side in enumerate(sides):
        (tmp_path / f"{number}").write_bytes(b"\n".join(side) + b"\n")
        places.append(locate(tmp_path / f"{number}"))
    start = lines.Start(0, 0)
    tables = list(read_pairs((places[0], start), (places[1], start), range(7, count + 6), 15))
    bodies = [[line.removesuffix(b"\r") for line in side] for side in sides]
    bodies[0][0] = bodies[0][0].removeprefix(lines.BYTE_ORDER_MARK)
    bodies[1][0] = bodies[1][0].removeprefix(lines.BYTE_ORDER_MARK)
    expected = [
        (row, *decoded(source, target, 15))
        for row, (source, target) in enumerate(zip(*bodies, strict=True), 7)
    ][:-1]
    assert {row[3] for row in expected} > {"source_not_utf8", "target_line_too_long", "blank", None}
    assert [tuple(row.values()) for table in tables for row in table.to_pylist()] == expected


def test_reading_in_small_pieces_gives_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\ntwo\r\n\nfour")
    for size in (3, 4, 5, 8):
        monkeypatch.setattr(lines, "READ_BYTES", size)
        assert read_all(path, 4)[0] == [b"one", b"two", b"", b"four"]
        assert read_all(path, 4)[1] == [b"two", b"", b"four"]


def test_a_line_without_end_is_cut_instead_of_filling_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "READ_BYTES", 16)
    path = tmp_path / "a.txt"
    path.write_bytes(b"short\n" + b"x" * 1000 + b"\nten bytes!\r\n" + b"y" * 500)
    texts = read_all(path, 64, longest=10)[0]
    assert texts == [b"short", b"x" * 11, b"ten bytes!", b"y" * 11]


@pytest.mark.parametrize("at", range(8, 14))
def test_a_carriage_return_inside_does_not_make_a_long_line_short(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.txt"
    for end in (b"", b"\n"):
        path.write_bytes(b"x" * at + b"\r" + b"x" * 30 + end)
        assert len(read_all(path, 64, longest=10)[0][0]) > 10


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), ("héllo\n".encode("utf-16"), "is UTF-16")],
)
def test_files_that_are_no_text_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.txt: {message}"):
        lines.check_text_file(locate(path))


def test_gzip_of_several_members_is_unpacked_and_a_cut_one_is_refused(tmp_path: Path) -> None:
    packed, plain = tmp_path / "a.gz", tmp_path / "plain"
    content = gzip.compress(b"one\n" * 1000) + gzip.compress(b"two\n")
    packed.write_bytes(content)
    assert lines.decompress(locate(packed), locate(plain)) == 4004
    assert plain.read_bytes() == b"one\n" * 1000 + b"two\n"
    packed.write_bytes(content[:25])
    with pytest.raises(DataError, match=r"a\.gz: damaged or cut off"):
        lines.decompress(locate(packed), locate(plain))


def test_partitions_come_back_with_their_rows_in_order(tmp_path: Path) -> None:
    numbers = np.array([2, 0, 2, 0, 2])
    table = pa.table({"row": [1, 2, 3, 4, 5]})
    write_partitions(locate(tmp_path / "p"), table, numbers, 4)
    partitions = [read_partition(locate(tmp_path / "p"), n)["row"].to_pylist() for n in range(4)]
    assert partitions == [[2, 4], [], [1, 3, 5], []]


def test_the_length_at_a_percentile_is_numpys() -> None:
    draw = np.random.default_rng(0)
    for size in (1, 2, 3, 10, 101, 1000):
        lengths = draw.integers(2, 60, size)
        for percentage in (0.5, 50, 90, 97, 99, 100):
            expected = int(np.percentile(lengths, percentage))
            assert percentile_length(np.bincount(lengths), percentage) == expected


def test_sources_that_may_become_the_same_tokens_share_a_hash() -> None:
    variants = ["Don't  go!", "don’t go !", "DO N'T GO!", "don't\u00a0go!"]
    assert len(set(hash_sources(variants, 0).tolist())) == 1
    first, second = hash_sources(["Don't go!", "Don't go"], 0)
    assert first != second
    assert hash_sources(["a"], 0) != hash_sources(["a"], 1)
    assert hash_pairs(["a"], ["b"]) != hash_pairs(["A"], ["b"])


def test_the_split_takes_its_share_and_does_not_change() -> None:
    hashes = hash_sources([f"line {n}" for n in range(20_000)], 0)
    taken = in_validation_split(hashes, 0.1)
    assert 1800 < taken.sum() < 2200  # six standard deviations of 42 around 2000, and some
    assert hashes[:2].tolist() == [16992021647879574413, 5884983976914850361]


def test_the_most_frequent_words_are_exact() -> None:
    counts = {f"w{n:03d}": (n * 7919) % 50 for n in range(200)}
    expected = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]
    assert most_frequent(counts, 20) == expected


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(
    "write", [write_parquet, lambda to, table: write_partitions(to, table, np.array([0]), 1)]
)
def test_a_full_disk_is_a_clear_message(
    tmp_path: Path, write: Callable[[Location, pa.Table], None]
) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # pyarrow removes what it failed to write: only this link
    with pytest.raises(StorageError, match="full: the disk is full"):
        write(locate(full), pa.table({"row": [1]}))

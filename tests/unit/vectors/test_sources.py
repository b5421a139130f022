"""Files of word vectors in forms of their own: read as what they are, or refused with a reason."""

import bz2
import gzip
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs import build_vectors
from seqvis.errors import DataError
from seqvis.vectors.build import build_store
from seqvis.vectors.sources import open_source
from seqvis.vectors.store import WordVectors
from tests.unit.conftest import Job

RunJob = Callable[..., tuple[int, dict[str, Any], str]]
WORDS = ["la", "gare", "\u00e9t\u00e9", "1\u00a0000", "New_York"]
FRENCH = "Tr\u00e8s \u00e2g\u00e9e, la s\u0153ur d\u2019\u00c9mile dort.\n"


@pytest.fixture
def output(job: Job) -> RunJob:
    return partial(job, build_vectors.main)


def matrix(dimension: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(len(WORDS), dimension)).astype(np.float32)


def text_of(vectors: np.ndarray, between: str, after: str = "", header: bool = True) -> str:
    lines = [
        word + between + between.join(map(str, row.tolist())) + after
        for word, row in zip(WORDS, vectors, strict=True)
    ]
    first = [f"{len(WORDS)}{between}{vectors.shape[1]}"] if header else []
    return "".join(line + "\n" for line in [*first, *lines])


def word2vec(vectors: np.ndarray, end: bytes = b"\n", words: list[str] = WORDS) -> bytes:
    """As Mikolov's program writes it, with a line feed after each vector; gensim writes none."""
    entries = (
        word.encode() + b" " + row.astype("<f4").tobytes() + end
        for word, row in zip(words, vectors, strict=True)
    )
    return f"{len(words)} {vectors.shape[1]}\n".encode() + b"".join(entries)


def build(path: Path, form: str) -> WordVectors:
    out = path.with_name("store")
    build_store(open_source(form, str(path)), str(out), {})
    return WordVectors.open(str(out))


def refused(path: Path, form: str) -> str:
    with pytest.raises(DataError) as caught:
        build(path, form)
    assert not path.with_name("store").exists()
    return str(caught.value)


@pytest.mark.parametrize("between", [" ", "\t", "  ", " \t"])
@pytest.mark.parametrize("form", ["vec", "glove"])
def test_numbers_may_stand_between_any_white_space(form: str, between: str, tmp_path: Path) -> None:
    for dimension, after in itertools.product((2, 7), ("", " ", "\t", "\r", " \r")):
        content = text_of(matrix(dimension), between, after, header=form == "vec")
        folder = tmp_path / f"{dimension}{after!r}"
        folder.mkdir()
        (folder / "x").write_text(content, encoding="utf-8", newline="")
        store = build(folder / "x", form)
        assert list(store.words()) == WORDS
        np.testing.assert_array_equal(store.find(WORDS)[0], matrix(dimension))


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("\ufeff" + text_of(matrix(3), " "), encoding="utf-8")
    assert list(build(tmp_path / "x", "vec").words()) == WORDS


def test_words_of_several_parts_do_not_change_the_dimension(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(". . . 1 2\nat name@domain.com 3 4\nof 5 6\n, 7 8\n")
    store = build(tmp_path / "x", "glove")
    assert list(store.words()) == [". . .", "at name@domain.com", "of", ","]
    assert store.dimension == 2


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("dimension", [1, 2, 50])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
def test_word2vecs_binary_form_comes_back_number_by_number(
    end: bytes, dimension: int, pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    (tmp_path / "x.bin").write_bytes(pack(word2vec(matrix(dimension), end)))
    store = build(tmp_path / "x.bin", "vec")
    assert list(store.words()) == WORDS
    np.testing.assert_array_equal(store.find(WORDS)[0], matrix(dimension))


def test_a_large_binary_file_is_read_across_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).normal(size=(9000, 5)).astype(np.float32)
    words = [f"w{number}" for number in range(9000)]
    (tmp_path / "x").write_bytes(word2vec(vectors, b"\n", words))
    monkeypatch.setattr("seqvis.vectors.binary.READ_BYTES", 100)
    store = build(tmp_path / "x", "vec")
    assert list(store.words()) == words
    np.testing.assert_array_equal(store.find(words)[0], vectors)


def test_a_binary_file_of_another_length_than_it_says_is_refused(tmp_path: Path) -> None:
    path, content = tmp_path / "x", word2vec(matrix(4))
    path.write_bytes(content[:-6])
    assert "is cut off: its first line promises 5 words, it has 4" in refused(path, "vec")
    path.write_bytes(content + content[4:])
    assert "goes on after the 5 words with 4 numbers" in refused(path, "vec")
    path.write_bytes(content)
    assert "is not a fastText .bin file" in refused(path, "fasttext")
    assert "word2vec's binary form, needs --format vec" in refused(path, "fasttext")


def test_text_in_a_small_dimension_is_not_taken_for_binary(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes("2 2\nla 1 2\n\u00e9t\u00e9 3 4\n".encode())
    assert build(path, "vec").dimension == 2
    path.write_bytes("2 2\nla 1 2\n\u00e9t\u00e9 3 4\n".encode("latin-1"))
    with pytest.raises(DataError, match="not utf8: 1, first line 3"):
        build_store(open_source("vec", str(path)), str(tmp_path / "other"), {})


@pytest.mark.parametrize(
    ("form", "content", "complaint"),
    [
        ("vec", "3 4\na 1 2 3\nb 1 2 3\nc 1 2 3\n",
         "line 2 has 3 numbers after its word, but line 1 gives the dimension 4; correct line 1 "
         "to 3 3"),
        ("vec", "3 2\na 1 2 3\nb 1 2 3\nc 1 2 3\n", "correct line 1 to 3 3"),
        ("vec", "2 2\na,1,2\nb,1,2\n", "a word and numbers between spaces or tabs are expected"),
        ("vec", "2 2\na 1,5 2,5\nb 1,5 2,5\n", "found 'a 1,5 2,5'"),
        ("vec", "a\t1\t2\n", "for a file without that line use --format glove"),
        ("glove", "a,1,2\nb,1,2\n", "is not a GloVe file"),
        ("glove", "a;1;2\nb;1;2\n", "found 'a;1;2'"),
        ("vec", "0 2\n", "the source holds no word vectors"),
    ],
)  # fmt: skip
def test_another_form_is_refused_with_the_line_and_what_was_expected(
    form: str, content: str, complaint: str, tmp_path: Path
) -> None:
    (tmp_path / "x.txt").write_text(content)
    message = refused(tmp_path / "x.txt", form)
    assert complaint in message
    assert "x.txt: " in message or content == "0 2\n"


@pytest.mark.parametrize("form", ["vec", "glove"])
@pytest.mark.parametrize(
    ("encoding", "complaint"),
    [("utf-16", "is UTF-16"), ("cp1252", "as CP1252 it reads"), ("koi8-r", "as KOI8-R it reads")],
)
def test_vectors_in_another_encoding_are_refused(
    form: str, encoding: str, complaint: str, tmp_path: Path
) -> None:
    words = {
        "cp1252": ["tr\u00e8s", "s\u0153ur", "\u00e2g\u00e9e", "la"],
        "koi8-r": ["где", "находится", "библиотека", "кто", "это", "сделал"],
    }.get(encoding, WORDS)
    text = (f"{len(words)} 3\n" if form == "vec" else "") + "".join(
        f"{word} 0.5 1 2\n" for word in words
    )
    (tmp_path / "x.txt").write_bytes(text.encode(encoding))
    assert complaint in refused(tmp_path / "x.txt", form)


def test_archives_and_compressed_models_name_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "glove.zip").write_bytes(b"PK\x03\x04" + bytes(60))
    assert "glove.zip: is a zip archive" in refused(tmp_path / "glove.zip", "glove")
    assert "compressed (zip): unpack it first" in refused(tmp_path / "glove.zip", "fasttext")
    (tmp_path / "cc.bin.gz").write_bytes(gzip.compress(bytes(100)))
    assert "compressed (gzip): unpack it first" in refused(tmp_path / "cc.bin.gz", "fasttext")


def test_vectors_that_are_not_finite_and_repeated_words_are_reported(
    tmp_path: Path, output: RunJob
) -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    vectors[7, 1], vectors[8, 2] = np.nan, np.inf
    words = [f"w{number}" for number in range(300)]
    words[20] = words[21] = "w3"
    path = tmp_path / "x.bin"
    path.write_bytes(word2vec(vectors, b"", words))
    flags = ["--format", "vec", "--input", path]
    code, result, _ = output(*flags, "--out", tmp_path / "a")
    assert code == 0
    assert result["left_out"] == {"not_finite": {"entries": 2, "first": ["w7", "w8"]}}
    assert (result["skipped"], result["duplicates"], result["words"]) == (2, 2, 296)
    store = WordVectors.open(str(tmp_path / "a"))
    np.testing.assert_array_equal(store.vector("w3"), vectors[3])
    code, _, errors = output(*flags, "--out", tmp_path / "b", "--max-bad-share", "0.005")
    assert code == 1
    assert "x.bin: 2 of 300 entries have no usable vector (not finite: 2, first w7, w8)" in errors


def test_training_refuses_text_in_another_encoding(tmp_path: Path, output: RunJob) -> None:
    path = tmp_path / "text"
    flags = ["--language", "fr", "--dimension", "2", "--min-count", "1", "--out", tmp_path / "out"]
    for content, complaint in {
        (FRENCH * 9).encode("cp1252"): "as CP1252 it reads",
        (FRENCH * 9).encode("utf-16"): "is UTF-16",
        (FRENCH * 9).encode("utf-16-le"): "is UTF-16LE",
        b"PK\x03\x04" + bytes(60): "is a zip archive",
        FRENCH.encode().replace(b"\n", b"\r") * 9: "carriage returns alone",
        bytes(range(256)) * 9: "is a binary file",
        b"": "is empty",
        gzip.compress(FRENCH.encode() * 999)[:-9]: "damaged or cut off gzip file",
    }.items():
        path.write_bytes(content)
        code, _, errors = output("--train-on", path, *flags)
        assert code == 1
        assert f"{path}: " in errors
        assert complaint in errors
        assert not (tmp_path / "out").exists()
    (tmp_path / "text.gz").write_bytes(FRENCH.encode())
    code, _, errors = output("--train-on", tmp_path / "text.gz", *flags)
    assert code == 1
    assert "text.gz: is not a gzip file, as its name says" in errors


def test_the_correlation_of_two_words_is_told(output: RunJob, tmp_path: Path) -> None:
    vectors, out = matrix(5), tmp_path / "store"
    (tmp_path / "x").write_text(text_of(vectors, " "), encoding="utf-8")
    made = ["--format", "vec", "--input", tmp_path / "x", "--out", out]
    code, result, error = output(*made, "--correlate", "la,gare")
    assert code == 0, error
    first = np.corrcoef(vectors[0], vectors[1])[0, 1]
    assert result["correlations"] == {"la,gare": pytest.approx(first, abs=1e-4)}
    code, result, error = output("--out", out, "--correlate", "été, la", "--correlate", "la,la")
    assert code == 0, error
    second = np.corrcoef(vectors[2], vectors[0])[0, 1]
    expected = {"été,la": pytest.approx(second, abs=1e-4), "la,la": 1.0}
    assert result["correlations"] == expected
    code, _, error = output("--out", out, "--correlate", "la,gares")
    assert (code, "has no vector for gares" in error) == (1, True)
    code, _, error = output("--out", out, "--correlate", "la")
    assert (code, "needs two words with a comma between" in error) == (2, True)

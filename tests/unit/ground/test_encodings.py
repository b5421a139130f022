"""Files that are no UTF-8 text: every reader refuses them with what they are and the remedy."""

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from seqvis import encodings
from seqvis.config import load_yaml, read_yaml
from seqvis.corpus.inputs.aligned import index_files, read_pairs
from seqvis.devise.data import read_labels
from seqvis.errors import ConfigError, DataError
from seqvis.storage import locate
from seqvis.text.lines import Start, lines_at_hand, read_sentences, read_text
from seqvis.vectors.build import read_wanted_words
from seqvis.vision.listing import list_images

TEXTS = {
    "fr": "Où est la façade de l’élève ? Elle paraît très âgée.\nSa sœur dit « oui ».\n",
    "de": "Die Straße führt über die Brücke.\nÄrger mit Öl und größere Füße.\n",
    "pl": "Gdzie jest książka? Źródło światła świeci żółto.\nŁódź leży w Polsce.\n",
    "ru": "Где находится библиотека?\nЯ не знаю, кто это сделал.\n",
    "el": "Πού είναι η βιβλιοθήκη;\nΔεν ξέρω ποιος το έκανε.\n",
    "zh": "我爱你。图书馆在哪里？\n\u3000\u3000今天天气很好，我们去公园吧。\n",
    "ja": "図書館はどこですか。\n今日は天気がいいですね。カタカナも書きます。\n",
    "ko": "도서관이 어디에 있습니까?\n오늘은 날씨가 좋습니다.\n",
}


def packed(form: str, content: bytes) -> bytes:
    if form in ("zstd", "lz4"):
        out = pa.BufferOutputStream()
        with pa.CompressedOutputStream(out, form) as stream:
            stream.write(content)
        return bytes(out.getvalue())
    return {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[form](content)


def archive(form: str, content: bytes) -> bytes:
    out = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(out, "w") as file:
            file.writestr("a.txt", content)
    else:
        with tarfile.open(fileobj=out, mode="w") as tar:
            member = tarfile.TarInfo("a.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises((DataError, ConfigError)) as caught:
        read()
    return str(caught.value)


READERS: dict[str, Callable[[Path], object]] = {
    "sentences": lambda path: list(read_sentences(locate(path))),
    "a whole text": lambda path: read_text(locate(path)),
    "a corpus": lambda path: index_files(locate(path), locate(path), locate(path.parent / "s")),
    "labels": lambda path: read_labels(str(path)),
    "words": lambda path: read_wanted_words(str(path), None),
    "a table of pictures": lambda path: list_images(locate(path)),
    "a preset": lambda path: read_yaml(str(path)),
    "a file of keys": lambda path: load_yaml(str(path)),
    "standard input": lambda path: list(lines_at_hand(io.BytesIO(path.read_bytes()), path.name, 9)),
}
NOT_TEXT = {
    "UTF-16": (TEXTS["fr"].encode("utf-16"), "is UTF-16; convert it: iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without a mark": (TEXTS["ru"].encode("utf-16-be"), "is UTF-16BE; convert it"),
    "UTF-32": (TEXTS["de"].encode("utf-32"), "is UTF-32; convert it"),
    "a zip archive": (archive("zip", b"a\n"), "is a zip archive"),
    "a tar archive": (archive("tar", b"a\n"), "is a tar archive"),
    "a database": (b"SQLite format 3\0" + bytes(100), "is a binary file"),
    "a file of compress": (b"\x1f\x9d\x90abc\n", "is an archive"),
    "a PDF": (b"%PDF-1.7\nabc\n", "is a document"),
    "a picture": (b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(32)) * 20, "is a binary file"),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_says_what_a_file_is_that_is_no_text(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    for content, message in NOT_TEXT.values():
        path.write_bytes(content)
        said = refusal(lambda: READERS[reader](path))
        assert "file.txt" in said
        assert message in said


@pytest.mark.parametrize("reader", ["sentences", "a corpus", "standard input"])
def test_the_lines_of_old_macs_are_refused_with_the_command(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(b"one\rtwo\r")
    message = refusal(lambda: READERS[reader](path))
    assert "file.txt: its lines end in carriage returns alone, as on old Macs" in message
    assert r"tr '\r' '\n' < in.txt > out.txt" in message
    for content in (b"only one\r", b"a\rb\n"):  # here line feeds separate lines
        path.write_bytes(content)
        if reader != "a corpus":  # which would start Ray
            READERS[reader](path)


@pytest.mark.parametrize("reader", [name for name in READERS if name != "a corpus"])
def test_every_reader_names_the_line_and_the_encoding_of_text_that_is_not_utf8(
    reader: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes("uri\ntr\u00e8s \u201cnoir\u201d\n".encode("cp1252"))
    message = refusal(lambda: READERS[reader](path))
    assert "file.txt: " in message
    assert "line 2 is not valid UTF-8; as CP1252 it reads " in message
    assert "tr\u00e8s" in message
    assert "iconv -f CP1252 -t UTF-8" in message


@pytest.mark.parametrize("form", ["gzip", "bz2", "xz", "zstd", "lz4"])
def test_compressed_text_is_read_by_its_content_and_checked_like_plain_text(
    form: str, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    whole = packed(form, ("\ufeff" + TEXTS["fr"]).encode())
    path.write_bytes(whole + packed(form, b"last\n"))  # as `cat` joins compressed files
    assert list(read_sentences(locate(path))) == [*TEXTS["fr"].splitlines(), "last"]
    path.write_bytes(packed(form, TEXTS["fr"].encode("utf-16")))
    assert "text: is UTF-16" in refusal(lambda: list(read_sentences(locate(path))))
    path.write_bytes(packed(form, TEXTS["fr"].encode("cp1252")))
    assert "line 1 is not valid UTF-8" in refusal(lambda: list(read_sentences(locate(path))))
    path.write_bytes(packed(form, b""))
    assert "text: is empty" in refusal(lambda: list(read_sentences(locate(path))))
    path.write_bytes(packed(form, archive("tar", b"a\n")))
    assert "text: is a tar archive" in refusal(lambda: list(read_sentences(locate(path))))
    path.write_bytes(whole[:-6])
    assert f"text: damaged or cut off {form} file" in refusal(
        lambda: list(read_sentences(locate(path)))
    )


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_name_that_promises_compression_must_keep_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.fr{suffix}"
    path.write_bytes(b"<html>Not found</html>\n")
    assert f"a.fr{suffix}: is not a" in refusal(lambda: list(read_sentences(locate(path))))
    path.write_bytes(packed("gzip", b"one\n"))  # another form than the name says is read
    assert list(read_sentences(locate(path))) == ["one"]


@pytest.mark.parametrize("content", [b"", encodings.BYTE_ORDER_MARK])
@pytest.mark.parametrize("reader", ["sentences", "a whole text", "a corpus", "labels", "words"])
def test_an_empty_file_is_named(reader: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "nothing"
    path.write_bytes(content)
    assert "nothing: is empty" in refusal(lambda: READERS[reader](path))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("times", [1, 2000])
def test_wide_text_without_a_mark_is_known_by_its_bytes(encoding: str, times: int) -> None:
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    for text in TEXTS.values():
        head = (text * times).encode(encoding)[: encodings.HEAD_BYTES - 1]
        assert f"x: is {name}; " in refusal(partial(encodings.check_text, head, "x"))


@pytest.mark.parametrize("language", TEXTS)
def test_text_in_utf8_passes_whatever_its_language(language: str) -> None:
    content = (TEXTS[language] * 3).encode()
    assert encodings.decode(content, "x") == TEXTS[language] * 3
    encodings.check_text(content[:50], "x")  # cut within a character


@pytest.mark.parametrize(
    ("language", "encoding", "name"),
    [
        ("fr", "cp1252", "CP1252"),
        ("de", "latin-1", "CP1252"),  # which has all of Latin-1 and the marks at 80 to 9F too
        ("fr", "mac_roman", "MACINTOSH"),
        ("de", "cp850", "CP850"),
        ("pl", "cp1250", "CP1250"),
        ("pl", "iso8859-2", "ISO-8859-2"),
        ("ru", "cp1251", "CP1251"),
        ("ru", "koi8-r", "KOI8-R"),
        ("el", "cp1253", "CP1253"),
        ("zh", "gbk", "GB18030"),
        ("ja", "shift_jis", "CP932"),
        ("ja", "euc_jp", "EUC-JP"),
        ("ko", "cp949", "CP949"),
    ],
)
def test_the_advice_names_the_encoding_in_which_the_bytes_are_words(
    language: str, encoding: str, name: str
) -> None:
    bad = encodings.BadLines()
    for line in TEXTS[language].encode(encoding, "replace").split(b"\n"):
        bad.decode(line)
    assert f"as {name} it reads" in bad.advice()
    assert f"iconv -f {name} -t UTF-8" in bad.advice()


def test_japanese_mail_encoding_is_known_though_its_bytes_are_ascii() -> None:
    content = TEXTS["ja"].encode("iso2022_jp")
    assert "is ISO-2022-JP; " in refusal(lambda: encodings.decode(content, "x"))


def test_one_damaged_line_among_utf8_is_not_a_matter_of_conversion() -> None:
    content = TEXTS["fr"].encode() * 3 + b"caf\xe9\n"
    assert "line 7 is not valid UTF-8; other lines are in UTF-8, which a conversion" in refusal(
        lambda: encodings.decode(content, "x")
    )


def test_bytes_that_make_no_words_get_no_guess() -> None:
    bad = encodings.BadLines()
    bad.decode(b"a\x81\x8d\xffb \xff\xfe\x01 q\x90r")
    assert "its encoding is not known" in bad.advice()


def test_nul_bytes_within_text_are_bad_lines(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"one\ntwo\0\nthree\n")
    place, start = locate(tmp_path / "a"), Start(0, 0)
    message = refusal(lambda: list(read_sentences(place)))
    assert "line 2 is not valid UTF-8; it holds NUL bytes" in message
    [table] = read_pairs((place, start), (locate(tmp_path / "b"), start), range(3), 100)
    assert table["problem"].to_pylist() == [None, "source_not_utf8", None]


def test_lists_are_read_with_a_mark_dos_line_ends_and_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes("\ufeffcaf\u00e9\r\nice\u2028cream\r\n# note\r\n\r\ndog".encode())
    assert read_labels(str(path)) == ["caf\u00e9", "ice\u2028cream", "dog"]
    path.write_bytes("\ufeffcaf\u00e9\r\ndog\r\n".encode())
    assert read_wanted_words(str(path), None).words == ("caf\u00e9", "dog")
    path.write_bytes(b"cat\rdog\r")
    assert read_labels(str(path)) == ["cat", "dog"]
    assert read_wanted_words(str(path), None).words == ("cat", "dog")
    path.write_bytes(b"epochs: 3\rseed: 4\r")
    assert read_yaml(str(path)) == {"epochs": 3, "seed": 4}


def test_a_table_of_pictures_may_be_compressed_and_parquet_needs_no_suffix(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    plain = "\ufeffuri,label\na.png,caf\u00e9\n".encode()
    (tmp_path / "table.csv.gz").write_bytes(gzip.compress(plain))
    pq.write_table(pa.table({"uri": ["a.png"], "label": ["caf\u00e9"]}), tmp_path / "table")
    for name in ("table.csv.gz", "table"):
        table = list_images(locate(tmp_path / name)).table
        assert table["path"].to_pylist() == ["a.png"]
        assert table["label"].to_pylist() == ["caf\u00e9"]
